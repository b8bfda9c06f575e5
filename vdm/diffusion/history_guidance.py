"""History guidance of diffusion-forcing models, which have one noise level per frame.

Such a denoiser is conditional and unconditional at once (Chen et al. 2024, arXiv 2407.01392): the
observed frames, the history, are a condition at noise level 0, and no condition at full noise. Song
et al. (2025, arXiv 2502.06764) combine the two estimates into guidance.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vdm.diffusion.conditioning import ObservedFrames, replacement
from vdm.diffusion.process import Denoiser
from vdm.diffusion.schedule import cosine_log_snr


@dataclasses.dataclass(frozen=True)
class HistoryOptions:
    """Options of conditional sampling with one noise level per frame. Noise levels are times t.

    Attributes:
      weight: weight of history guidance, 1 + w; 1 is no guidance.
      noise: noise level of the guiding history. 0 is vanilla history guidance; between 0 and 1 is
        fractional history guidance, which follows only the low frequencies of the history.
      context_noise: noise level of observed frames, whose noise is drawn once; 0 is clean. A small
        level is meant to stabilise long autoregressive extension, because it hides errors of
        earlier blocks. ObservedFrames.log_snr overrides it, with one level per frame.
      clip: whether to clip the guided x~ to [-1, 1].

    Raises:
      ValueError: a negative weight, or a noise level outside [0, 1].
    """

    weight: float = 1.0
    noise: float = 0.0
    context_noise: float = 0.0
    clip: bool = False

    def __post_init__(self):
        if not self.weight >= 0.0:
            raise ValueError(f"weight must be at least 0, not {self.weight}")
        for name in ("noise", "context_noise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")


def per_frame(
    log_snr: Float[Array, " levels"],
    mask: Bool[Array, "..."],
    log_snr_observed: Float[Array, "*batch_and_frames"],
) -> Float[Array, "levels batch_or_one frames"]:
    """Returns one log-SNR per frame: constant in observed frames, `log_snr` in the missing ones.

    Args:
      log_snr: log-SNRs of the missing frames, [levels], such as a sampler's schedule.
      mask: bool [frames] or [batch, frames], True for observed frames.
      log_snr_observed: log-SNR of observed frames: a scalar, [frames] or [batch, frames].
    """
    return jnp.where(jnp.atleast_2d(mask), log_snr_observed, log_snr[:, None, None])


def history_guidance(
    denoiser: Callable[..., Array],
    history: ObservedFrames,
    noise: Float[Array, " batch *shape"],
    options: HistoryOptions,
    *,
    schedule: Callable[[Array], Array] = cosine_log_snr,
    condition: object = None,
) -> Denoiser:
    """History guidance, vanilla or fractional (Song et al. 2025, section 5).

    With x_hat(z, h) the estimate for history latents h,

      x~ = x_hat(z, h) + w (x_hat(z, h_noise) - x_hat(z, h_1))

    where w = weight - 1, h is the history in z itself, h_noise the history at noise level
    options.noise, and h_1 pure noise, t = 1. At noise 0, h_noise is h: vanilla history guidance,
    i.e. classifier-free guidance (eq 6) whose unconditional model sees a history of noise. Weight 1
    is the conditional denoiser. Clip the result (options.clip), not the estimates.

    A step is one call of the denoiser, on a batch of twice (vanilla) or three times (fractional)
    the size.

    Args:
      denoiser: (z, log_snr [batch, frames]) -> x_hat, or (z, log_snr, condition) -> x_hat with a
        condition.
      history: the observed frames.
      noise: standard normal noise for the latents h_noise and h_1, same shape as z.
      options: weight, noise and clip.
      schedule: t -> log_snr, elementwise and decreasing.
      condition: a pytree of arrays [batch, ...], the denoiser's third argument; None: no such
        argument.

    Returns:
      The guided denoiser (z, log_snr [batch, frames]) -> x~, in float32.
    """
    levels = [1.0] if options.noise == 0.0 else [1.0, options.noise]

    def guided(z: Float[Array, " batch *shape"], log_snr: Float[Array, "batch frames"]) -> Array:
        latents, log_snrs = [z], [log_snr]
        for level in levels:
            log_snr_history = schedule(jnp.float32(level))
            latents.append(replacement(noise, z, history, log_snr_history))
            log_snrs.append(jnp.where(jnp.atleast_2d(history.mask), log_snr_history, log_snr))
        count = len(latents)
        bound = () if condition is None else (jax.tree.map(_repeated(count), condition),)
        estimates = denoiser(jnp.concatenate(latents), jnp.concatenate(log_snrs), *bound)
        x, masked, *partial = jnp.split(estimates.astype(jnp.float32), count)
        x = x + (options.weight - 1.0) * ((partial[0] if partial else x) - masked)
        return jnp.clip(x, -1.0, 1.0) if options.clip else x

    return guided


def _repeated(count: int) -> Callable[[Array], Array]:
    return lambda leaf: jnp.concatenate([leaf] * count)
