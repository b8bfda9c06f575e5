"""Prediction driven by per-frame actions, from the data to the samples."""

import json

import jax
import numpy as np
import pytest

from tests.data.pusht.drawn import draw_numbered, prepare
from vdm.checks import check_task, validate
from vdm.config import default_config
from vdm.configuration.resolve import override
from vdm.configuration.stored import from_record
from vdm.data.datasets import make_data_set
from vdm.parallel.mesh import make_mesh
from vdm.parallel.rows import shard_batch
from vdm.preflight import check
from vdm.sampling.conditions import conditions, describe_conditions
from vdm.sampling.generate import make_generator
from vdm.sampling.preview import make_preview
from vdm.training.state import init_state
from vdm.training.step import make_train_step


@pytest.fixture
def config(tiny_config, monkeypatch, tmp_path):
    """The tiny configuration on numbered clips of PushT, whose actions are (clip, frame) / 100."""
    draw_numbered(monkeypatch)
    prepare(tmp_path / "clips")
    config = tiny_config
    config.data.update(name="pusht", path=str(tmp_path / "clips"), channels=3, condition="action")
    config.data.num_images = 2
    config.model.action_width = 2
    config.sample.task = "predict"
    return config


def test_actions_come_from_the_configuration_or_held_out_clips(config):
    config.sample.per_example = 2
    found = conditions(config, [0, 1, 2, 3])
    expected = [[(clip / 100, frame / 100) for frame in range(4)] for clip in (0, 0, 1, 1)]
    np.testing.assert_allclose(found["action"], expected, rtol=1e-6)
    assert found["action_mask"].shape == (4, 4) and found["action_mask"].all()
    config = override(config, {"sample.action": "(-1, 0.5)"})
    validate(config)
    found = conditions(config, [7, 8])["action"]
    np.testing.assert_array_equal(found, np.tile(np.float32([-1, 0.5]), (2, 4, 1)))
    np.testing.assert_array_equal(describe_conditions(config, [7, 8])["action"], found)


@pytest.mark.parametrize("task", ["predict", "generate"])
@pytest.mark.usefixtures("quick_compilation_once")
def test_samples_follow_actions_and_guidance(config, task):
    config.sample.task = task
    mesh = make_mesh(config, jax.devices()[:1])
    state = init_state(config)
    state = make_train_step(config, mesh)(
        state, shard_batch(mesh, make_data_set(config, "train").batch(0, 4), 4)
    )
    assert np.isfinite(float(state.metric_sums["loss"]))
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), state.params
    )
    samples = {}
    for weight in (0.0, 1.0, 3.0):
        config.sample.guidance_weight = weight
        generator = make_generator(config, mesh)
        for action in ((-1.0, 0.0), (1.0, 0.0)):
            config.sample.action = action
            samples[weight, action[0]] = generator(params, [0, 1])
    first = next(iter(samples.values()))[:, 0]
    for video in samples.values():
        assert video.shape == (2, 4, 8, 8, 3)
        if task == "predict":
            np.testing.assert_array_equal(video[:, 0], first)
    np.testing.assert_array_equal(samples[0.0, -1.0], samples[0.0, 1.0])
    assert (samples[1.0, -1.0] != samples[1.0, 1.0]).any()
    assert (samples[3.0, 1.0] != samples[1.0, 1.0]).any()


@pytest.mark.usefixtures("quick_compilation_once")
def test_a_preview_has_the_mean_action_of_each_video(config):
    mesh = make_mesh(config, jax.devices()[:1])
    config.sample.update(num_videos=2, batch_size=2)
    text = make_preview(config, mesh)(init_state(config).params).text
    assert "- real, video 1: mean action [0.01 0.02]" in text
    config.sample.action = (0.5, -0.5)
    config.sample.guidance_weight = 2.0
    text = make_preview(config, mesh)(init_state(config).params).text
    assert "- samples, video 1: mean action [ 0.5 -0.5]" in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.action_width": 3}, r"config\.model\.action_width is 3, and must be 2 for the ac"),
        (
            {"data.name": "moving_digits", "data.path": ""},
            "'action', and 'moving_digits' has no actions",
        ),
        ({"data.augment_flip": True}, r"config\.data\.augment_flip is True, and must be False"),
        ({"data.frameskip": 2}, r"config\.data\.frameskip is 2, and must be 1"),
        (
            {"sample.action": (1.0,)},
            r"config\.sample\.action is \(1\.0,\), and must be empty, or 2",
        ),
        ({"sample.task": "extend"}, r"config\.sample\.task is 'extend', and must be generate"),
    ],
)
def test_errors_precede_any_writing(changes, sentence, config, tmp_path):
    config.update_from_flattened_dict(changes)
    config.extend.update(overlap=1, stride=1)
    with pytest.raises(ValueError, match=sentence):
        check(config, tmp_path / "workdir", "train")
    assert not (tmp_path / "workdir").exists()


def test_one_action_extends_videos_and_a_cascade_has_no_actions(config):
    config.sample.update(task="extend", action=(1.0, 0.0))
    config.extend.update(overlap=1, stride=1)
    check_task(config)
    config.sample.task = "cascade"
    config.cascade.base_checkpoint = "model.safetensors"
    with pytest.raises(
        ValueError, match=r"config\.sample\.task is 'cascade', and must be generate"
    ):
        check_task(config)


def test_records_without_the_fields_have_no_actions():
    record = json.loads(default_config().to_json_best_effort())
    del record["model"]["action_width"], record["sample"]["action"]
    config = from_record(record, "an older run")
    assert config.model.action_width == 0 and config.sample.action == ()
