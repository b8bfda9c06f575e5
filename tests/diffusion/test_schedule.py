"""The schedule against the identities of cos^2, in float64 numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion.schedule import alpha_sigma, cosine_log_snr, sampling_log_snr


def _angle(t, log_snr_min=-20.0, log_snr_max=20.0):
    """The angle whose cosine is alpha and whose sine is sigma is linear in t."""
    start, end = np.arctan(np.exp(-log_snr_max / 2)), np.arctan(np.exp(-log_snr_min / 2))
    return start + (end - start) * np.asarray(t, np.float64)


def _times():
    # Dense near the ends, where the log-SNR is steepest and float32 is most easily lost.
    ends = np.geomspace(1e-7, 1e-2, 50)
    return np.concatenate([[0.0], ends, np.linspace(0.01, 0.99, 99), 1 - ends[::-1], [1.0]]).astype(
        np.float32
    )


def test_end_points():
    np.testing.assert_allclose(cosine_log_snr(jnp.array([0.0, 1.0])), [20.0, -20.0], rtol=1e-6)
    np.testing.assert_allclose(
        cosine_log_snr(jnp.array([0.0, 0.5, 1.0]), log_snr_min=-5.0, log_snr_max=5.0),
        [5.0, 0.0, -5.0],
        atol=1e-6,
    )


@pytest.mark.parametrize("limits", [(-20.0, 20.0), (-6.0, 12.0)])
def test_equals_the_cosine_schedule(limits):
    t = _times()
    angle = _angle(t, *limits)
    expected = np.log(np.cos(angle) ** 2) - np.log(np.sin(angle) ** 2)
    log_snr = cosine_log_snr(jnp.asarray(t), *limits)
    assert log_snr.dtype == jnp.float32
    np.testing.assert_allclose(log_snr, expected, rtol=1e-6, atol=2e-6)

    alpha, sigma = alpha_sigma(log_snr)
    np.testing.assert_allclose(alpha, np.cos(angle), rtol=5e-6)
    np.testing.assert_allclose(sigma, np.sin(angle), rtol=5e-6)


def test_the_widest_schedule_of_a_configuration_has_scales_above_zero():
    log_snr = sampling_log_snr(4, lambda t: cosine_log_snr(t, -80.0, 80.0))
    np.testing.assert_allclose(log_snr[jnp.array([0, -1])], [-80.0, 80.0], rtol=1e-6)
    log_snr = np.asarray(log_snr, np.float64)
    for scale, sign in zip(alpha_sigma(jnp.float32(log_snr)), (1, -1), strict=True):
        assert (scale > 0).all()
        exact = np.exp(-0.5 * np.logaddexp(0.0, -sign * log_snr))
        np.testing.assert_allclose(scale, exact, rtol=1e-5)


def test_decreases_strictly_on_every_sampling_grid():
    for num_steps in (1, 7, 256, 4096):
        log_snr = cosine_log_snr(jnp.linspace(1.0, 0.0, num_steps + 1))
        assert jnp.all(jnp.diff(log_snr) > 0)


def test_scales_preserve_variance():
    log_snr = jnp.linspace(-20.0, 20.0, 401).reshape(1, 401)
    alpha, sigma = alpha_sigma(log_snr)
    assert alpha.shape == sigma.shape == log_snr.shape
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=3e-7)
    np.testing.assert_allclose(2 * jnp.log(alpha / sigma), log_snr, rtol=1e-6, atol=1e-6)
