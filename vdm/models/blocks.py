"""Residual, downsampling and upsampling blocks."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vdm.models.attention import SpatialAttention, TemporalAttention
from vdm.models.convolution import FrameConv, PointwiseDense
from vdm.models.norm import FrameGroupNorm


class Downsample(nn.Module):
    """Halves height and width with a convolution of stride 2."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames half_height half_width channels"]:
        return FrameConv(h.shape[-1], stride=2, dtype=self.dtype, name="conv")(h)


class Upsample(nn.Module):
    """Doubles height and width by nearest-neighbour upsampling, then convolves."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames double_height double_width features"]:
        doubled = jnp.repeat(jnp.repeat(h, 2, axis=2), 2, axis=3)
        return FrameConv(self.features, dtype=self.dtype, name="conv")(doubled)


class ResidualBlock(nn.Module):
    """The residual block of DDPM: norm, swish, conv, embedding, norm, swish, dropout, conv, skip.

    With `film`, the embedding scales and shifts the second norm (FiLM) instead of being added.
    """

    features: int
    dropout: float
    film: bool
    deterministic: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch frames height width channels"],
        embedding: Float[Array, "batch frames_or_one width_of_embedding"],
    ) -> Float[Array, "batch frames height width features"]:
        skip = h
        if h.shape[-1] != self.features:
            skip = PointwiseDense(self.features, dtype=self.dtype, name="skip")(h)
        h = FrameGroupNorm(swish=True, dtype=self.dtype, name="norm_1")(h)
        h = FrameConv(self.features, dtype=self.dtype, name="conv_1")(h)
        embedded = PointwiseDense(
            2 * self.features if self.film else self.features, dtype=self.dtype, name="embedding"
        )(embedding)
        norm_2 = FrameGroupNorm(swish=True, dtype=self.dtype, name="norm_2")
        if self.film:
            h = norm_2(h, film=jnp.split(embedded, 2, axis=-1))
        else:
            h = norm_2(h + embedded[:, :, None, None, :])
        h = nn.Dropout(self.dropout, deterministic=self.deterministic)(h)
        h = FrameConv(self.features, zero_init=True, dtype=self.dtype, name="conv_2")(h)
        return skip + h


class SpaceTimeBlock(nn.Module):
    """A residual block, followed by spatial and temporal attention if `attention`."""

    features: int
    attention: bool
    head_dim: int
    max_relative_distance: int
    relative_position_scale: float
    attention_bias: bool
    attention_in_tiles: bool
    dropout: float
    film: bool
    deterministic: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch frames height width channels"],
        embedding: Float[Array, "batch frames_or_one width_of_embedding"],
        frame_positions: Int[Array, " frames"],
        mask: Bool[Array, "frames frames"],
    ) -> Float[Array, "batch frames height width features"]:
        h = ResidualBlock(
            features=self.features,
            dropout=self.dropout,
            film=self.film,
            deterministic=self.deterministic,
            dtype=self.dtype,
            name="residual",
        )(h, embedding)
        if self.attention:
            h = SpatialAttention(
                head_dim=self.head_dim,
                use_bias=self.attention_bias,
                in_tiles=self.attention_in_tiles,
                dtype=self.dtype,
                name="spatial_attention",
            )(h)
            h = TemporalAttention(
                head_dim=self.head_dim,
                max_relative_distance=self.max_relative_distance,
                relative_position_scale=self.relative_position_scale,
                use_bias=self.attention_bias,
                dtype=self.dtype,
                name="temporal_attention",
            )(h, frame_positions, mask)
        return h
