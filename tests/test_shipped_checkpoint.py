"""The weights in checkpoints/ draw moving digits that stay the same digit."""

from pathlib import Path

import numpy as np
import pytest

from configs.moving_digits import get_config
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
