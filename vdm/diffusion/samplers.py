"""Samplers: from noise to data with a denoiser.

Each sampler is one function of (path, denoiser): the path has the first latent, the log-SNRs from
noise to data, the keys of the noise, and what is observed. Step number i takes z from log_snr[k] to
log_snr[k + 1], where k is i unless RePaint takes steps again, and every sampler keeps the pair
(z, x_hat) from step to step.

The result is the x_hat of the last step: its last transition is free of noise and ends at x_hat
itself rather than at alpha x_hat + ..., as in the same authors' released code for progressive
distillation. (The paper does not say.)

Every random number of sample i comes from keys[i] and the number of the draw, so that a sample does
not depend on the size of the batch or on its place there.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from vdm.diffusion.conditioning import (
    Observation,
    ObservedFrames,
    observations_of,
    observed_frames,
    repaint_places,
    replace_observed,
    replacement,
    replacement_posterior,
)
from vdm.diffusion.guidance import reconstruction_guidance
from vdm.diffusion.process import Denoiser, diffuse, posterior, predict_eps, transition
from vdm.diffusion.schedule import alpha_sigma, cosine_log_snr

CONDITIONINGS = ("reconstruction", "replacement", "replacement_posterior", "repaint")

Keys = Key[Array, " batch"]
Latent = Float[Array, " batch *shape"]


def sample(
    key: PRNGKeyArray | Keys,
    denoiser: Callable[..., Array],
    shape: tuple[int, ...],
    *,
    condition: object = None,
    sampler: str = "ancestral",
    num_steps: int,
    gamma: float = 0.0,
    langevin_step_size: float = 0.1,
    schedule: Callable[[Array], Array] = cosine_log_snr,
    observation: Observation = None,
    conditioning: str = "reconstruction",
    weight: float = 1.0,
    reconstruction_options: Mapping[str, object] | None = None,
    repaint_jump_length: int = 10,
    repaint_repeats: int = 10,
    return_observed: bool = True,
) -> Float[Array, " batch *shape"]:
    """Samples of shape [batch, ...], at num_steps + 1 times that are uniform from 1 to 0.

    Works under jax.jit or without it; either way the steps are one compiled loop.

    Given an observation, x is sampled from what the method makes of p(x given observation). All
    four methods take the latents of observed frames from the forward process at each step:

    - "reconstruction": the marginal q(z_a,s given x_a), and the denoiser is guided by the gradient
      of the reconstruction error (eq 7 and 8); the only one that takes a low resolution.
    - "replacement": the same marginal, and the denoiser as it is.
    - "replacement_posterior": q(z_a,s given x_a, z_a,t), and the denoiser as it is.
    - "repaint": "replacement", in jumps of repaint_jump_length steps, each taken repaint_repeats
      times before the next (Lugmayr et al. 2022).

    Args:
      key: one PRNG key, and sample i draws from fold_in(key, i); or an array of typed keys [batch],
        and sample i draws from key[i]. Either way it draws from nothing else.
      denoiser: maps z [batch, ...] and log_snr [batch] to x_hat, of the shape of z; where there is
        a condition, that is its third argument.
      shape: of the result, [batch, ...]; frames are axis 1.
      condition: what the denoiser is given of each sample, a tree of arrays [batch, ...].
      sampler: one of SAMPLERS. "langevin" evaluates the denoiser 2 num_steps times, the others
        num_steps times.
      num_steps: the number of (predictor) steps.
      gamma: of the variance of eq 4, in [0, 1]; for "ancestral" and "langevin" (the others draw no
        noise after the first latent, but for the observed frames).
      langevin_step_size: delta of eq 5; for "langevin".
      schedule: t -> log_snr, elementwise and decreasing.
      observation: what is known of each video (see `conditioning`); None for nothing.
      conditioning: one of CONDITIONINGS.
      weight: w_r of eq 7 and 8; for "reconstruction".
      reconstruction_options: more arguments of `guidance.reconstruction_guidance`.
      repaint_jump_length: steps in a jump; for "repaint".
      repaint_repeats: how often each jump is taken; for "repaint", which costs as many times more.
      return_observed: observed frames of the result are the observation itself, rather than the
        denoiser's estimate of them. Not fixed by the paper.

    Returns:
      x [batch, ...], float32.

    Raises:
      ValueError: for an unknown sampler or conditioning, num_steps, repaint_jump_length or
        repaint_repeats below 1, gamma outside [0, 1], a negative langevin_step_size, keys that are
        not one for each sample, an observation that does not fit the shape, a method that needs
        observed frames where there are none, or "repaint" with "dpmpp_2m", which looks back.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: it must be one of {', '.join(SAMPLERS)}")
    if conditioning not in CONDITIONINGS:
        raise ValueError(
            f"unknown conditioning {conditioning!r}: it must be one of {', '.join(CONDITIONINGS)}"
        )
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must be between 0 and 1, not {gamma}")
    if not langevin_step_size >= 0.0:
        raise ValueError(f"langevin_step_size must not be negative, and it is {langevin_step_size}")
    parts = observations_of(observation, shape)
    frames = observed_frames(parts)
    if parts and conditioning != "reconstruction" and (frames is None or len(parts) > 1):
        raise ValueError(f"conditioning {conditioning!r} takes observed frames and nothing else")
    places = list(range(num_steps))
    if parts and conditioning == "repaint":
        if sampler == "dpmpp_2m":
            raise ValueError("'repaint' takes steps again, and 'dpmpp_2m' needs the step before")
        places = repaint_places(num_steps, repaint_jump_length, repaint_repeats)
    if parts and conditioning == "reconstruction":
        denoiser = reconstruction_guidance(
            denoiser, parts, weight, condition=condition, **reconstruction_options or {}
        )
        condition = None  # the guided denoiser has it

    def float32_denoiser(z: Latent, log_snr: Float[Array, " batch"]) -> Latent:
        bound = () if condition is None else (condition,)
        return denoiser(z, log_snr, *bound).astype(jnp.float32)

    keys = _key_of_each_sample(key, shape[0])
    log_snr = schedule(jnp.linspace(1.0, 0.0, num_steps + 1, dtype=jnp.float32))
    log_snr = log_snr.astype(jnp.float32)
    z = _noise(keys, _FIRST, 0, tuple(shape))
    if frames is not None:
        z = replacement(z, z, frames, log_snr[0])
    path = Path(keys, z, log_snr, places, frames, conditioning == "replacement_posterior")
    options = {
        "ancestral": {"gamma": gamma},
        "langevin": {"gamma": gamma, "step_size": langevin_step_size},
    }
    x = SAMPLERS[sampler](path, float32_denoiser, **options.get(sampler, {}))
    if frames is not None and return_observed:
        x = replace_observed(x, frames, frames.values.astype(jnp.float32))
    return x


