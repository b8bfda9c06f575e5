"""Samplers: from noise to data with a denoiser.

Each sampler is one function of (keys, denoiser, z, log_snr): keys [batch], one for each sample; z
[batch, ...] at log_snr[0]; log_snr [num_steps + 1], increasing, from noise to data. Step k takes z
from log_snr[k] to log_snr[k + 1], and every sampler keeps the pair (z, x_hat) from step to step.

The result is the x_hat of the last step: its last transition is free of noise and ends at x_hat
itself rather than at alpha x_hat + ..., as in the same authors' released code for progressive
distillation. (The paper does not say.)

Every random number of sample i comes from keys[i] and the number of the draw, so that a sample does
not depend on the size of the batch or on its place there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from vdm.diffusion.process import Denoiser, diffuse, posterior, predict_eps
from vdm.diffusion.schedule import alpha_sigma, cosine_log_snr

Keys = Key[Array, " batch"]
Latent = Float[Array, " batch *shape"]
LogSnrs = Float[Array, " steps"]


def sample(
    key: PRNGKeyArray | Keys,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    *,
    sampler: str = "ancestral",
    num_steps: int,
    gamma: float = 0.0,
    langevin_step_size: float = 0.1,
    schedule: Callable[[Array], Array] = cosine_log_snr,
) -> Float[Array, " batch *shape"]:
    """Samples of shape [batch, ...], at num_steps + 1 times that are uniform from 1 to 0.

    Works under jax.jit or without it; either way the steps are one compiled loop.

    Args:
      key: one PRNG key, and sample i draws from fold_in(key, i); or an array of typed keys [batch],
        and sample i draws from key[i]. Either way it draws from nothing else.
      denoiser: maps z [batch, ...] and log_snr [batch] to x_hat, of the shape of z.
      shape: of the result, [batch, ...].
      sampler: one of SAMPLERS. "langevin" evaluates the denoiser 2 num_steps times, the others
        num_steps times.
      num_steps: the number of (predictor) steps.
      gamma: of the variance of eq 4, in [0, 1]; for "ancestral" and "langevin" (the others draw no
        noise after the first latent).
      langevin_step_size: delta of eq 5; for "langevin".
      schedule: t -> log_snr, elementwise and decreasing.

    Returns:
      x [batch, ...], float32.

    Raises:
      ValueError: for an unknown sampler, num_steps below 1, gamma outside [0, 1], a negative
        langevin_step_size, or keys that are not one for each sample.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: it must be one of {', '.join(SAMPLERS)}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must be between 0 and 1, not {gamma}")
    if not langevin_step_size >= 0.0:
        raise ValueError(f"langevin_step_size must not be negative, and it is {langevin_step_size}")
    options = {
        "ancestral": {"gamma": gamma},
        "langevin": {"gamma": gamma, "step_size": langevin_step_size},
    }

    def float32_denoiser(z: Latent, log_snr: Float[Array, " batch"]) -> Latent:
        return denoiser(z, log_snr).astype(jnp.float32)

    keys = _key_of_each_sample(key, shape[0])
    z = _noise(keys, 0, shape)
    log_snr = schedule(jnp.linspace(1.0, 0.0, num_steps + 1, dtype=jnp.float32))
    log_snr = log_snr.astype(jnp.float32)
    return SAMPLERS[sampler](keys, float32_denoiser, z, log_snr, **options.get(sampler, {}))


def ancestral(
    keys: Keys, denoiser: Denoiser, z: Latent, log_snr: LogSnrs, *, gamma: float
) -> Latent:
    """The ancestral sampler (eq 4): z_s ~ N(mean, variance) of process.posterior at x_hat(z_t)."""

    def step(k, z, _):
        log_snr_t, log_snr_s = log_snr[k], log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        mean, variance = posterior(z, x, log_snr_t, log_snr_s, gamma)
        return mean + jnp.sqrt(variance) * _noise(keys, k + 1, z.shape), x

    return _last_x(step, z, log_snr)


