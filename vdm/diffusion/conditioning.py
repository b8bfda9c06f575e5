"""Observations of a video, and the replacement methods that impose observed frames on a latent.

An observation holds known values in the range of the data: whole frames (imputation, video
prediction), or the video at a lower resolution (spatial super-resolution). A tuple of observations
means that all of them hold.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vdm.diffusion.process import check_choice, diffuse, posterior

DOWNSAMPLINGS = ("area", "bilinear")
_ROUNDING = 1e-3  # tolerance of log-SNRs: a frame is known at its own noise level


@dataclasses.dataclass(frozen=True)
class ObservedPart(abc.ABC):
    """Base class of observations: known values x_a = A(x) of a video x, with differentiable A.

    Subclasses are frozen dataclasses, registered with `jax.tree_util.register_dataclass`.

    Attributes:
      values: x_a, [batch, ...].
      mask: bool [frames] or [batch, frames], True for observed frames; None for all frames.
    """

    values: Any  # an array, or the placeholder of a JAX transformation
    mask: Any = None

    @abc.abstractmethod
    def residual(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *observed"]:
        """Returns x_a - A(x), and 0 in the missing frames."""

    @abc.abstractmethod
    def solve_covariance(
        self, residual: Float[Array, "*observed"], size: tuple[int, ...]
    ) -> Float[Array, "*observed"]:
        """Returns (A A^T)^-1 residual for frames of `size`, for pseudo-inverse guidance."""

    @abc.abstractmethod
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless the observation fits videos of this shape."""

    def known_at(self, log_snr: Float[Array, "..."]) -> "ObservedPart":
        """Returns the part that is known at a log-SNR, a scalar or [batch]; default: everything."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ObservedFrames(ObservedPart):
    """Known frames of each video: a prefix, a suffix, every k-th frame, or any subset.

    Attributes:
      values: [batch, frames, ...], the shape of the videos; ignored where the mask is False.
      mask: bool [frames] or [batch, frames], True for observed frames.
      log_snr: log-SNR up to which each frame is known, [frames] or [batch, frames]. This context
        noise hides errors of generated frames. None: all frames are known exactly.
    """

    values: Any
    mask: Any
    log_snr: Any = None

    def residual(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *shape"]:
        """Returns x_a - A(x): observed minus estimated frames, and 0 in the missing frames."""
        return jnp.where(self.expanded_mask(x), self.values - x, 0.0)

    def solve_covariance(
        self, residual: Float[Array, "*shape"], size: tuple[int, ...]
    ) -> Float[Array, "*shape"]:
        """Returns (A A^T)^-1 residual, where A selects frames: the residual itself."""
        return residual

    def expanded_mask(self, x: Float[Array, "..."]) -> Bool[Array, "..."]:
        """Returns the mask as [batch or 1, frames, 1, ..., 1], with as many axes as x."""
        return _expand(self.mask, x)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless the observation fits videos of this shape."""
        if tuple(self.values.shape) != tuple(shape):
            raise ValueError(
                f"observed frames of shape {tuple(self.values.shape)} do not fit videos of shape "
                f"{tuple(shape)}"
            )
        _check_mask(self.mask, shape)
        allowed = (tuple(shape[1:2]), tuple(shape[:2]))
        if self.log_snr is not None and tuple(self.log_snr.shape) not in allowed:
            raise ValueError(
                f"the log-SNRs of observed frames must be [{shape[1]}] or [{shape[0]}, {shape[1]}],"
                f" not {list(self.log_snr.shape)}"
            )

    def known_at(self, log_snr: Float[Array, "..."]) -> "ObservedFrames":
        """Returns the frames whose own log-SNR is at least `log_snr`, a scalar or [batch].

        A frame does not determine latents with less noise than its own.
        """
        if self.log_snr is None:
            return self
        known = jnp.asarray(log_snr)[..., None] <= jnp.atleast_2d(self.log_snr) + _ROUNDING
        return ObservedFrames(self.values, jnp.atleast_2d(self.mask) & known)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ObservedLowResolution(ObservedPart):
    """Frames of each video, by default all of them, known at a lower resolution.

    Attributes:
      values: [batch, frames, h, w, channels], where h and w divide the height and width of the
        videos; ignored where the mask is False.
      mask: bool [frames] or [batch, frames], True for observed frames; None for all frames.
      downsampling: 'area', the mean of each block of pixels, or 'bilinear', antialiased with
        half-pixel centres (`jax.image.resize`).
    """

    values: Any
    mask: Any = None
    downsampling: str = dataclasses.field(default="area", metadata={"static": True})

    def residual(
        self, x: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames h w channels"]:
        """Returns x_a - D(x): observed minus downsampled estimate, and 0 in the missing frames."""
        residual = self.values - downsample(x, self.values.shape[2:4], self.downsampling)
        return residual if self.mask is None else jnp.where(_expand(self.mask, x), residual, 0.0)

    def solve_covariance(
        self, residual: Float[Array, "batch frames h w channels"], size: tuple[int, ...]
    ) -> Float[Array, "batch frames h w channels"]:
        """Returns (D D^T)^-1 residual, where D downsamples frames of `size` (height, width)."""
        rows, columns = (
            jnp.linalg.inv(matrix @ matrix.T)
            for matrix in _matrices(size, residual.shape[2:4], self.downsampling)
        )
        return jnp.einsum("ij,kl,bfjlc->bfikc", rows, columns, residual)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless the observation fits videos of this shape."""
        if self.downsampling not in DOWNSAMPLINGS:
            raise ValueError(
                f"downsampling must be one of {', '.join(DOWNSAMPLINGS)}, not {self.downsampling!r}"
            )
        small, large = tuple(self.values.shape), tuple(shape)
        fits = len(small) == len(large) == 5 and small[:2] + small[4:] == large[:2] + large[4:]
        if not fits or large[2] % small[2] or large[3] % small[3]:
            raise ValueError(
                f"an observed low resolution of shape {small} does not fit videos of shape {large}:"
                " height and width must divide those of the videos, and other axes must be equal"
            )
        if self.mask is not None:
            _check_mask(self.mask, shape)


Observation = ObservedPart | tuple[ObservedPart, ...] | None


def downsample(
    x: Float[Array, "batch frames height width channels"],
    size: tuple[int, ...],
    downsampling: str = "area",
) -> Float[Array, "batch frames h w channels"]:
    """Returns frames at a lower resolution, D(x) of eq 8, as two matrix products.

    Args:
      x: videos.
      size: (h, w); must divide height and width.
      downsampling: one of DOWNSAMPLINGS.

    Raises:
      ValueError: size does not divide height and width, or an unknown downsampling.
    """
    check_choice("downsampling", downsampling, DOWNSAMPLINGS)
    if len(size) != 2 or min(size) < 1 or x.shape[2] % size[0] or x.shape[3] % size[1]:
        raise ValueError(
            f"size is {tuple(size)}, and must divide the height and width of the videos, "
            f"{tuple(x.shape[2:4])}"
        )
    rows, columns = _matrices(x.shape[2:4], size, downsampling)
    return jnp.einsum("ij,kl,bfjlc->bfikc", rows, columns, x)


def observations_of(observation: Observation, shape: tuple[int, ...]) -> tuple[ObservedPart, ...]:
    """Converts an observation to a tuple of parts of JAX arrays, with float32 values and log-SNRs.

    Args:
      observation: None, one part, or a tuple of parts.
      shape: shape of the videos, [batch, frames, ...].

    Raises:
      ValueError: a part does not fit the shape, or two parts are ObservedFrames.
    """
    if observation is None:
        return ()
    parts = observation if isinstance(observation, tuple) else (observation,)
    parts = tuple(map(_with_arrays, parts))
    for part in parts:
        part.check(shape)
    if sum(isinstance(part, ObservedFrames) for part in parts) > 1:
        raise ValueError("observation has two ObservedFrames, and must have one, with one mask")
    return parts


def observed_frames(observation: Observation) -> ObservedFrames | None:
    """Returns the ObservedFrames of an observation, or None if it has none."""
    parts = observation if isinstance(observation, tuple) else (observation,)
    return next((part for part in parts if isinstance(part, ObservedFrames)), None)


def replace_observed(
    z: Float[Array, " batch *shape"],
    frames: ObservedFrames,
    source: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    """Returns z with its observed frames taken from `source`.

    Args:
      z: latents [batch, frames, ...].
      frames: observed frames, of which only the mask is used.
      source: latents of the observed frames, same shape as z.
    """
    return jnp.where(frames.expanded_mask(z), source, z)


def replacement(
    noise: Float[Array, " batch *shape"],
    z_s: Float[Array, " batch *shape"],
    frames: ObservedFrames,
    log_snr_s: Float[Array, "..."],
) -> Float[Array, " batch *shape"]:
    """Samples the observed frames of z_s from q(z_a,s | x_a): the replacement method.

    Section 3.1 of the paper. The previous latent z_a,t is not used.

    Args:
      noise: standard normal noise, same shape as z_s.
      z_s: latent at s, [batch, frames, ...].
      frames: the observed frames x_a.
      log_snr_s: log-SNR at s, a scalar, [batch] or [batch, frames].

    Returns:
      z_s with new observed frames, same shape.
    """
    return replace_observed(z_s, frames, diffuse(frames.values, noise, log_snr_s))


def replacement_posterior(
    noise: Float[Array, " batch *shape"],
    z_s: Float[Array, " batch *shape"],
    z_t: Float[Array, " batch *shape"],
    frames: ObservedFrames,
    log_snr_t: Float[Array, "..."],
    log_snr_s: Float[Array, "..."],
) -> Float[Array, " batch *shape"]:
    """Samples the observed frames of z_s from q(z_a,s | x_a, z_a,t) (section 3.1).

    Args:
      noise: standard normal noise, same shape as z_s.
      z_s: latent at s, [batch, frames, ...].
      z_t: latent at t > s, same shape as z_s.
      frames: the observed frames x_a.
      log_snr_t: log-SNR at t, a scalar, [batch] or [batch, frames].
      log_snr_s: log-SNR at s, a scalar, [batch] or [batch, frames].

    Returns:
      z_s with new observed frames, same shape.
    """
    mean, variance = posterior(z_t, frames.values, log_snr_t, log_snr_s)
    return replace_observed(z_s, frames, mean + jnp.sqrt(variance) * noise)


def repaint_steps(num_steps: int, jump_length: int, repeats: int) -> list[int]:
    """Returns the order of sampling steps in RePaint (Lugmayr et al. 2022, arXiv 2201.09865).

    Steps 0 to num_steps - 1 are divided into jumps of jump_length steps; the last jump may be
    shorter. Each jump runs `repeats` times before the next jump starts. When the next index is not
    larger, the forward process first takes the latent back to more noise.

    Args:
      num_steps: number of steps of the sampler.
      jump_length: number of steps per jump, at least 1.
      repeats: number of times that each jump runs, at least 1.

    Returns:
      Step indices, num_steps * repeats of them.

    Raises:
      ValueError: jump_length or repeats is below 1.
    """
    for name, value in (("repaint_jump_length", jump_length), ("repaint_repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    jumps = [
        list(range(first, min(first + jump_length, num_steps)))
        for first in range(0, num_steps, jump_length)
    ]
    return [step for jump in jumps for step in jump * repeats]


def _with_arrays(part: ObservedPart) -> ObservedPart:
    arrays = {"values": jnp.asarray(part.values, jnp.float32)}
    if part.mask is not None:
        arrays["mask"] = jnp.asarray(part.mask)
    if (log_snr := getattr(part, "log_snr", None)) is not None:
        arrays["log_snr"] = jnp.asarray(log_snr, jnp.float32)
    return dataclasses.replace(part, **arrays)


def _expand(mask: Bool[Array, "..."], x: Float[Array, "..."]) -> Bool[Array, "..."]:
    mask = jnp.atleast_2d(mask)
    return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def _check_mask(mask: Array, shape: tuple[int, ...]) -> None:
    if mask.dtype != bool or tuple(mask.shape) not in (tuple(shape[1:2]), tuple(shape[:2])):
        raise ValueError(
            f"the mask of observed frames must be bool [{shape[1]}] or [{shape[0]}, {shape[1]}], "
            f"not {mask.dtype} {list(mask.shape)}"
        )


def _matrices(
    size: tuple[int, ...], small: tuple[int, ...], downsampling: str
) -> tuple[Float[Array, "h height"], Float[Array, "w width"]]:
    """Returns the matrices that downsample rows and columns, from `size` to `small`."""

    def matrix(length: int, short: int) -> Array:
        if downsampling == "area":
            blocks = jnp.repeat(jnp.eye(short, dtype=jnp.float32), length // short, axis=1)
            return blocks * (short / length)
        return jax.image.resize(jnp.eye(length, dtype=jnp.float32), (short, length), "bilinear")

    return matrix(size[0], small[0]), matrix(size[1], small[1])
