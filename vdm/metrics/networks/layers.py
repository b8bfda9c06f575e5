"""Layers of the feature networks: convolutions, frozen batch norm, pooling.

All arithmetic is full float32 (`Precision.HIGHEST`) on every backend: feature distances are
differences of large numbers, which bfloat16 on TPUs or TF32 on GPUs would change.
"""

from collections.abc import Sequence
from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PRECISION = jax.lax.Precision.HIGHEST

# Batch-norm epsilon of both Inception networks. The 1e-5 of other libraries changes results.
_EPSILON = 1e-3


class ConvUnit(nn.Module):
    """Convolution, batch norm (moving statistics, no scale) and ReLU.

        y = relu((conv(h) - mean) / sqrt(variance + 1e-3) + beta)

    Attributes:
      features: output channels.
      kernel_size: ([time,] height, width).
      stride: stride along all axes.
      padding: 'SAME' or 'VALID', as in TensorFlow.
    """

    features: int
    kernel_size: tuple[int, ...]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch *frames height width channels"]
    ) -> Float[Array, "batch *out_frames out_height out_width features"]:
        kernel = self.param(
            "kernel",
            nn.initializers.he_normal(),
            (*self.kernel_size, h.shape[-1], self.features),
            jnp.float32,
        )
        per_feature = ((self.features,), jnp.float32)
        beta = self.param("beta", nn.initializers.zeros, *per_feature)
        mean = self.param("mean", nn.initializers.zeros, *per_feature)
        variance = self.param("variance", nn.initializers.ones, *per_feature)
        h = convolve(h, kernel, self.stride, self.padding)
        return nn.relu((h - mean) * jax.lax.rsqrt(variance + _EPSILON) + beta)


def biased_conv(features: int, kernel_size: Sequence[int], name: str) -> nn.Conv:
    """A convolution with a bias, computed by `convolve`."""

    def own(h, kernel, *_, **__):
        return convolve(h, kernel)

    return nn.Conv(features, kernel_size, conv_general_dilated=own, name=name)


def convolve(
    h: Float[Array, "batch *frames height width channels"],
    kernel: Float[Array, "*taps_height_width channels features"],
    stride: int = 1,
    padding: str = "SAME",
) -> Float[Array, "batch *out_frames out_height out_width features"]:
    """A 2D convolution or, with a kernel of five axes, a 3D convolution.

    A 3D convolution is computed by 2D convolutions with time folded into the batch, which on CPUs
    is several times as fast as XLA's 3D convolution. The stride applies to all axes. 'SAME' puts
    odd padding at the end, as in TensorFlow.
    """
    if kernel.ndim == 4:
        *leading, height, width, channels = h.shape
        folded = jax.lax.conv_general_dilated(
            h.reshape(-1, height, width, channels),
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION,
        )
        return folded.reshape(*leading, *folded.shape[1:])
    if len(kernel) == 3 and stride == 1 and padding == "SAME":
        return _convolve_pairs_of_frames(h, kernel)
    # Concatenating the frames of a temporal window along the channels is faster than a sum over
    # the taps of the kernel.
    taps, height, width, channels, features = kernel.shape
    stacked = jnp.concatenate(_windows(h, 1, taps, stride, padding, 0.0), axis=-1)
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(height, width, taps * channels, features)
    return convolve(stacked, kernel, stride, padding)


def _convolve_pairs_of_frames(h: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3D convolution with three temporal taps and 'SAME' padding.

    Winograd's minimal filtering F(2, 3) along time (Lavin and Gray, 2015, arXiv:1509.09308,
    section 4): four 2D convolutions instead of six per two frames. Its sums have only two or three
    terms, so I3D's logits lose no accuracy.
    """
    frames = h.shape[1]
    odd = frames % 2
    h = jnp.pad(h, ((0, 0), (1, 1 + odd), (0, 0), (0, 0), (0, 0)))
    span = frames + odd - 1
    h0, h1, h2, h3 = (jax.lax.slice_in_dim(h, start, start + span, 2, axis=1) for start in range(4))
    outer = (kernel[0] + kernel[2]) / 2
    inner = kernel[1] / 2
    first = convolve(h0 - h2, kernel[0])
    added = convolve(h1 + h2, outer + inner)
    subtracted = convolve(h2 - h1, outer - inner)
    last = convolve(h1 - h3, kernel[2])
    pairs = jnp.stack([first + added + subtracted, added - subtracted - last], axis=2)
    return pairs.reshape(len(h), frames + odd, *pairs.shape[3:])[:, :frames]


def max_pool(
    h: Float[Array, "batch *frames height width channels"],
    window: Sequence[int],
    strides: Sequence[int],
    padding: str = "SAME",
) -> Float[Array, "batch *out_frames out_height out_width channels"]:
    """Max pool over windows of ([time,] height, width), ignoring padding.

    Pools one axis after the other, as a maximum of slices: on CPUs, XLA's reduce_window is ten
    times slower.
    """
    for axis, (size, stride) in enumerate(zip(window, strides, strict=True), start=1):
        h = reduce(jnp.maximum, _windows(h, axis, size, stride, padding, -jnp.inf))
    return h


def average_pool(
    h: Float[Array, "batch height width channels"], window: int
) -> Float[Array, "batch height width channels"]:
    """Average pool over window x window pixels, stride 1, 'SAME', excluding padding."""
    for axis in (1, 2):
        ones = jnp.ones_like(h[:1, ..., :1])
        h, count = (jnp.asarray(sum(_windows(x, axis, window, 1, "SAME", 0.0))) for x in (h, ones))
        h /= count
    return h


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's 'SAME' padding before and after an axis: ceil(size / stride) outputs."""
    return jax.lax.padtype_to_pads((size,), (window,), (stride,), "SAME")[0]


def _windows(
    h: jax.Array, axis: int, window: int, stride: int, padding: str, fill: float
) -> list[jax.Array]:
    """Returns one array per offset in a window, with each window's element at that offset."""
    if padding == "SAME":
        widths = [(0, 0)] * h.ndim
        widths[axis] = same_padding(h.shape[axis], window, stride)
        if any(widths[axis]):
            h = jnp.pad(h, widths, constant_values=fill)
    span = (h.shape[axis] - window) // stride * stride + 1
    return [
        jax.lax.slice_in_dim(h, start, start + span, stride, axis=axis) for start in range(window)
    ]
