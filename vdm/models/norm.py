"""Group normalisation of single frames."""

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# The paper does not specify the number of groups; the authors' released diffusion code has 32.
_MAX_GROUPS = 32
_MIN_CHANNELS_PER_GROUP = 4
_EPSILON = 1e-6


class FrameGroupNorm(nn.Module):
    """Group normalisation of each frame, with optional FiLM and swish.

    Statistics are per frame: across frames, they would let independent images change the video and
    would tie the network to one number of frames. They are float32; the result has `dtype`.
    """

    swish: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch frames height width channels"],
        film: Sequence[Float[Array, "batch frames_or_one channels"]] | None = None,
    ) -> Float[Array, "batch frames height width channels"]:
        """Normalises h; with film = (scale, shift), returns (1 + scale) * normalised h + shift.

        FiLM comes before the swish.
        """
        channels = h.shape[-1]
        groups = math.gcd(_MAX_GROUPS, channels, max(1, channels // _MIN_CHANNELS_PER_GROUP))
        scale, bias = _Affine(channels, name="group_norm")()
        if film is not None:
            film_scale, film_shift = (part.astype(jnp.float32) for part in film)
            scale, bias = scale * (1 + film_scale), bias * (1 + film_scale) + film_shift
        per_frame = (*h.shape[:2], channels)
        return normalize_groups(
            h.astype(self.dtype),
            jnp.broadcast_to(scale, per_frame),
            jnp.broadcast_to(bias, per_frame),
            groups,
            self.swish,
        )


class _Affine(nn.Module):
    """Scale and bias per channel, with the parameter names of flax.linen.GroupNorm."""

    features: int

    @nn.compact
    def __call__(self):
        return (
            self.param("scale", nn.initializers.ones, (self.features,), jnp.float32),
            self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32),
        )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_groups(
    h: Float[Array, "batch frames height width channels"],
    scale: Float[Array, "batch frames channels"],
    bias: Float[Array, "batch frames channels"],
    groups: int,
    swish: bool,
) -> Float[Array, "batch frames height width channels"]:
    """Returns scale * (h - mean) / standard deviation + bias, followed by swish if `swish`.

    The mean and the variance are over the pixels and channels of a group in one frame (Wu and He
    2018, arXiv 1803.08494). Custom gradient: saves only h. Autodiff's gradient saves four such
    arrays and is slower on every backend.

    Args:
      h: feature maps.
      scale: factor of each frame and channel.
      bias: summand of each frame and channel.
      groups: number of groups; divides the channels.
      swish: whether the result is x * sigmoid(x) of the normalised x.

    Returns:
      The normalised feature maps, in the shape and dtype of h.
    """
    return _normalize_forward(h, scale, bias, groups, swish)[0]


def _normalize_forward(h, scale, bias, groups, swish):
    x = h.astype(jnp.float32)
    # Reducing pixels first keeps the innermost axis (channels) vectorised.
    mean = _group_mean(x.mean((2, 3)), groups)
    mean_square = _group_mean(jnp.square(x).mean((2, 3)), groups)
    rate = jax.lax.rsqrt(jnp.maximum(mean_square - jnp.square(mean), 0.0) + _EPSILON)
    gain = rate * scale
    offset = bias - mean * gain
    y = x * _expand_pixels(gain) + _expand_pixels(offset)
    if swish:
        # A quotient, because XLA on CPU stores quotients and recomputes products: nn.swish would be
        # computed again in the transposed copy for the next convolution's kernel gradient.
        y = y / (1 + jnp.exp(-y))
    return y.astype(h.dtype), (h, mean, rate, scale, gain, offset)


def _normalize_backward(groups, swish, saved, gradient):
    h, mean, rate, scale, gain, offset = saved
    x, g = h.astype(jnp.float32), gradient.astype(jnp.float32)
    if swish:
        y = x * _expand_pixels(gain) + _expand_pixels(offset)
        # One division, at the end: XLA stores a quotient as an array instead of recomputing it.
        inverse_odds = jnp.exp(-jnp.maximum(y, -40.0))
        g = g * (1 + inverse_odds * (1 + y)) / jnp.square(1 + inverse_odds)
    # rate * (g' - mean(g') - n * mean(g' * n)) for n = (x - mean) * rate and g' = g * scale (Ioffe
    # and Szegedy 2015, section 3), as a combination of g, x and 1 that needs no array n.
    g_mean = g.mean((2, 3))
    grad_scale_mean = ((g * x).mean((2, 3)) - mean * g_mean) * rate
    x_factor = -jnp.square(rate) * _group_mean(grad_scale_mean * scale, groups)
    constant = -rate * _group_mean(g_mean * scale, groups) - mean * x_factor
    grad_h = g * _expand_pixels(gain) + x * _expand_pixels(x_factor) + _expand_pixels(constant)
    pixels = h.shape[2] * h.shape[3]
    return grad_h.astype(h.dtype), grad_scale_mean * pixels, g_mean * pixels


normalize_groups.defvjp(_normalize_forward, _normalize_backward)


def _group_mean(
    per_channel: Float[Array, "batch frames channels"], groups: int
) -> Float[Array, "batch frames channels"]:
    """Returns the mean of each group, repeated for its channels."""
    batch, frames, channels = per_channel.shape
    means = per_channel.reshape(batch, frames, groups, -1).mean(-1)
    return jnp.repeat(means, channels // groups, axis=-1)


def _expand_pixels(
    per_channel: Float[Array, "batch frames channels"],
) -> Float[Array, "batch frames 1 1 channels"]:
    return per_channel[:, :, None, None, :]
