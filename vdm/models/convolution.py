"""Spatial (1x3x3) convolution of video, as a 2D convolution."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm.models.products import transposed_in_memory

CONVOLUTION = "convolution"  # checkpoint name of the results, for rematerialisation
_KERNEL_SIZE = 3
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class FrameConv(nn.Module):
    """A 1x3x3 convolution as a 2D convolution with frames folded into the batch.

    With `zero_init`, the kernel starts at zero, so that a residual block starts as the identity.
    """

    features: int
    stride: int = 1
    zero_init: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch frames height width channels"]
    ) -> Float[Array, "batch frames out_height out_width features"]:
        folded = h.reshape(-1, *h.shape[2:])
        folded = nn.Conv(
            self.features,
            (_KERNEL_SIZE, _KERNEL_SIZE),
            strides=self.stride,
            kernel_init=(
                nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
            ),
            dtype=self.dtype,
            conv_general_dilated=_conv_general_dilated,
            name="conv",
        )(folded)
        return checkpoint_name(folded.reshape(*h.shape[:2], *folded.shape[1:]), CONVOLUTION)


def _conv_general_dilated(inputs, kernel, strides, padding, **unchanged):
    del padding, unchanged  # "SAME", and defaults that FrameConv does not set
    return convolve(inputs, kernel, strides[0])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    h: Float[Array, "n height width in_features"],
    kernel: Float[Array, "size size in_features out_features"],
    stride: int,
) -> Float[Array, "n out_height out_width out_features"]:
    """Returns the 2D convolution of h with 'SAME' padding, where `stride` is that of both axes.

    Custom gradient with respect to h: a convolution with the flipped kernel, in the layout of the
    forward pass. Autodiff's gradient permutes the kernel's axes. XLA on CPU undoes this only
    outside loops, so in a sampler's loop autodiff's gradient is 10 times slower.

    On CPUs, bfloat16 convolutions of stride 1 are matrix products: XLA has kernels for bfloat16
    instructions (AMX, AVX512-BF16) only for these.

    Args:
      h: feature maps.
      kernel: kernel of odd size.
      stride: stride of both axes.
    """
    return _by_platform(_convolve_by_rows, _convolve, stride, h, kernel)


def _by_platform(by_rows, otherwise, stride, *arrays):
    otherwise = partial(otherwise, stride)
    if arrays[0].dtype != jnp.bfloat16 or stride != 1:
        return otherwise(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=by_rows, default=otherwise)


def _convolve(stride, h, kernel):
    return jax.lax.conv_general_dilated(
        h, kernel, (stride, stride), "SAME", dimension_numbers=_LAYOUT
    )


def _convolve_forward(h, kernel, stride):
    return convolve(h, kernel, stride), (h, kernel)


def _convolve_backward(stride, saved, gradient):
    return _by_platform(_gradients_by_rows, _gradients, stride, *saved, gradient)


def _gradients(stride, h, kernel, gradient):
    sizes, window = h.shape[1:3], kernel.shape[:2]
    forward = jax.lax.padtype_to_pads(sizes, window, (stride, stride), "SAME")
    padding = []
    for size, taps, out_size, (low, _) in zip(
        sizes, window, gradient.shape[1:3], forward, strict=True
    ):
        dilated = (out_size - 1) * stride + 1
        before = taps - 1 - low
        padding.append((before, size + taps - 1 - dilated - before))
    grad_h = jax.lax.conv_general_dilated(
        gradient,
        _flipped(kernel),
        (1, 1),
        padding,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )
    _, kernel_vjp = jax.vjp(lambda kernel: _convolve(stride, h, kernel), kernel)
    return grad_h, *kernel_vjp(gradient)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _flipped(kernel):
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _convolve_by_rows(h, kernel):
    """One matrix product for all taps, and the sum of its results for each row of the kernel."""
    size, height = len(kernel), h.shape[1]
    neighbors = _row_neighbors(h, size)
    matrix = kernel.transpose(1, 2, 0, 3).reshape(neighbors.shape[-1], -1)
    products = jnp.matmul(neighbors, matrix, preferred_element_type=jnp.float32)
    products = jax.lax.optimization_barrier(products)
    rows = jnp.split(products, size, axis=-1)
    return sum(part[:, row : row + height] for row, part in enumerate(rows)).astype(h.dtype)


def _gradients_by_rows(h, kernel, gradient):
    size, features = len(kernel), kernel.shape[-1]
    neighbors = _row_neighbors(h, size)
    rows = [
        jnp.pad(gradient, ((0, 0), (row, size - 1 - row), (0, 0), (0, 0))) for row in range(size)
    ]
    shifted = jax.lax.optimization_barrier(jnp.concatenate(rows, axis=-1))
    grad_kernel = jnp.matmul(
        transposed_in_memory(neighbors.reshape(-1, neighbors.shape[-1])),
        shifted.reshape(-1, shifted.shape[-1]),
        preferred_element_type=jnp.float32,
    )
    grad_kernel = grad_kernel.reshape(size, -1, size, features).transpose(2, 0, 1, 3)
    return _convolve_by_rows(gradient, _flipped(kernel)), grad_kernel.astype(kernel.dtype)


def _row_neighbors(
    h: Float[Array, "n height width features"], size: int
) -> Float[Array, "n padded_height width size_times_features"]:
    """Concatenates the features of the `size` neighbors of each pixel in its row, itself included.

    The height is padded on both sides, for a kernel of this size.
    """
    width, pad = h.shape[2], size // 2
    h = jnp.pad(h, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    neighbors = [h[:, :, tap : tap + width] for tap in range(size)]
    # The barrier keeps XLA on CPU from computing the elements again in each use.
    return jax.lax.optimization_barrier(jnp.concatenate(neighbors, axis=-1))
