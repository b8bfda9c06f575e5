"""The forward process, its posterior, and the prediction targets eps, x and v.

Latents have any shape [batch, ...]. Log-SNRs are scalars or have shape [batch], one per example, or
[batch, frames], one per frame (diffusion forcing, Chen et al. 2024, arXiv 2407.01392).
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vdm.diffusion.schedule import alpha_sigma

# (z [batch, ...], log_snr [batch] or [batch, frames]) -> a raw prediction, or x_hat, shaped like z
Network = Callable[[Float[Array, " batch *shape"], Float[Array, " batch *frames"]], Array]
Denoiser = Callable[[Float[Array, " batch *shape"], Float[Array, " batch *frames"]], Array]

TARGETS = ("eps", "x", "v")


def diffuse(
    x: Float[Array, "*shape"], noise: Float[Array, "*shape"], log_snr: Float[ArrayLike, "..."]
) -> Float[Array, "*shape"]:
    """Samples q(z_t | x) = N(alpha x, sigma^2 I) (section 2): z = alpha x + sigma noise.

    Args:
      x: data [batch, ...].
      noise: standard normal noise, same shape as x.
      log_snr: a scalar, [batch] or [batch, frames].

    Returns:
      z, same shape as x.
    """
    alpha, sigma = alpha_sigma(expand_log_snr(log_snr, x))
    return alpha * x + sigma * noise


def transition(
    z_s: Float[Array, "*shape"],
    noise: Float[Array, "*shape"],
    log_snr_s: Float[ArrayLike, "..."],
    log_snr_t: Float[ArrayLike, "..."],
) -> Float[Array, "*shape"]:
    """Samples q(z_t | z_s) = N((alpha_t / alpha_s) z_s, sigma_ts^2 I) (section 2).

    sigma_ts^2 = (1 - exp(log_snr_t - log_snr_s)) sigma_t^2; requires log_snr_s > log_snr_t.

    Args:
      z_s: latent at s, [batch, ...].
      noise: standard normal noise, same shape as z_s.
      log_snr_s: log-SNR at s, a scalar, [batch] or [batch, frames].
      log_snr_t: log-SNR at t > s, a scalar, [batch] or [batch, frames].

    Returns:
      z_t, same shape as z_s.
    """
    log_snr_s, log_snr_t = expand_log_snr(log_snr_s, z_s), expand_log_snr(log_snr_t, z_s)
    log_sigmoid = jax.nn.log_sigmoid
    alpha_ratio = jnp.exp(0.5 * (log_sigmoid(log_snr_t) - log_sigmoid(log_snr_s)))
    _, sigma_t = alpha_sigma(log_snr_t)
    return alpha_ratio * z_s + jnp.sqrt(-jnp.expm1(log_snr_t - log_snr_s)) * sigma_t * noise


def posterior(
    z_t: Float[Array, "*shape"],
    x: Float[Array, "*shape"],
    log_snr_t: Float[ArrayLike, "..."],
    log_snr_s: Float[ArrayLike, "..."],
    gamma: ArrayLike = 0.0,
) -> tuple[Float[Array, "*shape"], Float[Array, "..."]]:
    """Returns the mean and variance of z_s given z_t and x; requires log_snr_s > log_snr_t.

    With r = exp(log_snr_t - log_snr_s) (section 2 and eq 4),

        mean     = r (alpha_s / alpha_t) z_t + (1 - r) alpha_s x
        variance = ((1 - r) sigma_s^2)^(1 - gamma) ((1 - r) sigma_t^2)^gamma

    At gamma = 0 this is q(z_s | z_t, x). At gamma = 1 the variance is the upper bound, the variance
    of the forward transition q(z_t | z_s).

    Args:
      z_t: latent at t, [batch, ...].
      x: data, or an estimate of it, same shape as z_t.
      log_snr_t: log-SNR at t, a scalar, [batch] or [batch, frames].
      log_snr_s: log-SNR at s < t, a scalar, [batch] or [batch, frames].
      gamma: interpolation between the variance bounds, in [0, 1].

    Returns:
      (mean, variance): the mean has the shape of z_t. The variance broadcasts against it: its shape
      is that of the log-SNRs, with axes of length 1 appended.
    """
    log_snr_t, log_snr_s = expand_log_snr(log_snr_t, z_t), expand_log_snr(log_snr_s, z_t)
    log_sigmoid = jax.nn.log_sigmoid
    alpha_s, _ = alpha_sigma(log_snr_s)
    # expm1 keeps the digits of 1 - r for nearly equal log-SNRs. The other factors are very large or
    # very small when a log-SNR is near +-20, so their product is computed as a sum of logarithms.
    one_minus_r = -jnp.expm1(log_snr_t - log_snr_s)
    log_alpha_ratio = 0.5 * (log_sigmoid(log_snr_s) - log_sigmoid(log_snr_t))
    mean = jnp.exp(log_snr_t - log_snr_s + log_alpha_ratio) * z_t + one_minus_r * alpha_s * x
    log_sigma_squared = (1.0 - gamma) * log_sigmoid(-log_snr_s) + gamma * log_sigmoid(-log_snr_t)
    return mean, one_minus_r * jnp.exp(log_sigma_squared)


def target_value(
    x: Float[Array, "*shape"],
    noise: Float[Array, "*shape"],
    log_snr: Float[ArrayLike, "..."],
    target: str,
) -> Float[Array, "*shape"]:
    """Returns the training target of a network, given diffuse(x, noise, log_snr).

    "eps" is the noise, "x" the data, and "v" is alpha noise - sigma x (Salimans and Ho 2022).

    Args:
      x: data [batch, ...].
      noise: the noise in the latent, same shape as x.
      log_snr: a scalar, [batch] or [batch, frames].
      target: one of TARGETS.

    Returns:
      The target, same shape as x.

    Raises:
      ValueError: if target is not one of TARGETS.
    """
    check_choice("target", target, TARGETS)
    if target == "eps":
        return noise
    if target == "x":
        return x
    alpha, sigma = alpha_sigma(expand_log_snr(log_snr, x))
    return alpha * noise - sigma * x


def predict_x(
    prediction: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    log_snr: Float[ArrayLike, "..."],
    target: str,
) -> Float[Array, "*shape"]:
    """Converts a prediction of the target to an estimate of x.

    x_hat = (z - sigma eps) / alpha for "eps", and alpha z - sigma v for "v" (section 2).

    Args:
      prediction: the network's output, same shape as z.
      z: latent [batch, ...].
      log_snr: a scalar, [batch] or [batch, frames].
      target: target of the prediction, one of TARGETS.

    Returns:
      x_hat, same shape as z.

    Raises:
      ValueError: if target is not one of TARGETS.
    """
    check_choice("target", target, TARGETS)
    if target == "x":
        return prediction
    alpha, sigma = alpha_sigma(expand_log_snr(log_snr, z))
    if target == "eps":
        return (z - sigma * prediction) / alpha
    return alpha * z - sigma * prediction


def predict_eps(
    x: Float[Array, "*shape"], z: Float[Array, "*shape"], log_snr: Float[ArrayLike, "..."]
) -> Float[Array, "*shape"]:
    """Returns the noise of z given x (section 2): eps = (z - alpha x) / sigma.

    Args:
      x: data, or an estimate of it, same shape as z.
      z: latent [batch, ...].
      log_snr: a scalar, [batch] or [batch, frames].

    Returns:
      eps, same shape as z.
    """
    alpha, sigma = alpha_sigma(expand_log_snr(log_snr, z))
    return (z - alpha * x) / sigma


def denoiser(network: Network, *, target: str, clip: bool = True) -> Denoiser:
    """Converts a network that predicts the target to a denoiser (z, log_snr) -> x_hat.

    Args:
      network: (z [batch, ...], log_snr [batch] or [batch, frames]) -> a prediction, same shape as
        z.
      target: target of the network, one of TARGETS.
      clip: whether to clip x_hat to [-1, 1], the range of the data. The paper does not specify it;
        the same authors' released code for progressive distillation clips.

    Returns:
      The denoiser, whose x_hat has the shape and the dtype of z.

    Raises:
      ValueError: if target is not one of TARGETS.
    """
    check_choice("target", target, TARGETS)

    def denoise(z: Float[Array, " batch *shape"], log_snr: Float[Array, " batch *frames"]) -> Array:
        # Computes x_hat in the dtype of z, even for a bfloat16 network.
        x = predict_x(network(z, log_snr).astype(z.dtype), z, log_snr, target)
        return jnp.clip(x, -1.0, 1.0) if clip else x

    return denoise


def expand_log_snr(log_snr: Float[ArrayLike, "..."], z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Appends axes of length 1 to a log-SNR, up to the rank of z.

    Args:
      log_snr: a scalar, [batch] or [batch, frames].
      z: latents [batch, ...] or [batch, frames, ...].
    """
    log_snr = jnp.asarray(log_snr)
    return log_snr.reshape(log_snr.shape + (1,) * (z.ndim - log_snr.ndim))


def check_choice(kind: str, value: str, choices: Iterable[str]) -> None:
    """Checks that an option has one of its allowed values.

    Args:
      kind: name of the option.
      value: value of the option.
      choices: the allowed values.

    Raises:
      ValueError: value is not one of choices; the message names the kind of option and the choices.
    """
    if value not in choices:
        raise ValueError(f"unknown {kind} {value!r}: it must be one of {', '.join(choices)}")
