"""The peer's Unet3D with its own defaults, as a Flax module of the same parameters."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from peer import attention
from peer.convolution import convolve_down, convolve_up
from vdm.models.convolution import convolve

HEADS, HEAD_DIM = 8, 32
_INNER = HEADS * HEAD_DIM
_INIT_KERNEL = 7


class Unet3D(nn.Module):
    """Noise from latents [batch, frames, height, width, channels] and integer times [batch].

    Attributes:
      dim: channels at full resolution.
      dim_mults: channels of each resolution over dim.
      channels: of the video.
      frames_axis: the mesh axis over which frames are split, where they are: each device then has
        its frames in all but the temporal attention, and its pixels there.
    """

    dim: int
    dim_mults: Sequence[int]
    channels: int = 3
    frames_axis: str | None = None

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch frames height width channels"],
        time: Float[Array, " batch"],
    ) -> Float[Array, "batch frames height width channels"]:
        widths = [self.dim * multiplier for multiplier in self.dim_mults]
        in_widths = [self.dim, *widths[:-1]]
        frames = z.shape[1] * (jax.lax.axis_size(self.frames_axis) if self.frames_axis else 1)
        table = self.param(
            "relative_position_bias", nn.initializers.normal(1.0), (attention._BUCKETS, HEADS)
        )
        bias = table[attention.relative_position_buckets(frames)].transpose(2, 0, 1)

        def in_time(h, name):
            return TemporalAttention(self.frames_axis, name=name)(h, bias)

        h = _Conv(self.dim, _INIT_KERNEL, name="init_conv")(z)
        h = in_time(h, "init_temporal_attn")
        first = h
        embedding = _TimeEmbedding(self.dim, name="time_mlp")(time)

        skips = []
        for level, width in enumerate(widths):
            h = Block(width, name=f"downs_{level}_0")(h, embedding)
            h = Block(width, name=f"downs_{level}_1")(h, embedding)
            h = LinearAttention(name=f"downs_{level}_2")(h)
            h = in_time(h, f"downs_{level}_3")
            skips.append(h)
            if level + 1 < len(widths):
                h = _Resample(convolve_down, name=f"downs_{level}_4")(h)

        h = Block(widths[-1], name="mid_block1")(h, embedding)
        h = SpatialAttention(name="mid_spatial_attn")(h)
        h = in_time(h, "mid_temporal_attn")
        h = Block(widths[-1], name="mid_block2")(h, embedding)

        for level, width in enumerate(reversed(in_widths)):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = Block(width, name=f"ups_{level}_0")(h, embedding)
            h = Block(width, name=f"ups_{level}_1")(h, embedding)
            h = LinearAttention(name=f"ups_{level}_2")(h)
            h = in_time(h, f"ups_{level}_3")
            if level + 1 < len(widths):
                h = _Resample(convolve_up, name=f"ups_{level}_4")(h)

        h = Block(self.dim, name="final_conv_0")(jnp.concatenate([h, first], axis=-1))
        return _dense(self.channels, name="final_conv_1")(h)


def _dense(features, *, name, use_bias=True):
    return nn.Dense(features, use_bias=use_bias, name=name)


class _Conv(nn.Module):
    """A 'SAME' 1xkxk convolution with frames folded into the batch."""

    features: int
    size: int = 3

    @nn.compact
    def __call__(self, h):
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (self.size, self.size, h.shape[-1], self.features),
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        folded = convolve(h.reshape(-1, *h.shape[2:]), kernel, 1) + bias
        return folded.reshape(*h.shape[:-1], self.features)


class _Resample(nn.Module):
    """A 1x4x4 convolution of stride 2, or the adjoint of one."""

    convolve: object

    @nn.compact
    def __call__(self, h):
        features = h.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, features, features))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        folded = self.convolve(h.reshape(-1, *h.shape[2:]), kernel) + bias
        return folded.reshape(*h.shape[:2], *folded.shape[1:])


class _TimeEmbedding(nn.Module):
    dim: int

    @nn.compact
    def __call__(self, time):
        half = self.dim // 2
        frequencies = np.exp(-np.log(10_000) / (half - 1) * np.arange(half)).astype(np.float32)
        angles = time[:, None] * frequencies
        embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        embedding = nn.Dense(4 * self.dim, name="dense_0")(embedding)
        return nn.Dense(4 * self.dim, name="dense_1")(nn.gelu(embedding, approximate=False))


class Block(nn.Module):
    """Two of [convolution, RMS norm, SiLU], the first scaled and shifted by the time, plus skip."""

    features: int

    @nn.compact
    def __call__(self, h, embedding=None):
        skip = h
        if h.shape[-1] != self.features:
            skip = _dense(self.features, name="res_conv")(h)
        scale = shift = 0.0
        if embedding is not None:
            embedded = nn.Dense(2 * self.features, name="mlp")(nn.silu(embedding))
            scale, shift = jnp.split(embedded[:, None, None, None, :], 2, axis=-1)
        h = _Conv(self.features, name="proj_1")(h)
        h = nn.silu(_RMSNorm(name="norm_1")(h) * (scale + 1) + shift)
        h = _Conv(self.features, name="proj_2")(h)
        return skip + nn.silu(_RMSNorm(name="norm_2")(h))


class _RMSNorm(nn.Module):
    @nn.compact
    def __call__(self, h):
        gamma = self.param("gamma", nn.initializers.ones, (h.shape[-1],))
        # torch.nn.functional.normalize: over the length, at least 1e-12.
        square = jnp.maximum(jnp.square(h).sum(-1, keepdims=True), 1e-24)
        return h * jax.lax.rsqrt(square) * (h.shape[-1] ** 0.5 * gamma)


class LinearAttention(nn.Module):
    """Each frame's pixels attend to one another by linear attention."""

    @nn.compact
    def __call__(self, h):
        channels = h.shape[-1]
        init = nn.initializers.lecun_normal()
        params = {"gamma": self.param("gamma", nn.initializers.ones, (channels,))}
        for name in ("query", "key", "value"):
            params[name] = self.param(name, init, (channels, _INNER))
        params["out"] = self.param("out", init, (_INNER, channels))
        params["out_bias"] = self.param("out_bias", nn.initializers.zeros, (channels,))
        pixels = h.reshape(h.shape[0] * h.shape[1], -1, channels)
        return attention.linear_attention(params, pixels, HEADS).reshape(h.shape)


