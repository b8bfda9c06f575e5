"""The trajectory from noise to data that all samplers share.

A trajectory holds the log-SNRs, the keys, the observed frames and the loop over steps. Every random
number of a sample is a function of the sample's key, the purpose of the draw and the step number,
so that a sample depends neither on the batch size nor on its index in the batch.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from vdm.diffusion.conditioning import (
    ObservedFrames,
    replace_observed,
    replacement,
    replacement_posterior,
)
from vdm.diffusion.process import transition

Keys = Key[Array, " batch"]
Latent = Float[Array, " batch *shape"]

# What noise is drawn for: the initial latent, a step, a corrector, observed frames, RePaint's step
# back to more noise, and the history of history guidance.
INITIAL, STEP, CORRECTOR, OBSERVED, BACK, HISTORY = range(6)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The initial latent, the steps to take from it, and the observed frames.

    Step number i takes z from log_snr[k] to log_snr[k + 1], with k = steps[i]. k is i, except in
    RePaint, which repeats steps.

    Attributes:
      keys: one key per sample, [batch].
      z: latents at log_snr[0], [batch, ...].
      log_snr: log-SNRs [num_steps + 1], increasing from noise to data; or one per frame,
        [num_steps + 1, batch or 1, frames], which may be constant for observed frames.
      steps: step indices k in order; None for 0, ..., num_steps - 1.
      frames: observed frames, whose latents come from the forward process; None: no observed
        frames.
      use_posterior: whether the latents of observed frames are drawn from q(z_s | x, z_t)
        instead of q(z_s | x).
      keep_latents: whether observed frames keep their first latents, for a constant log-SNR.
      on_step: callback on the host, called with i before step number i, or None.
    """

    keys: Keys
    z: Latent
    log_snr: Float[Array, " steps *frames"]
    steps: list[int] | None = None
    frames: ObservedFrames | None = None
    use_posterior: bool = False
    keep_latents: bool = False
    on_step: Callable[[Array], object] | None = None

    @classmethod
    def start(
        cls,
        key: PRNGKeyArray | Keys,
        shape: tuple[int, ...],
        log_snr: Float[Array, " steps *frames"],
        *,
        steps: list[int] | None = None,
        frames: ObservedFrames | None = None,
        use_posterior: bool = False,
        keep_latents: bool = False,
        on_step: Callable[[Array], object] | None = None,
    ) -> "Trajectory":
        """Draws initial latents [batch, ...] and returns the trajectory that starts there.

        Args:
          key: one key for the batch, or one typed key per sample, [batch].
          shape: shape of the latents, [batch, ...].
          log_snr: see the attribute.
          steps: see the attribute.
          frames: see the attribute.
          use_posterior: see the attribute.
          keep_latents: see the attribute.
          on_step: see the attribute.

        Raises:
          ValueError: key is neither one key nor one key per sample.
        """
        keys = _keys_per_sample(key, shape[0])
        z = _noise(keys, INITIAL, 0, tuple(shape))
        if frames is not None:
            z = replacement(z, z, frames, log_snr[0])
        return cls(keys, z, log_snr, steps, frames, use_posterior, keep_latents, on_step)

    def noise(self, purpose: int, i: int | Array) -> Latent:
        """Returns standard normal noise [batch, ...] for step number i, from each sample's key.

        Args:
          purpose: one of INITIAL, STEP, CORRECTOR, OBSERVED, BACK, HISTORY.
          i: step number.
        """
        return _noise(self.keys, purpose, i, self.z.shape)

    def impose_observed(self, i: Array, k: Array, z_t: Latent, z_s: Latent) -> Latent:
        """Returns z_s with observed frames from the forward process, or from z_t (keep_latents).

        Args:
          i: step number.
          k: index of the step: z_t is at log_snr[k], and z_s at log_snr[k + 1].
          z_t: latents before the step, [batch, ...].
          z_s: latents after the step, same shape as z_t.
        """
        if self.frames is None:
            return z_s
        if self.keep_latents:
            return replace_observed(z_s, self.frames, z_t)
        log_snr_t, log_snr_s, noise = self.log_snr[k], self.log_snr[k + 1], self.noise(OBSERVED, i)
        frames = self.frames.known_at(log_snr_s)
        if self.use_posterior:
            return replacement_posterior(noise, z_s, z_t, frames, log_snr_t, log_snr_s)
        return replacement(noise, z_s, frames, log_snr_s)

    def keep_observed(self, k: Array, before: Latent, after: Latent) -> Latent:
        """Returns `after`, at log_snr[k + 1], with its observed frames taken from `before`.

        Args:
          k: index of the step.
          before: latents [batch, ...] whose observed frames are kept.
          after: latents of which the missing frames are kept, same shape as `before`.
        """
        if self.frames is None:
            return after
        frames = self.frames if self.keep_latents else self.frames.known_at(self.log_snr[k + 1])
        return replace_observed(after, frames, before)

    def last_x(self, step: Callable[..., tuple[Latent, Latent]]) -> Latent:
        """Runs all steps and returns the last x_hat.

        Args:
          step: (i, k, z, x_hat of the previous step) -> (z, x_hat), for step number i at index k.

        Returns:
          The x_hat of the last step, [batch, ...].
        """
        end = len(self.log_snr) - 1
        steps = list(range(end)) if self.steps is None else self.steps
        next_steps = [*steps[1:], end]
        goes_back = any(after <= before for before, after in zip(steps, next_steps, strict=True))
        step_of, next_step_of = jnp.asarray(steps), jnp.asarray(next_steps)

        def body(i, state):
            if self.on_step is not None:
                jax.debug.callback(self.on_step, i)
            k, next_k = step_of[i], next_step_of[i]
            z, x = step(i, k, *state)
            if goes_back:
                log_snr_s, log_snr_t = self.log_snr[k + 1], self.log_snr[next_k]
                back = transition(z, self.noise(BACK, i), log_snr_s, log_snr_t)
                z = jnp.where(next_k <= k, back, z)
            return z, x

        # The loop carries x_hat, so that the denoiser is compiled once. A last call after the loop
        # would compile it twice, which takes minutes for a large network on many devices.
        _, x = jax.lax.fori_loop(0, len(steps), body, (self.z, jnp.zeros_like(self.z)))
        return x


def _noise(keys: Keys, purpose: int, i: int | Array, shape: tuple[int, ...]) -> Latent:
    def noise(key):
        key = jax.random.fold_in(jax.random.fold_in(key, purpose), i)
        return jax.random.normal(key, math.prod(shape[1:]), jnp.float32)

    # Drawn flat, which gives the same values: see `vdm.diffusion.loss.draw_noise`.
    return jax.vmap(noise)(keys).reshape(shape)


def _keys_per_sample(key: PRNGKeyArray | Keys, batch: int) -> Keys:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape == ():
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(
            f"key has shape {key.shape}, and must be one key, or one per sample, ({batch},)"
        )
    return key
