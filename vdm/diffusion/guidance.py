"""Classifier-free and reconstruction guidance: wrap denoisers, and return a denoiser."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.conditioning import Observation, observations_of, observed_frames
from vdm.diffusion.process import Denoiser
from vdm.diffusion.schedule import alpha_sigma

NORMALIZATIONS = ("none", "residual")


@dataclasses.dataclass(frozen=True)
class ConditionalDenoiser:
    """A denoiser (z, log_snr, condition) with its condition bound: (z, log_snr) -> x_hat.

    Attributes:
      denoiser: (z, log_snr, condition) -> x_hat.
      condition: a pytree of arrays [batch, ...].
    """

    denoiser: Callable[..., Array]
    condition: object

    def __call__(
        self, z: Float[Array, " batch *shape"], log_snr: Float[Array, " batch *frames"]
    ) -> Float[Array, " batch *shape"]:
        """Returns x_hat given the condition."""
        return self.denoiser(z, log_snr, self.condition)


def classifier_free_guidance(
    conditional: Denoiser, unconditional: Denoiser, weight: float | Float[Array, " batch"]
) -> Denoiser:
    """Classifier-free guidance (eq 6), with weight = 1 + w.

        eps~ = (1 + w) eps(z, c) - w eps(z)

    The same holds for any target linear in eps: x~ = weight x(z, c) - (weight - 1) x(z). Weight 1
    is the conditional denoiser, and weight 0 the unconditional one. Clip the result, not the two
    estimates: eq 6 does not hold for clipped estimates.

    Two `ConditionalDenoiser`s of the same function are evaluated in one call, on a batch of twice
    the size. Their conditions must have the same structure.

    Args:
      conditional: (z, log_snr) -> x_hat given the condition.
      unconditional: (z, log_snr) -> x_hat without it.
      weight: 1 + w, a scalar or one per video, [batch]. The authors' later papers use this
        convention, and probably tables 5 and 6.

    Returns:
      The guided denoiser (z, log_snr) -> x~.
    """

    def guided(z: Float[Array, " batch *shape"], log_snr: Float[Array, " batch *frames"]) -> Array:
        x, x_unconditional = _evaluate_both(conditional, unconditional, z, log_snr)
        scale = jnp.reshape(weight, (-1, *[1] * (z.ndim - 1))) if jnp.ndim(weight) else weight
        return x_unconditional + scale * (x - x_unconditional)

    return guided


def _evaluate_both(first: Denoiser, second: Denoiser, z: Array, log_snr: Array) -> list[Array]:
    """Returns the estimates of both denoisers, from one call if they share a function."""
    if not (
        isinstance(first, ConditionalDenoiser)
        and isinstance(second, ConditionalDenoiser)
        and first.denoiser is second.denoiser
    ):
        return [first(z, log_snr), second(z, log_snr)]
    z, log_snr = jnp.concatenate([z, z]), jnp.concatenate([log_snr, log_snr])
    condition = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), first.condition, second.condition
    )
    return jnp.split(first.denoiser(z, log_snr, condition), 2)


@dataclasses.dataclass(frozen=True)
class ReconstructionOptions:
    """Options of `reconstruction_guidance`. Only the weight is in the paper.

    Attributes:
      weight: w_r of eq 7 and 8. The paper's values are 50 (BAIR) and 9 (Kinetics).
      clip: whether to clip x~ to [-1, 1].
      normalization: "none" is the gradient of the squared error, as in the paper. "residual"
        divides it by the norm of the residual, so that the correction does not vanish with the
        residual (diffusion posterior sampling, Chung et al. 2023, arXiv 2209.14687, section 3.2).
      data_variance: None is the paper's q(x_a | z) ~ N(A(x_hat), (sigma / alpha)^2 I), which
        assumes data of unbounded variance. A number s^2, the variance of the data, gives the
        covariance (sigma^2 s^2 / (alpha^2 s^2 + sigma^2)) A A^T of pseudo-inverse guidance (Song
        et al. 2023, ICLR), which is exact for independent Gaussian pixels of that variance.
      micro_batches: number of micro-batches per guided step; must divide the batch. Bounds
        activation memory; does not change x~, because videos are independent.

    Raises:
      ValueError: an unknown normalization, a data_variance that is not positive, or micro_batches
        below 1.
    """

    weight: float = 1.0
    clip: bool = False
    normalization: str = "none"
    data_variance: float | None = None
    micro_batches: int = 1

    def __post_init__(self):
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalization must be one of {', '.join(NORMALIZATIONS)}, "
                f"not {self.normalization!r}"
            )
        if self.data_variance is not None and not self.data_variance > 0:
            raise ValueError(f"data_variance must be positive, not {self.data_variance}")
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches must be at least 1, not {self.micro_batches}")


def reconstruction_guidance(
    denoiser: Callable[..., Array],
    observation: Observation,
    weight: float | None = None,
    *,
    options: ReconstructionOptions | None = None,
    condition: object = None,
) -> Denoiser:
    """Reconstruction guidance in time (eq 7), in space (eq 8), or in both at once.

    With the observation x_a, and A(x) the same observation of a video x,

        x~ = x_hat - (weight alpha / 2) grad_z || x_a - A(x_hat(z)) ||^2

    in the missing frames. Observed frames keep x_hat, because the sampler replaces their latents. A
    step costs one forward and one backward pass of the denoiser; the gradient is with respect to z
    only.

    Pass a denoiser that does not clip, and set options.clip: the gradient vanishes where x_hat is
    clipped, so wrongly saturated pixels would stay saturated. The paper does not specify clipping.

    Args:
      denoiser: (z, log_snr) -> x_hat, or (z, log_snr, condition) -> x_hat with a condition.
      observation: ObservedFrames, ObservedLowResolution, or a tuple of them; their squared errors
        are summed.
      weight: w_r; by default options.weight.
      options: by default ReconstructionOptions().
      condition: a pytree of arrays [batch, ...], the denoiser's third argument; None: no such
        argument. With micro-batches it is split along the batch, so it must hold all per-video
        inputs.

    Returns:
      The guided denoiser (z, log_snr) -> x~, in float32.

    Raises:
      ValueError: when called, an observation that does not fit z, or micro_batches that do not
        divide the batch.
    """
    options = options or ReconstructionOptions()
    weight = options.weight if weight is None else weight
    data_variance = options.data_variance

    def guided(z: Float[Array, " batch *shape"], log_snr: Float[Array, " batch"]) -> Array:
        parts = observations_of(observation, z.shape)
        return _map_micro_batches(guide, options.micro_batches, z, log_snr, parts, condition)

    def guide(z, log_snr, parts, condition):
        bound = () if condition is None else (condition,)
        parts = tuple(part.known_at(log_snr) for part in parts)

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
        if options.normalization == "residual":
            scale = scale * jax.lax.rsqrt(squared + jnp.finfo(jnp.float32).tiny)
        correction = weight * scale.reshape(-1, *[1] * (z.ndim - 1)) * gradient
        frames = observed_frames(parts)
        if frames is not None:
            correction = jnp.where(frames.expanded_mask(z), 0.0, correction)
        x = x - correction
        return jnp.clip(x, -1.0, 1.0) if options.clip else x

    return guided


def _map_micro_batches(guide, count, z, log_snr, parts, condition):
    """Returns guide(z, log_snr, parts, condition), computed micro-batch by micro-batch.

    Micro-batch k holds videos k, k + count, ... so that a batch sharded in contiguous blocks is
    split without communication, if `count` divides the number of videos per device.
    """
    batch = len(z)
    if batch % count:
        raise ValueError(f"a batch of {batch} cannot be divided into {count} micro-batches")
    if count == 1:
        return guide(z, log_snr, parts, condition)

    def split(a):
        return jnp.moveaxis(a.reshape(batch // count, count, *a.shape[1:]), 1, 0)

    def with_frames_per_video(part):
        of_frames = {"mask": part.mask, "log_snr": getattr(part, "log_snr", None)}
        of_frames = {
            name: jnp.broadcast_to(value, z.shape[:2])
            for name, value in of_frames.items()
            if value is not None
        }
        return dataclasses.replace(part, **of_frames)

    x = jax.lax.map(
        lambda arguments: guide(*arguments),
        jax.tree.map(split, (z, log_snr, tuple(map(with_frames_per_video, parts)), condition)),
    )
    return jnp.moveaxis(x, 0, 1).reshape(z.shape)
