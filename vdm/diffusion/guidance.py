"""Guidance: denoisers in, a denoiser out."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.conditioning import Observation, observations_of, observed_frames
from vdm.diffusion.process import Denoiser
from vdm.diffusion.schedule import alpha_sigma

NORMALIZATIONS = ("none", "residual")


def classifier_free_guidance(
    conditional: Denoiser, unconditional: Denoiser, weight: float
) -> Denoiser:
    """Classifier-free guidance (eq 6), with weight = 1 + w.

      eps~ = (1 + w) eps(z, c) - w eps(z)

    and, x_hat being linear in eps, x~ = weight x(z, c) - (weight - 1) x(z). At 1 it is the
    conditional denoiser, at 0 the unconditional one. Clip after it rather than before: of clipped
    estimates it is not eq 6 any more.

    Args:
      conditional: (z, log_snr) -> x_hat given the condition.
      unconditional: (z, log_snr) -> x_hat given none.
      weight: 1 + w, the convention of the authors' later papers and, as far as can be told, of the
        paper's tables 5 and 6.
    """

    def guided(z: Float[Array, " batch *shape"], log_snr: Float[Array, " batch"]) -> Array:
        return extrapolate(conditional(z, log_snr), unconditional(z, log_snr), weight)

    return guided


def extrapolate(
    conditional: Float[Array, "*shape"], unconditional: Float[Array, "*shape"], weight: float
) -> Float[Array, "*shape"]:
    """Eq 6 for predictions in any space that is linear in eps: weight c - (weight - 1) u."""
    return unconditional + weight * (conditional - unconditional)


def reconstruction_guidance(
    denoiser: Callable[..., Array],
    observation: Observation,
    weight: float,
    *,
    condition: object = None,
    clip: bool = False,
    normalization: str = "none",
    data_variance: float | None = None,
    micro_batches: int = 1,
) -> Denoiser:
    """Reconstruction guidance in time (eq 7), in space (eq 8), or in both at once.

    With x_a the observation and A(x) what a video x would have shown of itself there,

      x~ = x_hat - (weight alpha / 2) grad_z || x_a - A(x_hat(z)) ||^2

    in all but observed frames, whose x_hat is the network's: their latents are replaced anyway.
    Costs a forward and a backward pass through the denoiser's activations; the gradient is taken
    with respect to z alone.

    A denoiser that clips its x_hat has no gradient where it does so, and a video that is wrongly
    white stays white: pass one with clip=False, and clip the result. The paper fixes neither.

    Args:
      denoiser: (z, log_snr) -> x_hat, best without clipping; (z, log_snr, condition) -> x_hat
        where there is a condition.
      observation: ObservedFrames, ObservedLowResolution, or a tuple of them, whose squared errors
        add up.
      weight: w_r; the paper's are 50 (BAIR) and 9 (Kinetics).
      condition: what the denoiser is given of each video, a tree of arrays [batch, ...].
      clip: clip x~ to [-1, 1].
      normalization: "none" is the paper's gradient of the squared error; "residual" divides that
        by the norm of the residual, so that the correction has a length that does not fade as the
        residual does (diffusion posterior sampling, Chung et al. 2023, arXiv 2209.14687, section
        3.2). Not fixed by the paper.
      data_variance: not in the paper. None takes q(x_a given z) ~ N(A(x_hat), (sigma / alpha)^2 I),
        the paper's, which has data of unbounded variance in mind. A number s^2, the variance of
        the data around its mean, takes the covariance (sigma^2 s^2 / (alpha^2 s^2 + sigma^2)) A A^T
        of pseudo-inverse guidance (Song et al. 2023, ICLR, "Pseudoinverse-guided diffusion
        models"), which is exact for independent Gaussian pixels of that variance.
      micro_batches: how many parts of the batch are guided one after the other, which divides the
        batch. The gradient of a video depends on no other video, so that x~ is the same, and the
        activations that the backward pass needs exist for one part at a time. All that the denoiser
        knows of single videos has to be in `condition`, which is divided too.

    Returns:
      The guided denoiser (z, log_snr) -> x~, in float32.

    Raises:
      ValueError: an unknown normalization, a data_variance that is not positive, or, when called,
        an observation that does not fit z, or micro_batches that do not divide the batch.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"normalization must be one of {', '.join(NORMALIZATIONS)}, not {normalization!r}"
        )
    if data_variance is not None and not data_variance > 0:
        raise ValueError(f"data_variance must be positive, and it is {data_variance}")

    def guided(z: Float[Array, " batch *shape"], log_snr: Float[Array, " batch"]) -> Array:
        parts = observations_of(observation, z.shape)
        return _in_micro_batches(guided_by, micro_batches, z, log_snr, parts, condition)

    def guided_by(z, log_snr, parts, condition):
        bound = () if condition is None else (condition,)

        def half_error(z):
            x = denoiser(z, log_snr, *bound).astype(jnp.float32)
            residuals = [part.residual(x) for part in parts]
            solved = residuals
            if data_variance is not None:
                solved = [
                    part.solve_covariance(residual, x.shape[2:4])
                    for part, residual in zip(parts, residuals, strict=True)
                ]
            squared = sum(
                jnp.sum(r * s, axis=tuple(range(1, r.ndim)))
                for r, s in zip(residuals, solved, strict=True)
            )
            return 0.5 * jnp.sum(squared), (x, squared)

        gradient, (x, squared) = jax.grad(half_error, has_aux=True)(z)
        alpha, sigma = alpha_sigma(log_snr)
        if data_variance is None:
            scale = alpha
        else:
            scale = (alpha**2 * data_variance + sigma**2) / (alpha * data_variance)
        if normalization == "residual":
            scale = scale * jax.lax.rsqrt(squared + jnp.finfo(jnp.float32).tiny)
        correction = weight * scale.reshape(-1, *[1] * (z.ndim - 1)) * gradient
        frames = observed_frames(parts)
        if frames is not None:
            correction = jnp.where(frames.mask_over(z), 0.0, correction)
        x = x - correction
        return jnp.clip(x, -1.0, 1.0) if clip else x

    return guided


def _in_micro_batches(guided_by, count, z, log_snr, parts, condition):
    """guided_by(z, log_snr, parts, condition), for one video of every `count` at a time.

    Consecutive videos go to different micro-batches: a batch that is split over devices in blocks
    is divided with no exchange between devices, if `count` divides what each of them holds.
    """
    batch = len(z)
    if count < 1 or batch % count:
        raise ValueError(f"a batch of {batch} cannot be divided into {count} micro-batches")
    if count == 1:
        return guided_by(z, log_snr, parts, condition)

    def divided(a):
        return jnp.moveaxis(a.reshape(batch // count, count, *a.shape[1:]), 1, 0)

    def of_each_video(part):
        if part.mask is None:
            return part
        return dataclasses.replace(part, mask=jnp.broadcast_to(part.mask, z.shape[:2]))

    x = jax.lax.map(
        lambda arguments: guided_by(*arguments),
        jax.tree.map(divided, (z, log_snr, tuple(map(of_each_video, parts)), condition)),
    )
    return jnp.moveaxis(x, 0, 1).reshape(z.shape)
