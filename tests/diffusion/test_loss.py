"""The loss of the optimal network of a Gaussian, which has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion.loss import TIME_SAMPLINGS, diffusion_loss, loss_at, loss_given
from vdm.diffusion.process import TARGETS, predict_eps, target_value
from vdm.diffusion.schedule import cosine_log_snr

MEAN, VARIANCE = 0.4, 0.3
SHAPE = (3, 2, 2, 1)


def _network(target):
    """E[target given z] for elements of x that are N(MEAN, VARIANCE), by way of E[x given z]."""

    def network(z, log_snr):
        log_snr = log_snr.reshape(-1, 1, 1, 1, 1)
        alpha, sigma_squared = jnp.sqrt(jax.nn.sigmoid(log_snr)), jax.nn.sigmoid(-log_snr)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma_squared)
        x = MEAN + gain * (z - alpha * MEAN)
        return target_value(x, predict_eps(x, z, log_snr), log_snr, target)

    return network


def _expected(target, alpha):
    """Var[target given z]: that of the noise and of v follow from that of x, as z is given."""
    sigma_squared = 1 - alpha**2
    x = VARIANCE * sigma_squared / (alpha**2 * VARIANCE + sigma_squared)
    return {"x": x, "eps": x * alpha**2 / sigma_squared, "v": x / sigma_squared}[target]


def _data(batch):
    noise = jax.random.normal(jax.random.key(0), (batch, *SHAPE))
    return MEAN + jnp.sqrt(VARIANCE) * noise


def _assert_mean(losses, expected):
    losses = np.asarray(losses, np.float64)
    standard_error = losses.std() / np.sqrt(len(losses))
    assert standard_error < 0.02 * expected
    assert abs(losses.mean() - expected) < 4 * standard_error


@pytest.mark.parametrize("target", TARGETS)
def test_expected_loss(target):
    losses = diffusion_loss(jax.random.key(1), _network(target), _data(40_000), target=target)
    assert losses.shape == (40_000,) and losses.dtype == jnp.float32
    t = (np.arange(100_000) + 0.5) / 100_000
    angle = np.arctan(np.exp(-10.0)) * (1 - t) + np.arctan(np.exp(10.0)) * t
    _assert_mean(losses, _expected(target, np.cos(angle)).mean())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 6.0])
def test_expected_loss_at_a_log_snr(target, log_snr):
    x = _data(20_000)
    losses = loss_at(
        jax.random.key(2), _network(target), x, jnp.full(20_000, log_snr), target=target
    )
    _assert_mean(losses, _expected(target, np.sqrt(1 / (1 + np.exp(-log_snr)))))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("log_snr", [-6.0, -2.0, 0.0, 2.0, 6.0])
def test_the_weighting_v_is_the_error_of_v_up_to_its_bound(target, log_snr):
    x, noise = _data(64), jax.random.normal(jax.random.key(4), (64, *SHAPE))
    levels = jnp.full(64, log_snr)

    def wrong(of):  # the same wrong x, whatever the target
        def network(z, levels):
            x_hat = 0.9 * x + 0.1 * jnp.roll(x, 1, axis=0)
            level = levels.reshape(-1, 1, 1, 1, 1)
            return target_value(x_hat, predict_eps(x_hat, z, level), level, of)

        return network

    of_v = loss_given(wrong("v"), x, noise, levels, target="v")
    of_target = loss_given(wrong(target), x, noise, levels, target=target)
    weighted = loss_given(wrong(target), x, noise, levels, target=target, weighting="v")
    np.testing.assert_allclose(weighted, np.minimum(of_v, 25 * of_target), rtol=2e-4)


@pytest.mark.parametrize("time_sampling", TIME_SAMPLINGS)
def test_times_cover_the_unit_interval_independently(time_sampling):
    seen = []

    def network(z, log_snr):
        seen.append(log_snr)
        return jnp.zeros_like(z)

    def schedule(t):
        seen.append(t)
        return cosine_log_snr(t)

    x = jnp.zeros((4096, 1))
    key = jax.random.key(3)
    diffusion_loss(key, network, x, schedule=schedule, time_sampling=time_sampling)
    t, log_snr = seen
    np.testing.assert_array_equal(log_snr, cosine_log_snr(t))
    # Kolmogorov-Smirnov at a level of one in a thousand.
    assert np.abs(np.sort(t) - (np.arange(4096) + 0.5) / 4096).max() < 1.95 / np.sqrt(4096)
    # Gaps of independent times are exponential: as large in mean as in standard deviation.
    gaps = 4096 * np.diff(np.sort(t))
    assert gaps.std() == pytest.approx(
        {"independent": 1.0, "stratified": 0.0}[time_sampling], abs=0.1
    )


def test_unknown_time_sampling():
    """A misspelt name would silently sample independent times, with more variance."""
    with pytest.raises(ValueError, match=r"^unknown time_sampling 'stratifed': it must be one of "):
        diffusion_loss(
            jax.random.key(5), lambda z, log_snr: z, jnp.zeros((2, 3)), time_sampling="stratifed"
        )


def test_is_float32_for_a_half_precision_network_and_differentiable():
    x = _data(8)

    def loss(scale):
        return diffusion_loss(
            jax.random.key(4), lambda z, log_snr: (scale * z).astype(jnp.bfloat16), x, target="v"
        ).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(0.1)
    assert value.dtype == jnp.float32 and jnp.isfinite(value) and jnp.abs(gradient) > 0


def test_unknown_target():
    with pytest.raises(ValueError, match="unknown target 'noise': it must be one of eps, x, v"):
        diffusion_loss(jax.random.key(5), lambda z, log_snr: z, jnp.zeros((2, 3)), target="noise")
