"""Samplers: numerical methods that integrate from noise to data with a denoiser.

Each sampler is one function of a trajectory and a denoiser; its loop carries (z, x_hat).

The result is the x_hat of the last step: the last transition adds no noise and ends at x_hat
itself, not at alpha x_hat + ..., as in the authors' released code for progressive distillation. The
paper does not specify it.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vdm.diffusion.conditioning import (
    Observation,
    observations_of,
    observed_frames,
    repaint_steps,
    replace_observed,
)
from vdm.diffusion.guidance import ReconstructionOptions, reconstruction_guidance
from vdm.diffusion.history_guidance import HistoryOptions, history_guidance, per_frame
from vdm.diffusion.process import (
    Denoiser,
    check_choice,
    diffuse,
    expand_log_snr,
    posterior,
    predict_eps,
)
from vdm.diffusion.schedule import alpha_sigma, cosine_log_snr, sampling_log_snr
from vdm.diffusion.trajectory import CORRECTOR, HISTORY, STEP, Keys, Latent, Trajectory

CONDITIONINGS = (
    *("reconstruction", "replacement", "replacement_posterior", "repaint"),
    "diffusion_forcing",
)


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
    weight: float | None = None,
    reconstruction_options: ReconstructionOptions | None = None,
    repaint_jump_length: int = 10,
    repaint_repeats: int = 10,
    history_options: HistoryOptions | None = None,
    return_observed: bool = True,
    on_step: Callable[[Array], object] | None = None,
) -> Float[Array, " batch *shape"]:
    """Samples videos, unconditionally or given an observation.

    The num_steps + 1 times are uniform from 1 to 0. The steps are one compiled loop, under jax.jit
    or without it.

    Given an observation, `conditioning` selects the method. The first four methods approximate
    p(x | observation), and draw the latents of observed frames from the forward process at each
    step; diffusion forcing draws them once:

    - "reconstruction": reconstruction guidance. Latents from q(z_a,s | x_a); the gradient of
      the reconstruction error guides the denoiser (eq 7 and 8). The only method that takes a low
      resolution.
    - "replacement": latents from q(z_a,s | x_a); the denoiser is not guided.
    - "replacement_posterior": latents from q(z_a,s | x_a, z_a,t); the denoiser is not guided.
    - "repaint": "replacement" in jumps of repaint_jump_length steps, each jump run repaint_repeats
      times (Lugmayr et al. 2022).
    - "diffusion_forcing": observed frames keep the highest log-SNR (clean data) while the others go
      from noise to data (Chen et al. 2024). Exact for an exact denoiser. The denoiser must take
      log-SNRs [batch, frames]; history_options adds history guidance (Song et al. 2025).

    Observed frames with context noise (ObservedFrames.log_snr) keep that log-SNR in diffusion
    forcing. The other methods impose them only down to that noise level. Below it, the denoiser
    changes them together with the missing frames.

    Args:
      key: one PRNG key, where sample i uses fold_in(key, i); or one typed key per sample, [batch].
      denoiser: (z [batch, ...], log_snr [batch]) -> x_hat [batch, ...]; with a condition,
        (z, log_snr, condition) -> x_hat. For "diffusion_forcing", log_snr is [batch, frames].
      shape: shape of the result, [batch, ...]; axis 1 is frames.
      condition: a pytree of arrays [batch, ...], the denoiser's third argument; None: no such
        argument.
      sampler: one of SAMPLERS. "langevin" evaluates the denoiser 2 num_steps times, the others
        num_steps times.
      num_steps: number of (predictor) steps.
      gamma: interpolation between the variance bounds of eq 4, in [0, 1], for "ancestral" and
        "langevin". The other samplers draw noise only for the first latent and observed frames.
      langevin_step_size: delta of eq 5, for "langevin".
      schedule: t -> log_snr, elementwise and decreasing.
      observation: ObservedFrames, ObservedLowResolution, a tuple of them, or None.
      conditioning: one of CONDITIONINGS.
      weight: w_r of eq 7 and 8, for "reconstruction"; default reconstruction_options.weight.
      reconstruction_options: options of "reconstruction"; default weight 1, without clipping.
      repaint_jump_length: number of steps in a jump, for "repaint".
      repaint_repeats: number of times that each jump runs, for "repaint"; multiplies the cost.
      history_options: options of "diffusion_forcing"; default HistoryOptions(), no history
        guidance.
      return_observed: whether observed frames of the result are the observation itself, not the
        denoiser's estimate of them. The paper does not specify it.
      on_step: callback on the host, called with the step number before each step, to show progress.
        Does not change samples, but JAX's persistent cache stores no program with a callback.

    Returns:
      x [batch, ...], float32.

    Raises:
      ValueError: an unknown sampler or conditioning; num_steps, repaint_jump_length or
        repaint_repeats below 1; gamma outside [0, 1]; a negative langevin_step_size; not one key
        per sample; an observation that does not fit the shape; a replacement method without
        observed frames or with a low resolution; "repaint" with "dpmpp_2m", a multistep method.
    """
    check_choice("sampler", sampler, SAMPLERS)
    check_choice("conditioning", conditioning, CONDITIONINGS)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must be between 0 and 1, not {gamma}")
    if not langevin_step_size >= 0.0:
        raise ValueError(f"langevin_step_size must be at least 0, not {langevin_step_size}")
    parts = observations_of(observation, shape)
    frames = observed_frames(parts)
    if parts and conditioning != "reconstruction" and (frames is None or len(parts) > 1):
        raise ValueError(f"conditioning {conditioning!r} takes observed frames and nothing else")
    steps = list(range(num_steps))
    if parts and conditioning == "repaint":
        if sampler == "dpmpp_2m":
            raise ValueError(
                "conditioning 'repaint' repeats steps, and cannot be used with the sampler "
                "'dpmpp_2m', which needs the estimate of the previous step"
            )
        steps = repaint_steps(num_steps, repaint_jump_length, repaint_repeats)
    if parts and conditioning == "reconstruction":
        denoiser = reconstruction_guidance(
            denoiser, parts, weight, options=reconstruction_options, condition=condition
        )
        condition = None  # bound by the guided denoiser

    def float32_denoiser(z: Latent, log_snr: Float[Array, " batch *frames"]) -> Latent:
        bound = () if condition is None else (condition,)
        return denoiser(z, log_snr, *bound).astype(jnp.float32)

    log_snr = sampling_log_snr(num_steps, schedule)
    history = frames if conditioning == "diffusion_forcing" else None
    history_options = history_options or HistoryOptions()
    if history is not None:
        level = history.log_snr
        if level is None:
            level = schedule(jnp.float32(history_options.context_noise))
        log_snr = per_frame(log_snr, history.mask, jnp.asarray(level, jnp.float32))
    trajectory = Trajectory.start(
        key,
        shape,
        log_snr,
        steps=steps,
        frames=frames,
        use_posterior=conditioning == "replacement_posterior",
        keep_latents=history is not None,
        on_step=on_step,
    )
    if history is not None and history_options.weight != 1.0:
        denoiser = history_guidance(
            denoiser,
            history,
            trajectory.noise(HISTORY, 0),
            history_options,
            schedule=schedule,
            condition=condition,
        )
        condition = None
    options = {
        "ancestral": {"gamma": float(gamma)},
        "langevin": {"gamma": float(gamma), "step_size": float(langevin_step_size)},
    }
    x = SAMPLERS[sampler](trajectory, float32_denoiser, **options.get(sampler, {}))
    if frames is not None and return_observed:
        x = replace_observed(x, frames, frames.values)
    return x


def ancestral(trajectory: Trajectory, denoiser: Denoiser, *, gamma: float) -> Latent:
    """The ancestral sampler (eq 4): z_s ~ N(mean, variance) of process.posterior at x_hat(z_t).

    Args:
      trajectory: the initial latents, log-SNRs and observed frames.
      denoiser: (z [batch, ...], log_snr [batch] or [batch, frames]) -> x_hat, same shape as z.
      gamma: interpolation between the variance bounds of eq 4, in [0, 1].

    Returns:
      The x_hat of the last step, [batch, ...].
    """

    def step(i, k, z, _):
        log_snr_t, log_snr_s = trajectory.log_snr[k], trajectory.log_snr[k + 1]
        x = denoiser(z, _per_example(log_snr_t, z))
        mean, variance = posterior(z, x, log_snr_t, log_snr_s, gamma)
        z_s = mean + jnp.sqrt(variance) * trajectory.noise(STEP, i)
        return trajectory.impose_observed(i, k, z, z_s), x

    return trajectory.last_x(step)


def langevin(
    trajectory: Trajectory, denoiser: Denoiser, *, gamma: float, step_size: float
) -> Latent:
    """Predictor-corrector: an ancestral step (eq 4), then a Langevin step at the new z_s (eq 5).

    z_s <- z_s - (step_size / 2) sigma_s eps_hat(z_s) + sqrt(step_size) sigma_s noise

    The predictor replaces observed frames; the corrector keeps them. The last predictor step ends
    at x_hat and has no corrector.

    Args:
      trajectory: as in `ancestral`.
      denoiser: as in `ancestral`.
      gamma: as in `ancestral`, for the predictor.
      step_size: delta of eq 5, at least 0; the paper's value is 0.1.

    Returns:
      The x_hat of the last step, [batch, ...].
    """

    def step(i, k, z, _):
        log_snr_t, log_snr_s = trajectory.log_snr[k], trajectory.log_snr[k + 1]
        x = denoiser(z, _per_example(log_snr_t, z))
        mean, variance = posterior(z, x, log_snr_t, log_snr_s, gamma)
        z_s = mean + jnp.sqrt(variance) * trajectory.noise(STEP, i)
        z_s = trajectory.impose_observed(i, k, z, z_s)

        # The result of the last corrector is discarded. This wastes one evaluation, but a last step
        # outside the loop would compile the denoiser a third time.
        _, sigma_s = alpha_sigma(expand_log_snr(log_snr_s, z_s))
        eps = predict_eps(denoiser(z_s, _per_example(log_snr_s, z_s)), z_s, log_snr_s)
        noise = trajectory.noise(CORRECTOR, i)
        corrected = z_s - 0.5 * step_size * sigma_s * eps + jnp.sqrt(step_size) * sigma_s * noise
        return trajectory.keep_observed(k, z_s, corrected), x

    return trajectory.last_x(step)


def ddim(trajectory: Trajectory, denoiser: Denoiser) -> Latent:
    """DDIM with eta = 0 (Song et al. 2021, eq 12): z_s = alpha_s x_hat + sigma_s eps_hat.

    A deterministic first-order method for the probability-flow ODE. For the arguments and the
    result, see `ancestral`.
    """

    def step(i, k, z, _):
        log_snr_t, log_snr_s = trajectory.log_snr[k], trajectory.log_snr[k + 1]
        x = denoiser(z, _per_example(log_snr_t, z))
        z_s = diffuse(x, predict_eps(x, z, log_snr_t), log_snr_s)
        return trajectory.impose_observed(i, k, z, z_s), x

    return trajectory.last_x(step)


def dpmpp_2m(trajectory: Trajectory, denoiser: Denoiser) -> Latent:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    With h = (log_snr_s - log_snr_t) / 2, and h' and x_hat' from the previous step,

        D   = x_hat + (h / (2 h')) (x_hat - x_hat')
        z_s = (sigma_s / sigma_t) z_t - alpha_s (exp(-h) - 1) D

    A deterministic second-order multistep method for the probability-flow ODE. The first step,
    D = x_hat, and the last step, which ends at x_hat, are first-order. For the arguments and the
    result, see `ancestral`.
    """

    def step(i, k, z, previous_x):
        log_snr_t, log_snr_s = trajectory.log_snr[k], trajectory.log_snr[k + 1]
        x = denoiser(z, _per_example(log_snr_t, z))
        # At k = 0 the index k - 1 wraps to the last log-SNR: previous_h is finite and not used.
        previous, log_snr_t, log_snr_s = (
            expand_log_snr(log_snr, z)
            for log_snr in (trajectory.log_snr[k - 1], log_snr_t, log_snr_s)
        )
        h, previous_h = 0.5 * (log_snr_s - log_snr_t), 0.5 * (log_snr_t - previous)
        # A frame with constant log-SNR has h = previous_h = 0.
        extrapolation = jnp.where(
            k > 0, 0.5 * h / jnp.where(previous_h == 0.0, 1.0, previous_h), 0.0
        )
        d = x + extrapolation * (x - previous_x)
        _, sigma_t = alpha_sigma(log_snr_t)
        alpha_s, sigma_s = alpha_sigma(log_snr_s)
        z_s = sigma_s / sigma_t * z - alpha_s * jnp.expm1(-h) * d
        return trajectory.impose_observed(i, k, z, z_s), x

    return trajectory.last_x(step)


SAMPLERS: dict[str, Callable[..., Latent]] = {
    "ancestral": ancestral,
    "langevin": langevin,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
}


def _per_example(log_snr: Float[Array, "..."], z: Latent) -> Float[Array, " batch *frames"]:
    """Broadcasts a step's log-SNR to what the denoiser takes: [batch] or [batch, frames]."""
    return jnp.broadcast_to(log_snr, z.shape[: max(1, log_snr.ndim)])
