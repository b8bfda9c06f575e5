"""A warm start takes parameters by name and shape, and leaves the rest as they are."""

import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.moving_digits import get_config
from tests.training.restored import first_state, newest_state
from vdm.build import make_model, make_schedule, parameter_shapes
from vdm.configuration.stored import save_run_config
from vdm.data.datasets import make_data_set
from vdm.diffusion.loss import draw_noise, loss_given
from vdm.exported import export, load_exported
from vdm.parallel.mesh import make_mesh
from vdm.parallel.rows import shard_batch
from vdm.training.checkpoints import Checkpoints
from vdm.training.loop import train
from vdm.training.state import init_state, make_optimizer
from vdm.training.step import make_train_step
from vdm.training.warm_start import check_warm_start, match, merge

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "moving_digits.safetensors"
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def source(tiny_config_of_module, tmp_path_factory):
    """The workdir and the state of an unconditional run whose parameters are not its EMA."""
    workdir, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    config = tiny_config_of_module
    state = jax.tree.map(
        lambda leaf: jnp.array(rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(partial(init_state, config)),
    ).replace(step=jnp.array(7, jnp.int32))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state)
    checkpoints.close()
    save_run_config(workdir, config)
    return workdir, state


def test_merge_takes_equal_names_and_shapes():
    params = {"a": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)}, "new": np.zeros(1)}
    source = {"a": {"kernel": np.ones((2, 3)), "bias": np.ones(4)}, "old": np.ones(1)}
    merged = merge(params, source)
    assert merged["a"]["kernel"].sum() == 6
    assert merged["a"]["bias"] is params["a"]["bias"] and merged["new"] is params["new"]
    shapes = {"a/kernel": (2, 3), "a/bias": (3,), "new": (1,)}
    lines = list(match(shapes, {"a/kernel": (2, 3), "a/bias": (4,), "old": (1,)}).lines())
    assert lines == [
        "1 of 3 parameter arrays",
        "initial values, missing in the source: new",
        "initial values, of another shape in the source: a/bias (3,) (source (4,))",
        "not used, of the source alone: old",
    ]


def test_an_unconditional_run_starts_a_model_with_a_label_condition(source, tiny_config, capsys):
    workdir, trained = source
    unconditional = make_model(tiny_config)
    tiny_config.data.condition, tiny_config.model.num_classes = "label", 10
    tiny_config.training.init_from = str(workdir)
    state = first_state(tiny_config)
    total = len(parameter_shapes(tiny_config))
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"warm start from step 7 of {workdir}: {total - 1} of {total} ")
    assert others == ["  initial values, missing in the source: conditioning/label/embedding"]

    assert int(state.step) == 0
    fresh = make_optimizer(tiny_config).init(state.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh)
    for found, expected in (
        (state.params, trained.params),
        (state.ema_params, trained.ema_params),
    ):
        label = found["conditioning"].pop("label")["embedding"]
        assert np.asarray(label).std() > 0
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        found["conditioning"]["label"] = {"embedding": label}

    z = jax.random.normal(jax.random.key(0), (2, 4, 8, 8, 1))
    log_snr, none = jnp.array([-3.0, 3.0]), {"label": jnp.array([-1, -1])}
    apply = make_model(tiny_config).apply
    conditional = jax.jit(apply)({"params": state.ema_params}, z, log_snr, none)
    expected = jax.jit(unconditional.apply)({"params": trained.ema_params}, z, log_snr)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(conditional, expected)


def test_the_ema_of_a_source_continues(source, tiny_config):
    workdir, trained = source
    tiny_config.training.update(init_from=str(workdir), ema_ramp=False, ema_decay=0.75)
    mesh, size = make_mesh(tiny_config), tiny_config.training.batch_size
    batch = shard_batch(mesh, make_data_set(tiny_config, "train").batch(0, size), size)
    state = make_train_step(tiny_config, mesh)(first_state(tiny_config), batch)

    def expected(old, new):
        return 0.75 * np.asarray(old) + 0.25 * np.asarray(new)

    averages = jax.tree.map(expected, trained.ema_params, state.params)
    compare = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(compare, state.ema_params, averages)


@pytest.mark.slow
def test_fine_tuning_the_shipped_model_on_another_motion_starts_far_below_random(capsys):
    config = get_config()
    config.data.update(motion="any", speed=1.0)
    config.seed, config.training.init_from = 3, str(SHIPPED)
    state = first_state(config)
    shipped, total = load_exported(SHIPPED), len(parameter_shapes(config))
    jax.tree.map(np.testing.assert_array_equal, state.params, shipped)
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, shipped)
    assert f"step 7500 of {SHIPPED}: {total} of {total} " in capsys.readouterr().out

    model, source = make_model(config), make_data_set(config, "train")

    @jax.jit
    def losses(params, batch, key):
        x = batch["video"]
        target = config.diffusion.target
        times = config.diffusion.time_sampling
        noise, log_snr = draw_noise(
            key, x.shape, schedule=make_schedule(config), time_sampling=times
        )

        def network(z, log_snr):
            return model.apply({"params": params}, z, log_snr, batch)

        tuned = loss_given(network, x, noise, log_snr, target=target).mean()
        # The last convolution is zero at first.
        random = loss_given(lambda z, _: 0 * z, x, noise, log_snr, target=target).mean()
        return tuned, random

    for step in range(3):
        tuned, random = losses(state.params, source.batch(step, 32), jax.random.key(step))
        assert tuned < 0.5 * random


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "init_from .*missing does not exist"),
        ("empty", "init_from .*empty has no checkpoints, and must be an exported"),
        ("junk", "junk is not a safetensors file"),
        ("undescribed", "has checkpoints, and no config.json"),
        ("other.safetensors", "no parameter with the name and shape"),
    ],
)
def test_names_a_wrong_source(name, message, tiny_config, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "undescribed" / "checkpoints" / "3").mkdir(parents=True)
    wider = tiny_config.copy_and_resolve_references()
    wider.model.update(base_channels=8, embedding_dim=4, head_dim=4, max_relative_distance=9)
    wider.data.channels = 3
    export(tmp_path / "other.safetensors", {}, wider, 1)
    tiny_config.training.init_from = str(tmp_path / name)
    with pytest.raises((ValueError, OSError), match=message):
        check_warm_start(tiny_config, tmp_path / "new")
    check_warm_start(tiny_config, tmp_path / "undescribed")  # a run with checkpoints resumes


@pytest.mark.slow
def test_a_resumed_run_needs_no_source_and_changes_no_bit(source, tiny_config, tmp_path):
    workdir, _ = source
    tiny_config.training.update(init_from=str(workdir), num_steps=6, checkpoint_every=3)
    tiny_config.data.condition, tiny_config.model.num_classes = "label", 10
    train(tiny_config, tmp_path / "whole", preview=None)
    tiny_config.training.num_steps = 3
    train(tiny_config, tmp_path / "parts", preview=None)
    shutil.rmtree(workdir)
    tiny_config.training.num_steps = 6
    check_warm_start(tiny_config, tmp_path / "parts")
    train(tiny_config, tmp_path / "parts", preview=None)
    states = [newest_state(tiny_config, tmp_path / name) for name in ("whole", "parts")]
    assert int(states[0].step) == 6
    jax.tree.map(np.testing.assert_array_equal, *states)