def ancestral(path: "Path", denoiser: Denoiser, *, gamma: float) -> Latent:
    """The ancestral sampler (eq 4): z_s ~ N(mean, variance) of process.posterior at x_hat(z_t)."""

    def step(i, k, z, _):
        log_snr_t, log_snr_s = path.log_snr[k], path.log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        mean, variance = posterior(z, x, log_snr_t, log_snr_s, gamma)
        return path.impose(i, k, z, mean + jnp.sqrt(variance) * path.noise(_STEP, i)), x

    return path.last_x(step)


def langevin(path: "Path", denoiser: Denoiser, *, gamma: float, step_size: float) -> Latent:
    """Predictor-corrector: an ancestral step (eq 4), then a Langevin step at the new z_s (eq 5).

    z_s <- z_s - (step_size / 2) sigma_s eps_hat(z_s) + sqrt(step_size) sigma_s noise

    Observed frames are replaced by the predictor and left alone by the corrector. Nothing is
    corrected after the last predictor step, which ends at x_hat.
    """

    def step(i, k, z, _):
        log_snr_t, log_snr_s = path.log_snr[k], path.log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        mean, variance = posterior(z, x, log_snr_t, log_snr_s, gamma)
        z = path.impose(i, k, z, mean + jnp.sqrt(variance) * path.noise(_STEP, i))

        # In the last step the loop drops this corrector's result: one evaluation too many, for a
        # loop that compiles the denoiser twice rather than a third time after it.
        _, sigma_s = alpha_sigma(log_snr_s)
        eps = predict_eps(denoiser(z, _of_batch(log_snr_s, z)), z, log_snr_s)
        noise = path.noise(_CORRECTOR, i)
        corrected = z - 0.5 * step_size * sigma_s * eps + jnp.sqrt(step_size) * sigma_s * noise
        return path.keep_observed(z, corrected), x

    return path.last_x(step)


def ddim(path: "Path", denoiser: Denoiser) -> Latent:
    """DDIM with eta = 0 (Song et al. 2021, eq 12): z_s = alpha_s x_hat + sigma_s eps_hat.

    A first-order method for the probability-flow ODE, which draws no noise.
    """

    def step(i, k, z, _):
        log_snr_t, log_snr_s = path.log_snr[k], path.log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        return path.impose(i, k, z, diffuse(x, predict_eps(x, z, log_snr_t), log_snr_s)), x

    return path.last_x(step)


