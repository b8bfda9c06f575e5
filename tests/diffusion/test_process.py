"""The posterior against conditioning of the joint Gaussian of (z_s, z_t) with 60 digits."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion.process import (
    TARGETS,
    denoiser,
    diffuse,
    posterior,
    predict_eps,
    predict_x,
    target_value,
)
from vdm.diffusion.schedule import alpha_sigma

# (log_snr_t, log_snr_s): whole range, both ends, and nearly equal pairs down to a few ulps.
LOG_SNRS = [
    (-20.0, 20.0),
    (-20.0, -19.9),
    (-20.0, -19.99999),
    (-20.0, -10.0),
    (-3.0, -2.5),
    (-1.0, 3.0),
    (0.0, 1e-6),
    (1.0, 1.000001),
    (2.0, 20.0),
    (10.0, 20.0),
    (19.9, 20.0),
    (19.99999, 20.0),
]


def _exact_posterior(z_t, x, log_snr_t, log_snr_s, gamma):
    """Mean, size of the mean's terms, and variance, by conditioning z_s on z_t given x.

    The transition's variance follows from the two marginals: given x, z_t = a z_s + noise with
    a = alpha_t / alpha_s has to have variance sigma_t^2.
    """
    with localcontext() as context:
        context.prec = 60
        z_t, x, log_snr_t, log_snr_s, gamma = (
            Decimal(float(value)) for value in (z_t, x, log_snr_t, log_snr_s, gamma)
        )

        def scales(log_snr):
            ratio = log_snr.exp()
            return (ratio / (1 + ratio)).sqrt(), 1 / (1 + ratio)

        alpha_t, var_t = scales(log_snr_t)
        alpha_s, var_s = scales(log_snr_s)
        a = alpha_t / alpha_s
        transition = var_t - a * a * var_s
        covariance = a * var_s
        mean = alpha_s * x + covariance / var_t * (z_t - alpha_t * x)
        variance = var_s - covariance * covariance / var_t
        size = abs(covariance / var_t * z_t) + abs(mean - covariance / var_t * z_t)
        return float(mean), float(size), float(variance ** (1 - gamma) * transition**gamma)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_posterior(gamma):
    log_snr_t, log_snr_s = jnp.array(LOG_SNRS, jnp.float32).T
    z_t, x = jax.random.normal(jax.random.key(0), (2, len(LOG_SNRS), 3, 2))
    mean, variance = posterior(z_t, x, log_snr_t, log_snr_s, gamma)
    assert mean.shape == z_t.shape and variance.shape == (len(LOG_SNRS), 1, 1)
    z_t, x, mean, variance = (np.asarray(value) for value in (z_t, x, mean, variance))
    log_snr_t, log_snr_s = np.asarray(log_snr_t), np.asarray(log_snr_s)

    for i, pair in enumerate(zip(log_snr_t, log_snr_s, strict=True)):
        for index in np.ndindex(3, 2):
            exact_mean, size, exact_variance = _exact_posterior(
                z_t[i][index], x[i][index], *pair, gamma
            )
            assert abs(mean[i][index] - exact_mean) < 3e-6 * size, (LOG_SNRS[i], index)
        np.testing.assert_allclose(variance[i], exact_variance, rtol=6e-6, err_msg=LOG_SNRS[i])


def test_steps_compose_to_the_marginal():
    """q(z_s given z_t, x) averaged over q(z_t given x) is q(z_s given x)."""
    log_snr_t, log_snr_s = jnp.array([-4.0, 0.5]), jnp.array([-1.0, 6.0])
    x = jnp.array([[0.7], [-0.4]])
    alpha_t, sigma_t = alpha_sigma(log_snr_t[:, None])
    alpha_s, sigma_s = alpha_sigma(log_snr_s[:, None])
    mean, variance = posterior(alpha_t * x, x, log_snr_t, log_snr_s)
    slope = posterior(jnp.ones_like(x), jnp.zeros_like(x), log_snr_t, log_snr_s)[0]
    np.testing.assert_allclose(mean, alpha_s * x, rtol=1e-5)
    np.testing.assert_allclose(slope**2 * sigma_t**2 + variance, sigma_s**2, rtol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_target_determines_x(target):
    """The latent and the target, as two linear equations in (x, noise), give x back."""
    x, noise = jax.random.normal(jax.random.key(1), (2, 5, 4))
    log_snr = jnp.array([-6.0, -2.0, 0.0, 3.0, 6.0])
    z = diffuse(x, noise, log_snr)
    value = target_value(x, noise, log_snr, target)

    alpha = np.sqrt(1 / (1 + np.exp(-np.asarray(log_snr, np.float64))))
    sigma = np.sqrt(1 - alpha**2)
    rows = {
        "eps": (0 * alpha, 1 + 0 * alpha),
        "x": (1 + 0 * alpha, 0 * alpha),
        "v": (-sigma, alpha),
    }
    system = np.moveaxis(np.array([(alpha, sigma), rows[target]]), -1, 0)
    solution = np.linalg.solve(system, np.stack([z, value], axis=1).astype(np.float64))
    np.testing.assert_allclose(solution[:, 0], x, atol=1e-4)
    np.testing.assert_allclose(solution[:, 1], noise, atol=1e-4)

    x_hat = predict_x(value, z, log_snr, target)
    np.testing.assert_allclose(x_hat, x, atol=1e-5)
    np.testing.assert_allclose(predict_eps(x_hat, z, log_snr), noise, atol=3e-4)


def test_scalars_apply_to_everything():
    x, noise = jnp.float32(0.5), jnp.float32(-1.0)
    assert diffuse(x, noise, jnp.float32(0.0)).shape == ()
    video = jnp.full((2, 3, 4, 4, 1), 0.5)
    one, each = (diffuse(video, -video, value) for value in (1.5, jnp.full((2,), 1.5)))
    np.testing.assert_array_equal(one, each)


def test_unknown_target():
    sentence = "unknown target 'score': it must be one of eps, x, v"
    x, log_snr = jnp.zeros((2, 3)), jnp.zeros((2,))
    with pytest.raises(ValueError, match=sentence):
        target_value(x, x, log_snr, "score")
    with pytest.raises(ValueError, match=sentence):
        predict_x(x, x, log_snr, "score")
    with pytest.raises(ValueError, match=sentence):
        denoiser(lambda z, log_snr: z, target="score")


def test_denoiser_clips_unless_told():
    z, log_snr = jnp.array([[3.0], [0.5]]), jnp.array([20.0, 20.0])

    def network(z, log_snr):
        return jnp.zeros_like(z, jnp.bfloat16)

    np.testing.assert_allclose(denoiser(network, target="v")(z, log_snr), [[1.0], [0.5]])
    unclipped = denoiser(network, target="v", clip=False)(z, log_snr)
    np.testing.assert_allclose(unclipped, z)
    assert unclipped.dtype == jnp.float32
