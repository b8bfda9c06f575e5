"""Log-SNR schedules, and the signal and noise scales that follow from a log-SNR.

The process is variance preserving, alpha^2 + sigma^2 = 1, so the log signal-to-noise ratio
log_snr = log(alpha^2 / sigma^2) determines both scales.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def cosine_log_snr(
    t: Float[ArrayLike, "*shape"], log_snr_min: float = -20.0, log_snr_max: float = 20.0
) -> Float[Array, "*shape"]:
    """The cosine schedule (Nichol and Dhariwal 2021), truncated as in the paper's section 2.

    log_snr(t) = -2 log tan(a t + b), with b = atan(exp(-log_snr_max / 2)) and
    a = atan(exp(-log_snr_min / 2)) - b.

    Args:
      t: time in [0, 1], of any shape.
      log_snr_min: the log-SNR at t = 1.
      log_snr_max: the log-SNR at t = 0.

    Returns:
      The log-SNR, same shape as t, decreasing in t.
    """
    t = jnp.asarray(t)
    b = math.atan(math.exp(-0.5 * log_snr_max))
    a = math.atan(math.exp(-0.5 * log_snr_min)) - b
    # As t -> 1 the angle approaches pi/2, where float32 cannot resolve its distance from pi/2: tan
    # there gives the log-SNR to two or three digits. The complement, pi/2 - (a t + b), is known
    # exactly, and tan(angle) = sin(angle) / sin(complement).
    complement_at_one = math.atan(math.exp(0.5 * log_snr_min))
    angle = b + a * t
    complement = complement_at_one + a * (1.0 - t)
    return 2.0 * (jnp.log(jnp.sin(complement)) - jnp.log(jnp.sin(angle)))


def sampling_log_snr(
    num_steps: int, schedule: Callable[[Array], Array] = cosine_log_snr
) -> Float[Array, " levels"]:
    """Returns the log-SNRs of a sampler's num_steps + 1 times, uniform from 1 to 0.

    Args:
      num_steps: number of steps, at least 1.
      schedule: t -> log_snr, elementwise and decreasing.

    Returns:
      Log-SNRs [num_steps + 1], float32, increasing from noise to data.
    """
    return schedule(jnp.linspace(1.0, 0.0, num_steps + 1, dtype=jnp.float32)).astype(jnp.float32)


def alpha_sigma(
    log_snr: Float[ArrayLike, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Returns the scales of q(z_t | x) = N(alpha x, sigma^2 I), section 2.

    alpha^2 = sigmoid(log_snr) and sigma^2 = sigmoid(-log_snr).

    Args:
      log_snr: log(alpha^2 / sigma^2), of any shape.

    Returns:
      (alpha, sigma), each of the shape of log_snr.
    """
    log_snr = jnp.asarray(log_snr)
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
