"""What is observed of a video, and the methods that replace observed frames in the latent.

An observation is an array in the range of the data together with what it is an observation of:
some frames, or the whole video at a lower resolution. A tuple of them is their conjunction.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vdm.diffusion.process import diffuse, posterior

DOWNSAMPLINGS = ("area", "bilinear")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ObservedFrames:
    """Some frames of each video are known: a prefix, a suffix, every k-th, any subset.

    Attributes:
      values: [batch, frames, ...], of the shape of the videos; what it holds for frames that are
        not observed is not read.
      mask: bool [frames] or [batch, frames], True for the frames that are observed.
    """

    values: Any  # any array, and whatever JAX puts in its place while it transforms
    mask: Any

    def residual(self, x: Float[Array, " batch *shape"]) -> Float[Array, " batch *shape"]:
        """x_a - A(x): observed minus estimated frames, and 0 in the others."""
        return jnp.where(self.mask_over(x), self.values - x, 0.0)

    def solve_covariance(
        self, residual: Float[Array, "*shape"], size: tuple[int, ...]
    ) -> Float[Array, "*shape"]:
        """(A A^T)^-1 residual, where A takes the frames out: the residual itself."""
        return residual

    def mask_over(self, x: Float[Array, "..."]) -> Bool[Array, "..."]:
        """The mask with axes added, [batch or 1, frames, 1, ..., 1]."""
        return _over(self.mask, x)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError, saying what does not fit, unless this can observe such videos."""
        if tuple(self.values.shape) != tuple(shape):
            raise ValueError(
                f"observed frames of shape {tuple(self.values.shape)} do not fit videos of shape "
                f"{tuple(shape)}"
            )
        _check_mask(self.mask, shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ObservedLowResolution:
    """Frames of each video, by default all, are known at a lower resolution.

    Attributes:
      values: [batch, frames, h, w, channels]; h and w divide those of the videos. What it holds for
        frames that are not observed is not read.
      mask: bool [frames] or [batch, frames], True for the frames that are observed; None for all.
      downsampling: 'area', the mean of each block of pixels, or 'bilinear', with half-pixel centres
        and the wider kernel that avoids aliasing (`jax.image.resize`).
    """

    values: Any
    mask: Any = None
    downsampling: str = dataclasses.field(default="area", metadata={"static": True})

    def residual(
        self, x: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames h w channels"]:
        """x_a - D(x): observed minus estimated low resolution, and 0 where none is observed."""
        residual = self.values - downsample(x, self.values.shape[2:4], self.downsampling)
        return residual if self.mask is None else jnp.where(_over(self.mask, x), residual, 0.0)

    def solve_covariance(
        self, residual: Float[Array, "batch frames h w channels"], size: tuple[int, int]
    ) -> Float[Array, "batch frames h w channels"]:
        """(D D^T)^-1 residual, for D from frames of `size` (height, width)."""
        rows, columns = (
            jnp.linalg.inv(matrix @ matrix.T)
            for matrix in _matrices(size, residual.shape[2:4], self.downsampling)
        )
        return jnp.einsum("ij,kl,bfjlc->bfikc", rows, columns, residual)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError, saying what does not fit, unless this can observe such videos."""
        if self.downsampling not in DOWNSAMPLINGS:
            raise ValueError(
                f"downsampling must be one of {', '.join(DOWNSAMPLINGS)}, not {self.downsampling!r}"
            )
        small, large = tuple(self.values.shape), tuple(shape)
        fits = len(small) == len(large) == 5 and small[:2] + small[4:] == large[:2] + large[4:]
        if not fits or large[2] % small[2] or large[3] % small[3]:
            raise ValueError(
                f"an observed low resolution of shape {small} does not fit videos of shape {large}:"
                " height and width must divide theirs, and the rest be equal"
            )
        if self.mask is not None:
            _check_mask(self.mask, shape)


Observation = (
    ObservedFrames
    | ObservedLowResolution
    | tuple[ObservedFrames | ObservedLowResolution, ...]
    | None
)


def downsample(
    x: Float[Array, "batch frames height width channels"],
    size: tuple[int, int],
    downsampling: str = "area",
) -> Float[Array, "batch frames h w channels"]:
    """Frames at a lower resolution `size` (h, w), as two matrix products (D of eq 8)."""
    rows, columns = _matrices(x.shape[2:4], size, downsampling)
    return jnp.einsum("ij,kl,bfjlc->bfikc", rows, columns, x)


def observations_of(
    observation: Observation, shape: tuple[int, ...]
) -> tuple[ObservedFrames | ObservedLowResolution, ...]:
    """An observation as a tuple, after checking that it fits videos of a shape [batch, ...].

    Raises:
      ValueError: a part does not fit, or there are two sets of observed frames.
    """
    if observation is None:
        return ()
    parts = observation if isinstance(observation, tuple) else (observation,)
    for part in parts:
        part.check(shape)
    if sum(isinstance(part, ObservedFrames) for part in parts) > 1:
        raise ValueError("observed frames are given twice: give them as one, with one mask")
    return parts


def observed_frames(observation: Observation) -> ObservedFrames | None:
    """The part of an observation that is whole frames, if there is one."""
    parts = observation if isinstance(observation, tuple) else (observation,)
    return next((part for part in parts if isinstance(part, ObservedFrames)), None)


def replace_observed(
    z: Float[Array, " batch *shape"], frames: ObservedFrames, by: Float[Array, " batch *shape"]
) -> Float[Array, " batch *shape"]:
    """z with its observed frames taken from `by`."""
    return jnp.where(frames.mask_over(z), by, z)


def replacement(
    noise: Float[Array, " batch *shape"],
    z_s: Float[Array, " batch *shape"],
    frames: ObservedFrames,
    log_snr_s: Float[Array, "..."],
) -> Float[Array, " batch *shape"]:
    """The replacement method (section 3.1): z_a,s ~ q(z_a,s given x_a), whatever z_a,t was."""
    return replace_observed(z_s, frames, diffuse(frames.values, noise, log_snr_s))


def replacement_posterior(
    noise: Float[Array, " batch *shape"],
    z_s: Float[Array, " batch *shape"],
    z_t: Float[Array, " batch *shape"],
    frames: ObservedFrames,
    log_snr_t: Float[Array, "..."],
    log_snr_s: Float[Array, "..."],
) -> Float[Array, " batch *shape"]:
    """The other replacement method (section 3.1): z_a,s ~ q(z_a,s given x_a, z_a,t)."""
    mean, variance = posterior(z_t, frames.values, log_snr_t, log_snr_s)
    return replace_observed(z_s, frames, mean + jnp.sqrt(variance) * noise)


def repaint_places(num_steps: int, jump_length: int, repeats: int) -> list[int]:
    """The order in which RePaint (Lugmayr et al. 2022, arXiv 2201.09865) takes sampling steps.

    The steps 0 to num_steps - 1 fall into jumps of jump_length, from the noise on (the last may be
    shorter), and each jump is taken `repeats` times before the next one: where a step is followed
    by an earlier or the same one, the latent goes back there by the forward process.

    Raises:
      ValueError: jump_length or repeats below 1.
    """
    for name, value in (("repaint_jump_length", jump_length), ("repaint_repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    jumps = [
        list(range(first, min(first + jump_length, num_steps)))
        for first in range(0, num_steps, jump_length)
    ]
    return [place for jump in jumps for place in jump * repeats]


def _over(mask: Bool[Array, "..."], x: Float[Array, "..."]) -> Bool[Array, "..."]:
    mask = jnp.atleast_2d(mask)
    return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def _check_mask(mask: Array, shape: tuple[int, ...]) -> None:
    if mask.dtype != bool or tuple(mask.shape) not in (tuple(shape[1:2]), tuple(shape[:2])):
        raise ValueError(
            f"the mask of observed frames must be bool [{shape[1]}] or [{shape[0]}, {shape[1]}], "
            f"not {mask.dtype} {list(mask.shape)}"
        )


def _matrices(
    size: tuple[int, int], small: tuple[int, int], downsampling: str
) -> tuple[Float[Array, "h height"], Float[Array, "w width"]]:
    def matrix(length: int, short: int) -> Array:
        if downsampling == "area":
            return jnp.repeat(jnp.eye(short), length // short, axis=1) * (short / length)
        return jax.image.resize(jnp.eye(length), (short, length), "bilinear")

    return matrix(size[0], small[0]), matrix(size[1], small[1])
