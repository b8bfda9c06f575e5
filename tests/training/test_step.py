"""One training step against a direct computation, on one and on two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from vdm import parallel
from vdm.data.source import make_source
from vdm.training.loop import LossNotFinite, train
from vdm.training.state import init_state, make_learning_rate
from vdm.training.step import make_train_step


def _run(config, devices, steps):
    mesh = Mesh(np.array(devices), ("data",))
    state = jax.device_put(init_state(config), parallel.replicated(mesh))
    step = make_train_step(config, mesh)
    source = make_source(config, "train")
    states = []
    for index in range(steps):
        batch = source.batch(index, config.training.batch_size)
        state = step(state, parallel.shard_batch(mesh, batch))
        states.append(jax.tree.map(np.asarray, state))
    return states


@pytest.fixture(scope="module")
def two_device_states(tiny_config_of_module):
    return _run(tiny_config_of_module, jax.devices()[:2], 4)


def test_two_devices_take_the_step_of_one(tiny_config_of_module, two_device_states):
    one = _run(tiny_config_of_module, jax.devices()[:1], 2)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            one[1].metric_sums[name], two_device_states[1].metric_sums[name], rtol=1e-4
        )


def test_adam_and_ema_are_their_definitions(tiny_config_of_module, two_device_states):
    """Adam's step follows from its own moments, and the EMA from the parameters, in float64."""
    training = tiny_config_of_module.training
    initial = jax.tree.map(np.asarray, init_state(tiny_config_of_module))
    params = [initial.params, *(state.params for state in two_device_states)]
    name = ("middle_0", "residual", "conv_2", "conv", "kernel")

    def leaf(tree):
        for part in name:
            tree = tree[part]
        return np.asarray(tree, np.float64)

    for step, state in enumerate(two_device_states, start=1):
        moments = next(s for s in jax.tree.leaves(state.opt_state, is_leaf=_has_mu) if _has_mu(s))
        mean = leaf(moments.mu) / (1 - training.adam_b1**step)
        variance = leaf(moments.nu) / (1 - training.adam_b2**step)
        expected = leaf(params[step - 1]) - training.learning_rate * mean / (
            np.sqrt(variance) + training.adam_eps
        )
        np.testing.assert_allclose(leaf(params[step]), expected, rtol=1e-4, atol=1e-7)

    average = leaf(initial.params)
    for index, state in enumerate(two_device_states):
        decay = min(training.ema_decay, (1 + index) / (10 + index))
        average = decay * average + (1 - decay) * leaf(params[index + 1])
        np.testing.assert_allclose(leaf(state.ema_params), average, rtol=1e-4, atol=1e-8)


def _has_mu(node):
    return hasattr(node, "mu")


def test_learning_rate_warms_up_and_decays(tiny_config):
    tiny_config.training.update(learning_rate=2.0, num_steps=100, warmup_steps=10, decay_steps=40)
    rate = make_learning_rate(tiny_config)
    steps = jnp.array([0, 5, 10, 59, 60, 80, 100])
    np.testing.assert_allclose(
        jnp.stack([rate(step) for step in steps]), [0, 1, 2, 2, 2, 1, 0], atol=1e-6
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path, tiny_config):
    config = tiny_config
    config.training.update(num_steps=2, checkpoint_every=2, log_every=2)
    train(config, tmp_path, preview=None)
    config.training.update(num_steps=8, learning_rate=1e38, gradient_clip=0.0)
    with pytest.raises(LossNotFinite, match="between steps 3 and 4"):
        train(config, tmp_path, preview=None)
    assert [p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")] == ["2"]
