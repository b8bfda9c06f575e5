"""Distillation: targets and losses of a student that needs fewer network calls than its teacher.

Progressive distillation (Salimans and Ho 2022, arXiv 2202.00512): one DDIM step of the student
equals two of the teacher. Guidance distillation (Meng et al. 2023, arXiv 2210.03142, section 3.1):
one call of the student equals the guided teacher. The guidance weight is an input of the student;
the target is `guidance.classifier_free_guidance`, with one weight per video.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vdm.diffusion.process import (
    Denoiser,
    Network,
    check_choice,
    diffuse,
    expand_log_snr,
    predict_eps,
    predict_x,
)
from vdm.diffusion.schedule import cosine_log_snr, sampling_log_snr

WEIGHTINGS = ("truncated_snr", "v")
# Targets of a student. Not eps: x_hat = (z - sigma eps) / alpha is unstable at t = 1, where a
# student of one step starts (Salimans and Ho 2022, section 4).
STUDENT_TARGETS = ("x", "v")


def student_log_snr(
    t: Float[Array, " batch"],
    num_steps: int,
    schedule: Callable[[Array], Array] = cosine_log_snr,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"], Float[Array, " batch"]]:
    """Returns, for each time, the log-SNRs of the student's step that contains it (algorithm 2).

    As in a sampler, step k starts at time (num_steps - k) / num_steps. The last step ends at x_hat
    itself, as in `samplers.sample`: its final log-SNR is infinite.

    Args:
      t: times in [0, 1), [batch]. Uniform times select the steps uniformly.
      num_steps: N, the number of steps of the student; its teacher has 2 N.
      schedule: t -> log_snr, elementwise and decreasing.

    Returns:
      (log_snr_t, log_snr_m, log_snr_s), each [batch]: at the start of the step, at its midpoint
      (the start of the teacher's second step), and at its end.

    Raises:
      ValueError: num_steps is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    starts = sampling_log_snr(num_steps, schedule)
    midpoints = sampling_log_snr(2 * num_steps, schedule)[1::2]
    ends = starts.at[-1].set(jnp.inf)[1:]
    step = jnp.clip(jnp.floor(t * num_steps).astype(jnp.int32), 0, num_steps - 1)
    return starts[step], midpoints[step], ends[step]


def draw_observed(
    key: PRNGKeyArray, batch: int, frames: int, num_given: int
) -> Bool[Array, "batch frames"]:
    """Draws masks of the first frames of each video that a student of diffusion forcing observes.

    A video observes its first `num_given` frames with probability 1/2, else its first k, with k
    uniform from 0 to frames - 1. The student thus learns generation, and prediction from any number
    of frames.

    Args:
      key: PRNG key.
      batch: number of videos.
      frames: number of frames of a video.
      num_given: number of first frames that the task observes, from 0 to frames - 1.

    Returns:
      The masks [batch, frames], True for observed frames.
    """
    task_key, length_key = jax.random.split(key)
    of_task = jax.random.bernoulli(task_key, shape=(batch,))
    lengths = jax.random.randint(length_key, (batch,), 0, frames)
    return jnp.arange(frames) < jnp.where(of_task, num_given, lengths)[:, None]


def two_step_target(
    teacher: Denoiser,
    z: Float[Array, " batch *shape"],
    log_snr_t: Float[Array, " batch *frames"],
    log_snr_m: Float[Array, " batch *frames"],
    log_snr_s: Float[Array, " batch *frames"],
) -> Float[Array, " batch *shape"]:
    """Returns the x whose DDIM step from z_t to z_s equals two steps of the teacher (algorithm 2).

    The teacher steps from t to the midpoint m, with result z_m, and from m to s, with result z_s:

        x~ = (z_s - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)
           = x_hat(z_t) + w (x_hat(z_m) - x_hat(z_t))
        w  = expm1((log_snr_m - log_snr_s) / 2) / expm1((log_snr_t - log_snr_s) / 2)

    The second form follows from DDIM's z_s = alpha_s x_hat + sigma_s eps_hat, and avoids the
    difference of nearly equal latents. It is a weighted mean of the teacher's two estimates. In the
    last step, log_snr_s is infinite, w = 1 and x~ = x_hat(z_m). In diffusion forcing, an observed
    frame has a constant log-SNR: z_m = z_t and x~ = x_hat(z_t).

    Args:
      teacher: (z, log_snr) -> x_hat.
      z: latents z_t, [batch, ...].
      log_snr_t: log-SNR of z, [batch] or [batch, frames].
      log_snr_m: log-SNR at the midpoint, greater than log_snr_t.
      log_snr_s: log-SNR at the end of the step, greater than log_snr_m; may be infinite.

    Returns:
      x~, same shape as z.
    """
    x_t = teacher(z, log_snr_t)
    z_m = diffuse(x_t, predict_eps(x_t, z, log_snr_t), log_snr_m)
    x_m = teacher(z_m, log_snr_m)
    is_constant = log_snr_t == log_snr_s
    whole_step = jnp.where(is_constant, -1.0, log_snr_t - log_snr_s)
    second_step = jnp.where(is_constant, 0.0, log_snr_m - log_snr_s)
    w = jnp.expm1(0.5 * second_step) / jnp.expm1(0.5 * whole_step)
    return x_t + expand_log_snr(w, z) * (x_m - x_t)


def loss_weight(log_snr: Float[ArrayLike, "*shape"], weighting: str) -> Float[Array, "*shape"]:
    """Returns the weight of the squared error of x_hat (Salimans and Ho 2022, section 4).

    "truncated_snr" is max(SNR, 1). "v" is SNR + 1, which turns the error of x_hat into the error of
    v. Neither vanishes at t = 1, unlike the SNR itself, which is the weight of the eps error.

    Args:
      log_snr: log-SNR, of any shape.
      weighting: one of WEIGHTINGS.

    Returns:
      The weight, same shape as log_snr.

    Raises:
      ValueError: weighting is not one of WEIGHTINGS.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    snr = jnp.exp(jnp.asarray(log_snr))
    return jnp.maximum(snr, 1.0) if weighting == "truncated_snr" else snr + 1.0


def distillation_loss(
    network: Network,
    z: Float[Array, " batch *shape"],
    log_snr: Float[Array, " batch *frames"],
    x_target: Float[Array, " batch *shape"],
    *,
    target: str = "v",
    weighting: str = "truncated_snr",
    observed: Bool[Array, "batch frames"] | None = None,
) -> Float[Array, " batch"]:
    """Returns weight(log_snr) || x~ - x_hat(z) ||^2, the loss of a student (algorithm 2).

    The norm is a mean over elements. With one log-SNR per frame, each frame has its own weight, and
    the loss is the mean over the missing frames.

    Args:
      network: the student: (z [batch, ...], log_snr) -> a prediction, same shape as z.
      z: latents [batch, ...].
      log_snr: log-SNR of z, [batch] or [batch, frames], finite.
      x_target: x~, from `two_step_target` or a guided teacher; no gradient flows through it.
      target: what the network predicts, one of STUDENT_TARGETS.
      weighting: one of WEIGHTINGS.
      observed: mask of observed frames [batch, frames], if log_snr is per frame; default: none are.

    Returns:
      The loss [batch], float32.

    Raises:
      ValueError: target is not one of STUDENT_TARGETS, or weighting not one of WEIGHTINGS.
    """
    if target not in STUDENT_TARGETS:
        raise ValueError(
            f"target {target!r} cannot be distilled: it must be one of {', '.join(STUDENT_TARGETS)}"
        )
    x_hat = predict_x(network(z, log_snr).astype(jnp.float32), z, log_snr, target)
    error = x_hat - jax.lax.stop_gradient(x_target).astype(jnp.float32)
    mean = jnp.mean(jnp.square(error), axis=tuple(range(log_snr.ndim, z.ndim)))
    loss = loss_weight(log_snr, weighting) * mean
    if log_snr.ndim == 1:
        return loss
    return loss.mean(axis=1, where=None if observed is None else ~observed)
