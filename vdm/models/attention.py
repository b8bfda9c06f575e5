"""Spatial and temporal self-attention over [batch, frames, height, width, channels].

Both are written heads first ([..., heads, tokens, head_dim]), which XLA turns into plain batched
matrix products on every back end.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm.models.dense import fold
from vdm.models.norm import FrameGroupNorm


class _QueryKeyValue(nn.Module):
    """Tokens to queries (scaled by head_dim ** -0.5), keys and values, heads first."""

    head_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "groups tokens channels"]
    ) -> tuple[Float[Array, "groups heads tokens head_dim"], ...]:
        # One plain matrix product; a kernel with an axis of heads is several times slower to
        # differentiate on CPUs.
        projected = nn.Dense(
            3 * tokens.shape[-1],
            use_bias=False,
            dtype=self.dtype,
            dot_general=fold,
            name="projection",
        )(tokens)
        query, key, value = (
            part.reshape(*part.shape[:-1], -1, self.head_dim).swapaxes(-2, -3)
            for part in jnp.split(projected, 3, axis=-1)
        )
        return query * self.head_dim**-0.5, key, value


class _Output(nn.Module):
    """Heads to tokens, through a projection that starts at zero."""

    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, attended: Float[Array, "groups heads tokens head_dim"]
    ) -> Float[Array, "groups tokens channels"]:
        tokens = attended.swapaxes(-2, -3)
        tokens = tokens.reshape(*tokens.shape[:-2], -1)
        return nn.Dense(
            tokens.shape[-1],
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            dot_general=fold,
            name="projection",
        )(tokens)


@jax.custom_vjp
def softmax(logits: Float[Array, "... keys"]) -> Float[Array, "... keys"]:
    """The softmax over the last axis, in float32, whose gradient needs its result alone.

    The derived gradient keeps more arrays of this size, the largest of the network.
    """
    return jax.nn.softmax(logits.astype(jnp.float32)).astype(logits.dtype)


def _softmax_forward(logits):
    weights = softmax(logits)
    return weights, weights


def _softmax_backward(weights, gradient):
    w, g = weights.astype(jnp.float32), gradient.astype(jnp.float32)
    return ((w * (g - jnp.sum(w * g, axis=-1, keepdims=True))).astype(weights.dtype),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@jax.custom_vjp
def compare(
    query: Float[Array, "groups heads queries head_dim"],
    key: Float[Array, "groups heads keys head_dim"],
) -> Float[Array, "groups heads queries keys"]:
    """The product of each query with each key.

    The gradients of this function and of `combine` are written out for the sake of the products
    that sum over queries. As they are derived, these have no fast routine in XLA for CPUs, where
    they took five times as long as with one factor turned around before.
    """
    return jnp.einsum("nhqd,nhkd->nhqk", query, key)


def _compare_forward(query, key):
    return compare(query, key), (query, key)


def _compare_backward(saved, gradient):
    query, key = saved
    return combine(gradient, key), combine(_turned_around(gradient), query)


@jax.custom_vjp
def combine(
    weights: Float[Array, "groups heads queries keys"],
    value: Float[Array, "groups heads keys head_dim"],
) -> Float[Array, "groups heads queries head_dim"]:
    """The sum of the values for each query, weighted."""
    return jnp.einsum("nhqk,nhkd->nhqd", weights, value)


def _combine_forward(weights, value):
    return combine(weights, value), (weights, value)


def _combine_backward(saved, gradient):
    weights, value = saved
    return compare(gradient, value), combine(_turned_around(weights), gradient)


compare.defvjp(_compare_forward, _compare_backward)
combine.defvjp(_combine_forward, _combine_backward)


def _turned_around(weights):
    """Queries and keys exchanged; in memory as well on CPUs, or XLA takes that back."""
    return jax.lax.platform_dependent(
        weights.swapaxes(-1, -2), cpu=jax.lax.optimization_barrier, default=lambda turned: turned
    )


class SpatialAttention(nn.Module):
    """Each frame's pixels attend to one another; frames are batch (paper, section 3).

    Attributes:
      head_dim: width of a head; divides the channels.
      dtype: of the computation.
    """

    head_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames height width channels"]:
        batch, frames, height, width, channels = h.shape
        tokens = FrameGroupNorm(dtype=self.dtype, name="norm")(h)
        tokens = tokens.reshape(batch * frames, height * width, channels)
        query, key, value = _QueryKeyValue(self.head_dim, self.dtype, name="qkv")(tokens)
        attended = combine(softmax(compare(query, key)), value)
        return h + _Output(self.dtype, name="out")(attended).reshape(h.shape)


class TemporalAttention(nn.Module):
    """Each pixel attends to itself in other frames; space is batch (paper, section 3).

    Relative position embeddings a^K and a^V in the manner of Shaw et al. (2018), equations 3 and 4:

        logit_ij = q_i (k_j + a^K_(j-i)) / sqrt(head_dim)
        out_i = sum_j weight_ij (v_j + a^V_(j-i))

    with distances clipped to +-max_relative_distance, so that the attention knows how far apart
    two frames are and nothing about when they are.

    Attributes:
      head_dim: width of a head; divides the channels.
      max_relative_distance: in frames; farther frames count as this far.
      dtype: of the computation.
    """

    head_dim: int
    max_relative_distance: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch frames height width channels"],
        frame_positions: Int[Array, " frames"],
        mask: Bool[Array, "frames frames"],
    ) -> Float[Array, "batch frames height width channels"]:
        """Attends over frames.

        Args:
          h: features.
          frame_positions: the time of each frame, in frames; only differences matter.
          mask: entry [i, j] says whether frame i sees frame j. A frame that sees only itself gets
            weight exactly 1 for itself: the softmax of one finite logit.
        """
        batch, frames, height, width, channels = h.shape
        tokens = FrameGroupNorm(dtype=self.dtype, name="norm")(h)
        tokens = tokens.reshape(batch, frames, height * width, channels).swapaxes(1, 2)
        tokens = tokens.reshape(batch * height * width, frames, channels)
        query, key, value = _QueryKeyValue(self.head_dim, self.dtype, name="qkv")(tokens)

        limit = self.max_relative_distance
        distance = jnp.clip(frame_positions[None, :] - frame_positions[:, None], -limit, limit)
        relative_key, relative_value = (
            self.param(
                name,
                nn.initializers.normal(1.0),
                (2 * limit + 1, self.head_dim),
            )[distance + limit].astype(self.dtype)
            for name in ("relative_key", "relative_value")
        )
        logits = compare(query, key)
        logits += jnp.einsum("nhqd,qkd->nhqk", query, relative_key)
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        weights = softmax(logits)
        attended = combine(weights, value)
        attended += jnp.einsum("nhqk,qkd->nhqd", weights, relative_value)
        update = _Output(self.dtype, name="out")(attended)
        update = update.reshape(batch, height * width, frames, channels).swapaxes(1, 2)
        return h + update.reshape(h.shape)


def independent_images_mask(num_frames: int, num_images: int) -> Bool[Array, "total total"]:
    """Temporal attention mask for joint training on video and images (paper, section 4.3.1).

    Video frames see one another; each of the num_images frames after them sees only itself, and
    the attention matrix restricted to those is the identity.
    """
    is_video = jnp.arange(num_frames + num_images) < num_frames
    return (is_video[:, None] & is_video[None, :]) | jnp.eye(num_frames + num_images, dtype=bool)
