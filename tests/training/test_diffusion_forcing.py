"""A run with one noise level per frame: its objective, its samples, and what is refused."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.restored import newest_state
from vdm.build import init_params, make_model
from vdm.checks import check_task, validate
from vdm.configuration.stored import from_record
from vdm.data.datasets import make_data_set
from vdm.parallel.mesh import make_mesh
from vdm.sampling.generate import make_generator
from vdm.training.compatibility import check_same_model
from vdm.training.loop import train
from vdm.training.objective import make_objective
from vdm.training.step import join_images
from vdm.video.pixels import to_uint8

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def forcing_config(tiny_config):
    tiny_config.diffusion.update(frame_times="independent", time_sampling="stratified")
    tiny_config.sample.update(task="predict", conditioning="diffusion_forcing", num_videos=2)
    tiny_config.sample.batch_size = 2
    validate(tiny_config)
    check_task(tiny_config)
    return tiny_config


def _random_params(config):
    def draw(leaf):
        return leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape)

    return jax.tree.map(draw, jax.jit(partial(init_params, config))())


def test_each_frame_and_image_of_a_batch_has_its_own_noise_level(forcing_config):
    config = forcing_config
    config.model.update(dropout=0.0, dtype="float32")
    objective, params = make_objective(config), _random_params(config)
    batch = jax.tree.map(jnp.asarray, dict(make_data_set(config, "train").batch(0, 4)))
    x = join_images(batch)
    batch, draws = objective.draw(jax.random.key(0), batch, x.shape)
    noise, log_snr = draws
    assert log_snr.shape == x.shape[:2] == (4, 4 + config.data.num_images)
    loss = jax.jit(objective.loss)(params, None, batch, x, draws, jax.random.key(1))

    alpha, sigma = (jax.nn.sigmoid(s * log_snr)[..., None, None, None] ** 0.5 for s in (1, -1))
    prediction = jax.jit(
        lambda z: make_model(config).apply(
            {"params": params}, z, log_snr, batch, num_images=config.data.num_images
        )
    )(alpha * x + sigma * noise)
    assert config.diffusion.target == "v"
    expected = jnp.square(prediction - (alpha * noise - sigma * x)).mean((1, 2, 3, 4))
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_a_resumed_run_changes_no_bit(forcing_config, tmp_path):
    config = forcing_config
    config.training.update(num_steps=2, checkpoint_every=1, log_every=2)
    train(config, tmp_path / "whole", preview=None)
    config.training.num_steps = 1
    train(config, tmp_path / "parts", preview=None)
    config.training.num_steps = 2
    train(config, tmp_path / "parts", preview=None)
    states = [newest_state(config, tmp_path / name) for name in ("whole", "parts")]
    assert int(states[0].step) == 2 and np.isfinite(states[0].metric_sums["loss"])
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_predicts_from_observed_frames_with_and_without_history_guidance(forcing_config):
    config, params = forcing_config, _random_params(forcing_config)
    config.data.num_images = 0
    source = make_data_set(config, "test")
    real = to_uint8(np.stack([source.example(i)["video"] for i in range(2)]))
    videos = []
    for options in (
        {},
        {"history_guidance_weight": 2.0},
        {"history_guidance_weight": 2.0, "history_guidance_noise": 0.5},
        {"context_noise": 0.3},
    ):
        config.sample.update(
            history_guidance_weight=1.0, history_guidance_noise=0.0, context_noise=0.0
        )
        config.sample.update(options)
        videos.append(make_generator(config, make_mesh(config))(params, range(2)))
        np.testing.assert_array_equal(videos[-1][:, 0], real[:, 0])
    for index, video in enumerate(videos):
        for other in videos[:index]:
            assert (video[:, 1:] != other[:, 1:]).any()


def test_other_models_are_refused(tiny_config):
    config = tiny_config
    config.sample.update(task="extend", conditioning="diffusion_forcing")
    config.extend.update(overlap=1, stride=1)
    expected = (
        "config.sample.conditioning is 'diffusion_forcing', and must be one of 'reconstruction', "
        "'replacement', 'replacement_posterior', 'repaint', since config.diffusion.frame_times is "
        "'shared': the model was not trained with one noise level per frame"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        check_task(config)
    config.sample.task = "generate"  # observes no frames
    check_task(config)

    # Weights keep the choice of their training: an option does not change it.
    trained = config.copy_and_resolve_references()
    config.diffusion.frame_times = "independent"
    with pytest.raises(ValueError, match=r"frame_times is 'shared', and this configuration has 'i"):
        check_same_model(config, trained, "model.safetensors")

    config.diffusion.frame_times = "own"
    with pytest.raises(ValueError, match=r"times is 'own', and must be one of 'shared', 'indep"):
        validate(config)


def test_stored_configurations_without_the_field_have_shared_times(tiny_config):
    record = json.loads(tiny_config.to_json_best_effort())
    del record["diffusion"]["frame_times"], record["sample"]["history_guidance_weight"]
    config = from_record(record, "an old file")
    assert config.diffusion.frame_times == "shared"
    assert config.sample.history_guidance_weight == 1.0
