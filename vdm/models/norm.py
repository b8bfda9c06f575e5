"""Group normalisation of each frame by itself."""

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# The paper does not give its groups; 32 is what the authors' released diffusion code uses.
_MOST_GROUPS = 32
_FEWEST_CHANNELS_A_GROUP = 4
_EPSILON = 1e-6


class FrameGroupNorm(nn.Module):
    """Group normalisation with statistics over one frame's pixels, and what follows it in a block.

    Statistics that pooled frames would let independent images change the video frames beside them,
    and would tie the network to one number of frames.

    Attributes:
      swish: apply swish to the result.
      dtype: of the result; statistics are float32.
    """

    swish: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch frames height width channels"],
        film: Sequence[Float[Array, "batch frames_or_one channels"]] | None = None,
    ) -> Float[Array, "batch frames height width channels"]:
        """Normalises.

        Args:
          h: features.
          film: scale and shift [batch, frames or 1, channels] of the normalised features, which
            become (1 + scale) * features + shift before the swish (FiLM).
        """
        channels = h.shape[-1]
        groups = math.gcd(_MOST_GROUPS, max(1, channels // _FEWEST_CHANNELS_A_GROUP))
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
    """The scale and bias of each channel, named as those of flax.linen.GroupNorm."""

    features: int

    @nn.compact
    def __call__(self):
        return (
            self.param("scale", nn.initializers.ones, (self.features,)),
            self.param("bias", nn.initializers.zeros, (self.features,)),
        )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_groups(
    h: Float[Array, "batch frames height width channels"],
    scale: Float[Array, "batch frames channels"],
    bias: Float[Array, "batch frames channels"],
    groups: int,
    swish: bool,
) -> Float[Array, "batch frames height width channels"]:
    """scale * (h - mean) / standard deviation + bias, then swish where it is asked for.

    The mean and the variance are those of a frame's group of neighbouring channels. The gradient is
    written out because the one that is derived keeps four arrays of the size of h between the
    passes, where h itself is enough, and takes longer on every back end.
    """
    return _normalize(h, scale, bias, groups, swish)[0]


def _normalize(h, scale, bias, groups, swish):
    x = h.astype(jnp.float32)
    # Over pixels first: the innermost axis stays whole, and the reduction is a sum of vectors.
    mean = _group_mean(x.mean((2, 3)), groups)
    mean_square = _group_mean(jnp.square(x).mean((2, 3)), groups)
    rate = jax.lax.rsqrt(jnp.maximum(mean_square - jnp.square(mean), 0.0) + _EPSILON)
    gain = rate * scale
    offset = bias - mean * gain
    y = x * _over_pixels(gain) + _over_pixels(offset)
    y = nn.swish(y) if swish else y
    return y.astype(h.dtype), (h, mean, rate, scale, gain, offset)


def _normalize_backward(groups, swish, saved, gradient):
    h, mean, rate, scale, gain, offset = saved
    x, g = h.astype(jnp.float32), gradient.astype(jnp.float32)
    if swish:
        y = x * _over_pixels(gain) + _over_pixels(offset)
        # Divided last: XLA makes an array of a quotient rather than divide again where it is used,
        # and this one exists in the backward pass alone.
        inverse_odds = jnp.exp(-jnp.maximum(y, -40.0))
        g = g * (1 + inverse_odds * (1 + y)) / jnp.square(1 + inverse_odds)
    # With n = (x - mean) * rate the gradient is rate * (g' - mean(g') - n * mean(g' * n)), for
    # g' = g * scale and means over the group (Ioffe and Szegedy 2015, section 3). It is written as
    # one multiple of g, one of x and a constant, so that no array like n is made.
    g_mean = g.mean((2, 3))
    along_mean = ((g * x).mean((2, 3)) - mean * g_mean) * rate
    of_x = -jnp.square(rate) * _group_mean(along_mean * scale, groups)
    constant = -rate * _group_mean(g_mean * scale, groups) - mean * of_x
    towards_h = g * _over_pixels(gain) + x * _over_pixels(of_x) + _over_pixels(constant)
    pixels = h.shape[2] * h.shape[3]
    return towards_h.astype(h.dtype), along_mean * pixels, g_mean * pixels


normalize_groups.defvjp(_normalize, _normalize_backward)


def _group_mean(
    of_channels: Float[Array, "batch frames channels"], groups: int
) -> Float[Array, "batch frames channels"]:
    """The mean over each group, for each of its channels."""
    batch, frames, channels = of_channels.shape
    means = of_channels.reshape(batch, frames, groups, -1).mean(-1)
    return jnp.repeat(means, channels // groups, axis=-1)


def _over_pixels(
    of_channels: Float[Array, "batch frames channels"],
) -> Float[Array, "batch frames 1 1 channels"]:
    return of_channels[:, :, None, None, :]