def langevin(
    keys: Keys,
    denoiser: Denoiser,
    z: Latent,
    log_snr: LogSnrs,
    *,
    gamma: float,
    step_size: float,
) -> Latent:
    """Predictor-corrector: an ancestral step (eq 4), then a Langevin step at the new z_s (eq 5).

    z_s <- z_s - (step_size / 2) sigma_s eps_hat(z_s) + sqrt(step_size) sigma_s noise

    Nothing is corrected after the last predictor step, which ends at x_hat.
    """
    num_steps = len(log_snr) - 1

    def step(k, z, _):
        log_snr_t, log_snr_s = log_snr[k], log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        mean, variance = posterior(z, x, log_snr_t, log_snr_s, gamma)
        z = mean + jnp.sqrt(variance) * _noise(keys, k + 1, z.shape)

        # In the last step the loop drops this corrector's result: one evaluation too many, for a
        # loop that compiles the denoiser twice rather than a third time after it.
        _, sigma_s = alpha_sigma(log_snr_s)
        eps = predict_eps(denoiser(z, _of_batch(log_snr_s, z)), z, log_snr_s)
        noise = _noise(keys, num_steps + k + 1, z.shape)
        return z - 0.5 * step_size * sigma_s * eps + jnp.sqrt(step_size) * sigma_s * noise, x

    return _last_x(step, z, log_snr)


def ddim(keys: Keys, denoiser: Denoiser, z: Latent, log_snr: LogSnrs) -> Latent:
    """DDIM with eta = 0 (Song et al. 2021, eq 12): z_s = alpha_s x_hat + sigma_s eps_hat.

    A first-order method for the probability-flow ODE. It draws no noise, so keys are not used.
    """

    def step(k, z, _):
        log_snr_t, log_snr_s = log_snr[k], log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        return diffuse(x, predict_eps(x, z, log_snr_t), log_snr_s), x

    return _last_x(step, z, log_snr)


def dpmpp_2m(keys: Keys, denoiser: Denoiser, z: Latent, log_snr: LogSnrs) -> Latent:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    With h = (log_snr_s - log_snr_t) / 2, and h' the h of the step before,

      D   = x_hat + (h / (2 h')) (x_hat - x_hat of the step before)
      z_s = (sigma_s / sigma_t) z_t - alpha_s (exp(-h) - 1) D

    A second-order method for the probability-flow ODE. The first step is of first order, D = x_hat,
    and so is the last one, which ends at x_hat. It draws no noise, so keys are not used.
    """

    def step(k, z, x_before):
        log_snr_t, log_snr_s = log_snr[k], log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        h = 0.5 * (log_snr_s - log_snr_t)
        # At k = 0 the index k - 1 wraps round: a finite h_before, which is not used.
        h_before = 0.5 * (log_snr_t - log_snr[k - 1])
        extrapolation = jnp.where(k > 0, 0.5 * h / h_before, 0.0)
        d = x + extrapolation * (x - x_before)
        _, sigma_t = alpha_sigma(log_snr_t)
        alpha_s, sigma_s = alpha_sigma(log_snr_s)
        return sigma_s / sigma_t * z - alpha_s * jnp.expm1(-h) * d, x

    return _last_x(step, z, log_snr)


SAMPLERS = {
    "ancestral": ancestral,
    "langevin": langevin,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
}


def _last_x(
    step: Callable[[Array, Array, Array], tuple[Array, Array]], z: Latent, log_snr: LogSnrs
) -> Latent:
    """Runs step (k, z, x_hat of the step before) -> (z, x_hat) over all k; the last x_hat."""
    # Taking the last x_hat from the loop, rather than from one more denoiser call behind a shorter
    # loop, compiles the denoiser once: minutes, for a large network on many devices.
    _, x = jax.lax.fori_loop(
        0, len(log_snr) - 1, lambda k, state: step(k, *state), (z, jnp.zeros_like(z))
    )
    return x


def _key_of_each_sample(key: PRNGKeyArray | Keys, batch: int) -> Keys:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape == ():
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(
            f"keys must be one for each of the {batch} samples, and their shape is {key.shape}"
        )
    return key


def _noise(keys: Keys, draw: int | Array, shape: tuple[int, ...]) -> Latent:
    """Standard normal noise [batch, ...]; for sample i, draw number `draw` from keys[i]."""

    def of_sample(key):
        return jax.random.normal(jax.random.fold_in(key, draw), shape[1:], jnp.float32)

    return jax.vmap(of_sample)(keys)


def _of_batch(log_snr: Float[Array, ""], z: Latent) -> Float[Array, " batch"]:
    return jnp.broadcast_to(log_snr, z.shape[:1])
