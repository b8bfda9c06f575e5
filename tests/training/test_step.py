"""One training step against a direct computation, on one and on two devices."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from vdm.data.datasets import make_data_set
from vdm.parallel.mesh import make_mesh, param_shardings
from vdm.parallel.rows import shard_batch
from vdm.training.loop import LossNotFinite, train
from vdm.training.state import init_state, make_learning_rate, state_shapes
from vdm.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_shapes_of_the_state_of_a_configuration_with_empty_lists_and_tuples(tiny_config):
    fields = tiny_config.to_dict()
    fields["model"]["attention_resolutions"] = ()
    fields["sample"]["action"] = fields["training"]["profile_steps"] = []
    config = ml_collections.ConfigDict(fields)
    expected = jax.eval_shape(partial(init_state, config))
    assert jax.tree.leaves(state_shapes(config)) == jax.tree.leaves(expected)


def _run(config, devices, steps):
    mesh = make_mesh(config, devices)
    initial = partial(init_state, config)
    shardings = param_shardings(mesh, jax.eval_shape(initial))
    state = jax.jit(initial, out_shardings=shardings)()
    step = make_train_step(config, mesh)
    source = make_data_set(config, "train")
    states = []
    for index in range(steps):
        batch = source.batch(index, config.training.batch_size)
        state = step(state, shard_batch(mesh, batch, config.training.batch_size))
        states.append(jax.tree.map(np.asarray, state))
    return states


@pytest.fixture(scope="module")
def adam_config(tiny_config_of_module):
    config = tiny_config_of_module.copy_and_resolve_references()
    config.training.update(optimizer="adam", ema_ramp=False)
    return config


@pytest.fixture(scope="module")
def two_device_states(adam_config, quick_compilation):
    return _run(adam_config, jax.devices()[:2], 4)


@pytest.fixture(scope="module")
def one_device_states(adam_config, quick_compilation):
    return _run(adam_config, jax.devices()[:1], 2)


def test_two_devices_take_the_same_step_as_one(one_device_states, two_device_states):
    _assert_same_metrics(two_device_states[1], one_device_states[1])


@pytest.mark.slow
def test_sharded_parameters_take_the_same_step_as_replicated_ones(adam_config, one_device_states):
    config = adam_config.copy_and_resolve_references()
    config.mesh.fsdp = 2
    _assert_same_metrics(_run(config, jax.devices()[:2], 2)[1], one_device_states[1])


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_micro_batches_take_the_same_step_as_the_batch(adam_config, one_device_states, fsdp):
    config = adam_config.copy_and_resolve_references()
    config.training.accumulate = 2
    config.mesh.fsdp = fsdp
    _assert_same_metrics(_run(config, jax.devices()[:2], 2)[1], one_device_states[1])


def _assert_same_metrics(state, expected):
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(state.metric_sums[name], expected.metric_sums[name], rtol=1e-4)


def test_adam_and_ema_equal_their_definitions(adam_config, two_device_states):
    """Recomputes Adam's step from its moments, and the EMA from the parameters, in float64."""
    training = adam_config.training
    initial = jax.tree.map(np.asarray, jax.jit(partial(init_state, adam_config))())
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
        decay = training.ema_decay if index else 0.0
        average = decay * average + (1 - decay) * leaf(params[index + 1])
        np.testing.assert_allclose(leaf(state.ema_params), average, rtol=1e-4, atol=1e-8)


@pytest.mark.usefixtures("quick_compilation_once")
@pytest.mark.parametrize("ramp", [False, True])
def test_ema_weights_its_parameters_as_its_decay_says(tiny_config, ramp):
    """The average of a sequence is sum_n w_n p_n, with w_n = (1 - d_n) d_(n+1) d_(n+2) ..."""
    tiny_config.training.update(optimizer="adam", ema_decay=0.8, ema_ramp=ramp)
    initial = jax.jit(partial(init_state, tiny_config))()
    states = [initial, *_run(tiny_config, jax.devices()[:1], 4)]
    params = [np.asarray(state.params["conv_in"]["conv"]["kernel"]) for state in states]
    decays = [0.1, 2 / 11, 3 / 12, 4 / 13] if ramp else [0.0, 0.8, 0.8, 0.8]
    weights = [float(np.prod(decays))]
    weights += [(1 - decays[n]) * float(np.prod(decays[n + 1 :])) for n in range(4)]
    expected = sum(weight * value for weight, value in zip(weights, params, strict=True))
    average = states[-1].ema_params["conv_in"]["conv"]["kernel"]
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-8)
    assert sum(weights) == pytest.approx(1)


@pytest.mark.usefixtures("quick_compilation_once")
def test_metrics_of_a_run_that_never_logs_are_summed_over_all_steps(tiny_config):
    tiny_config.training.log_every = 10**12
    sums = _run(tiny_config, jax.devices()[:1], 3)[-1].metric_sums
    assert float(sums["steps"]) == 3


@pytest.mark.slow
def test_muon_updates_kernels_by_nearly_orthogonal_matrices(tiny_config_of_module):
    """Every singular value of a step is about 0.2 learning_rate max(inputs, outputs)^(1/2)."""
    config = tiny_config_of_module
    before, after = _run(config, jax.devices()[:1], 5)[-2:]
    kernels = [
        tree["middle_0"]["residual"]["conv_2"]["conv"]["kernel"]
        for tree in (before.params, after.params)
    ]
    step = (kernels[1] - kernels[0]).reshape(-1, kernels[0].shape[-1])
    length = 0.2 * config.training.learning_rate * max(step.shape) ** 0.5
    singular = np.linalg.svd(step / length, compute_uv=False)
    assert singular.max() < 1.3 and np.median(singular) > 0.5
    # Adam updates the first convolution: each element moves by about the learning rate at most.
    first = after.params["conv_in"]["conv"]["kernel"] - before.params["conv_in"]["conv"]["kernel"]
    assert 0.1 < np.abs(first).max() / config.training.learning_rate < 3


def _has_mu(node):
    return hasattr(node, "mu")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_state_under_x64_has_the_same_types(tiny_config, optimizer):
    tiny_config.training.optimizer = optimizer
    tiny_config.data.condition, tiny_config.model.text_width = "text", 8
    expected = jax.eval_shape(partial(init_state, tiny_config))
    jax.config.update("jax_enable_x64", True)
    try:
        found = jax.eval_shape(partial(init_state, tiny_config))
    finally:
        jax.config.update("jax_enable_x64", False)
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(
        lambda leaf: leaf.dtype, expected
    )


def test_learning_rate_warms_up_and_decays(tiny_config):
    tiny_config.training.update(learning_rate=2.0, num_steps=100, warmup_steps=10, decay_steps=40)
    rate = make_learning_rate(tiny_config)
    steps = jnp.array([0, 5, 10, 59, 60, 80, 100])
    np.testing.assert_allclose(
        jnp.stack([rate(step) for step in steps]), [0, 1, 2, 2, 2, 1, 0], atol=1e-6
    )


def test_nonfinite_loss_stops_the_run_and_keeps_the_checkpoint(tmp_path, tiny_config):
    config = tiny_config
    config.training.update(num_steps=2, checkpoint_every=2, log_every=2, optimizer="adam")
    train(config, tmp_path, preview=None)
    config.training.update(num_steps=8, learning_rate=1e38, gradient_clip=0.0)
    with pytest.raises(LossNotFinite, match="between steps 3 and 4"):
        train(config, tmp_path, preview=None)
    assert [p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")] == ["2"]
