"""Spatial and temporal self-attention over [batch, frames, height, width, channels].

Arrays have heads first, [..., heads, tokens, head_dim]. XLA compiles this layout to batched matrix
products on every backend.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm.models.blocked_attention import attend_in_tiles
from vdm.models.convolution import PointwiseDense, transposed_in_memory
from vdm.models.norm import FrameGroupNorm


class _QueryKeyValue(nn.Module):
    """Projects tokens to queries (scaled by head_dim ** -0.5), keys and values, heads first."""

    head_dim: int
    use_bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "groups tokens channels"]
    ) -> tuple[Float[Array, "groups heads tokens head_dim"], ...]:
        # One matrix product for all heads: with a separate head axis, the kernel's gradient is
        # several times slower on CPUs.
        projected = PointwiseDense(
            3 * tokens.shape[-1],
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="projection",
        )(tokens)
        query, key, value = (
            part.reshape(*part.shape[:-1], -1, self.head_dim).swapaxes(-2, -3)
            for part in jnp.split(projected, 3, axis=-1)
        )
        return query * self.head_dim**-0.5, key, value


class _Output(nn.Module):
    """Concatenates the heads of each token and projects them, with zero initialisation."""

    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, attended: Float[Array, "groups heads tokens head_dim"]
    ) -> Float[Array, "groups tokens channels"]:
        tokens = attended.swapaxes(-2, -3)
        tokens = tokens.reshape(*tokens.shape[:-2], -1)
        return PointwiseDense(
            tokens.shape[-1],
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="projection",
        )(tokens)


@jax.custom_vjp
def softmax(logits: Float[Array, "... keys"]) -> Float[Array, "... keys"]:
    """Returns the softmax over the last axis, computed in float32, in the dtype of the logits.

    Custom gradient: saves only the result. Autodiff's gradient saves more arrays of this size, the
    largest in the network.
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
    """Returns the dot products of all queries with all keys.

    Custom gradient, here and in `combine`: XLA on CPU has no fast kernel for contractions over the
    query axis. Transposing one operand first is 5 times as fast.
    """
    return jnp.einsum("nhqd,nhkd->nhqk", query, key)


def _compare_forward(query, key):
    return compare(query, key), (query, key)


def _compare_backward(saved, gradient):
    query, key = saved
    return combine(gradient, key), combine(transposed_in_memory(gradient), query)


@jax.custom_vjp
def combine(
    weights: Float[Array, "groups heads queries keys"],
    value: Float[Array, "groups heads keys head_dim"],
) -> Float[Array, "groups heads queries head_dim"]:
    """Returns the weighted sum of the values for each query."""
    return jnp.einsum("nhqk,nhkd->nhqd", weights, value)


def _combine_forward(weights, value):
    return combine(weights, value), (weights, value)


def _combine_backward(saved, gradient):
    weights, value = saved
    return compare(gradient, value), combine(transposed_in_memory(weights), gradient)


compare.defvjp(_compare_forward, _compare_backward)
combine.defvjp(_combine_forward, _combine_backward)


class SpatialAttention(nn.Module):
    """Spatial self-attention: pixels attend within their frame (section 3).

    Attributes:
      head_dim: width of an attention head; must divide the channels.
      use_bias: whether the projections of queries, keys and values have biases.
      in_tiles: whether the backward pass recomputes the attention weights, tile by tile.
      dtype: dtype of the computation.
    """

    head_dim: int
    use_bias: bool = True
    in_tiles: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames height width channels"]:
        batch, frames, height, width, channels = h.shape
        tokens = FrameGroupNorm(dtype=self.dtype, name="norm")(h)
        tokens = tokens.reshape(batch * frames, height * width, channels)
        query, key, value = _QueryKeyValue(
            head_dim=self.head_dim, use_bias=self.use_bias, dtype=self.dtype, name="qkv"
        )(tokens)
        if self.in_tiles:
            items = (batch, -1, height * width, self.head_dim)
            attended = attend_in_tiles(*(part.reshape(items) for part in (query, key, value)))
            attended = attended.reshape(query.shape)
        else:
            attended = combine(softmax(compare(query, key)), value)
        return h + _Output(dtype=self.dtype, name="out")(attended).reshape(h.shape)


class TemporalAttention(nn.Module):
    """Temporal self-attention: each pixel attends to the same pixel of all frames (section 3).

    With relative position embeddings a^K and a^V (Shaw et al. 2018, equations 3 and 4):

        logit_ij = q_i (k_j + a^K_(j-i)) / sqrt(head_dim)
        out_i = sum_j weight_ij (v_j + a^V_(j-i))

    Attention depends on the distance between frames and not on their absolute time.

    Attributes:
      head_dim: width of an attention head; must divide the channels.
      max_relative_distance: distances j - i, in frames, are clipped to +- this number.
      relative_position_scale: standard deviation of the normal distribution from which a^K and a^V
        are initialised.
      use_bias: whether the projections of queries, keys and values have biases.
      dtype: dtype of the computation.
    """

    head_dim: int
    max_relative_distance: int
    relative_position_scale: float = 1.0
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch frames height width channels"],
        frame_positions: Int[Array, " frames"],
        mask: Bool[Array, "frames frames"],
    ) -> Float[Array, "batch frames height width channels"]:
        """Attends over frames, and adds the result to h.

        A frame that attends only to itself has weight exactly 1, the softmax of a single finite
        logit.

        Args:
          h: feature maps; independent images are the last frames.
          frame_positions: time of each frame, in frames; only differences matter.
          mask: mask[i, j] is True if frame i attends to frame j.

        Returns:
          The updated feature maps, same shape as h.
        """
        batch, frames, height, width, channels = h.shape
        tokens = FrameGroupNorm(dtype=self.dtype, name="norm")(h)
        tokens = tokens.reshape(batch, frames, height * width, channels).swapaxes(1, 2)
        tokens = tokens.reshape(batch * height * width, frames, channels)
        query, key, value = _QueryKeyValue(
            head_dim=self.head_dim, use_bias=self.use_bias, dtype=self.dtype, name="qkv"
        )(tokens)

        limit = self.max_relative_distance
        distance = jnp.clip(frame_positions[None, :] - frame_positions[:, None], -limit, limit)
        relative_key, relative_value = (
            self.param(
                name,
                nn.initializers.normal(self.relative_position_scale),
                (2 * limit + 1, self.head_dim),
                jnp.float32,
            )[distance + limit].astype(self.dtype)
            for name in ("relative_key", "relative_value")
        )
        logits = compare(query, key)
        logits += jnp.einsum("nhqd,qkd->nhqk", query, relative_key)
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        weights = softmax(logits)
        attended = combine(weights, value)
        attended += jnp.einsum("nhqk,qkd->nhqd", weights, relative_value)
        update = _Output(dtype=self.dtype, name="out")(attended)
        update = update.reshape(batch, height * width, frames, channels).swapaxes(1, 2)
        return h + update.reshape(h.shape)


def independent_images_mask(num_frames: int, num_images: int) -> Bool[Array, "total total"]:
    """Returns the temporal attention mask for joint training on video and images (section 4.3.1).

    Video frames attend to one another. Each of the num_images last frames attends only to itself.

    Args:
      num_frames: number of frames of the video.
      num_images: number of independent images after them; 0: none.

    Returns:
      bool [total, total], total = num_frames + num_images; True at [i, j] if i attends to j.
    """
    is_video = jnp.arange(num_frames + num_images) < num_frames
    return (is_video[:, None] & is_video[None, :]) | jnp.eye(num_frames + num_images, dtype=bool)
