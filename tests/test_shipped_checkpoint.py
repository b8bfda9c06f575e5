"""Shipped weights: samples keep their digit, and the runs on a model card are valid."""

import re
from pathlib import Path

import numpy as np
import pytest

from configs import pusht
from configs.moving_digits import get_config
from vdm.checks import validate
from vdm.configuration.resolve import override
from vdm.evaluation.digit_persistence import digit_classifier
from vdm.exported import load_exported, load_exported_config
from vdm.parallel.mesh import make_mesh
from vdm.sampling.conditions import describe_conditions
from vdm.sampling.generate import make_generator
from vdm.training.compatibility import check_same_model

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "moving_digits.safetensors"


@pytest.mark.slow
def test_samples_keep_the_requested_digit():
    config = get_config()
    saved, step = load_exported_config(SHIPPED)
    check_same_model(config, saved, SHIPPED)
    assert step == saved["training"]["num_steps"]
    config.sample.batch_size = 32
    indices = range(32)
    params = load_exported(SHIPPED)
    videos = make_generator(config, make_mesh(config))(params, indices)
    labels = describe_conditions(config, indices)["label"]
    seen = digit_classifier().digits_seen(videos)
    kept = (seen == np.asarray(labels)[:, None]).sum(axis=1) >= 14
    assert kept.mean() > 0.6


def test_the_runs_on_the_card_of_pusht_are_valid_and_the_last_one_is_that_of_the_weights():
    page = (SHIPPED.parent / "pusht.md").read_text()
    table = page.partition("| run | steps |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert len(rows) == 9
    options: list[tuple[str, str]] = []
    for _, steps, learning_rate, text in rows:
        before = options[:3] if text.startswith("the first three options of the run before") else []
        options = before + re.findall(r"`([\w.]+)=([^`]+)`", text)
        rate = learning_rate.partition(",")[0]
        config = override(pusht.get_config(), {"training.learning_rate": rate, **dict(options)})
        validate(config)
        if "training.num_steps" in dict(options):
            assert config.training.num_steps == int(steps.replace(",", ""))
    saved, step = load_exported_config(SHIPPED.parent / "pusht.safetensors")
    assert step == config.training.num_steps
    for name in ("num_steps", "learning_rate", "warmup_steps", "decay_steps", "batch_size"):
        assert saved["training"][name] == config.training[name], name
    assert saved["diffusion"]["log_snr_shift"] == config.diffusion.log_snr_shift