def _attention_params(module, channels):
    init = nn.initializers.lecun_normal()
    params = {"gamma": module.param("gamma", nn.initializers.ones, (channels,))}
    for name in ("query", "key", "value"):
        params[name] = module.param(name, init, (HEADS, channels, HEAD_DIM))
    params["out"] = module.param("out", init, (HEADS, HEAD_DIM, channels))
    return params


class SpatialAttention(nn.Module):
    """Each frame's pixels attend to one another."""

    @nn.compact
    def __call__(self, h):
        pixels = h.reshape(h.shape[0] * h.shape[1], -1, h.shape[-1])
        params = _attention_params(self, h.shape[-1])
        return attention.attention(params, pixels, rotary=False).reshape(h.shape)


class TemporalAttention(nn.Module):
    """Each pixel attends to itself in other frames, by rotary embedding and relative bias."""

    frames_axis: str | None

    @nn.compact
    def __call__(self, h, bias):
        batch, frames, height, width, channels = h.shape
        pixels = h.reshape(batch, frames, height * width, channels)
        if self.frames_axis:
            pixels = jax.lax.all_to_all(pixels, self.frames_axis, 2, 1, tiled=True)
        params = _attention_params(self, channels) | {"bias": bias}
        tokens = pixels.swapaxes(1, 2)
        attended = attention.attention(params, tokens.reshape(-1, *tokens.shape[2:]), rotary=True)
        pixels = attended.reshape(tokens.shape).swapaxes(1, 2)
        if self.frames_axis:
            pixels = jax.lax.all_to_all(pixels, self.frames_axis, 1, 2, tiled=True)
        return pixels.reshape(h.shape)