def dpmpp_2m(path: "Path", denoiser: Denoiser) -> Latent:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    With h = (log_snr_s - log_snr_t) / 2, and h' the h of the step before,

      D   = x_hat + (h / (2 h')) (x_hat - x_hat of the step before)
      z_s = (sigma_s / sigma_t) z_t - alpha_s (exp(-h) - 1) D

    A second-order method for the probability-flow ODE, which draws no noise. The first step is of
    first order, D = x_hat, and so is the last one, which ends at x_hat.
    """

    def step(i, k, z, x_before):
        log_snr_t, log_snr_s = path.log_snr[k], path.log_snr[k + 1]
        x = denoiser(z, _of_batch(log_snr_t, z))
        h = 0.5 * (log_snr_s - log_snr_t)
        # At k = 0 the index k - 1 wraps round: a finite h_before, which is not used.
        h_before = 0.5 * (log_snr_t - path.log_snr[k - 1])
        extrapolation = jnp.where(k > 0, 0.5 * h / h_before, 0.0)
        d = x + extrapolation * (x - x_before)
        _, sigma_t = alpha_sigma(log_snr_t)
        alpha_s, sigma_s = alpha_sigma(log_snr_s)
        return path.impose(i, k, z, sigma_s / sigma_t * z - alpha_s * jnp.expm1(-h) * d), x

    return path.last_x(step)


SAMPLERS = {
    "ancestral": ancestral,
    "langevin": langevin,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
}

# What noise is for. A sample's noise is a function of its key, of this, and of the step's number.
_FIRST, _STEP, _CORRECTOR, _OBSERVED, _BACK = range(5)


@dataclasses.dataclass(frozen=True)
class Path:
    """The way from noise to data, the same for every sampler.

    Attributes:
      keys: [batch], one for each sample.
      z: the first latents [batch, ...], at log_snr[0].
      log_snr: [num_steps + 1], increasing, from noise to data.
      places: the steps to take, in order; by default each once.
      frames: what is observed, whose latents come from the forward process.
      follow_posterior: whether they are drawn given the latents before, or anew at each step.
    """

    keys: Keys
    z: Latent
    log_snr: Float[Array, " steps"]
    places: list[int] | None = None
    frames: ObservedFrames | None = None
    follow_posterior: bool = False

    def noise(self, purpose: int, i: int | Array) -> Latent:
        """Standard normal noise [batch, ...] of step i, from each sample's own key."""
        return _noise(self.keys, purpose, i, self.z.shape)

    def impose(self, i: Array, k: Array, z_t: Latent, z_s: Latent) -> Latent:
        """z_s with its observed frames taken from the forward process."""
        if self.frames is None:
            return z_s
        log_snr_t, log_snr_s, noise = self.log_snr[k], self.log_snr[k + 1], self.noise(_OBSERVED, i)
        if self.follow_posterior:
            return replacement_posterior(noise, z_s, z_t, self.frames, log_snr_t, log_snr_s)
        return replacement(noise, z_s, self.frames, log_snr_s)

    def keep_observed(self, before: Latent, after: Latent) -> Latent:
        """`after`, with its observed frames as they were before."""
        return after if self.frames is None else replace_observed(after, self.frames, before)

    def last_x(self, step: Callable[..., tuple[Latent, Latent]]) -> Latent:
        """Runs step (i, k, z, x_hat of the step before) -> (z, x_hat) to the last x_hat."""
        last = len(self.log_snr) - 1
        places = list(range(last)) if self.places is None else self.places
        following = [*places[1:], last]
        goes_back = any(after <= before for before, after in zip(places, following, strict=True))
        places, following = jnp.asarray(places), jnp.asarray(following)

        def body(i, state):
            k = places[i]
            z, x = step(i, k, *state)
            if goes_back:
                log_snr_s, log_snr_t = self.log_snr[k + 1], self.log_snr[following[i]]
                back = transition(z, self.noise(_BACK, i), log_snr_s, log_snr_t)
                z = jnp.where(following[i] <= k, back, z)
            return z, x

        # Taking the last x_hat from the loop, rather than from one more denoiser call behind a
        # shorter loop, compiles the denoiser once: minutes, for a large network on many devices.
        _, x = jax.lax.fori_loop(0, len(places), body, (self.z, jnp.zeros_like(self.z)))
        return x


def _noise(keys: Keys, purpose: int, i: int | Array, shape: tuple[int, ...]) -> Latent:
    def of_sample(key):
        key = jax.random.fold_in(jax.random.fold_in(key, purpose), i)
        return jax.random.normal(key, shape[1:], jnp.float32)

    return jax.vmap(of_sample)(keys)


def _of_batch(log_snr: Float[Array, ""], z: Latent) -> Float[Array, " batch"]:
    return jnp.broadcast_to(log_snr, z.shape[:1])


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
