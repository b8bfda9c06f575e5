"""Spatial (1x3x3) convolution of video, as a 2D convolution, and pointwise dense layers."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

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
    """
    return _convolve(h, kernel, stride)


def _convolve(h, kernel, stride):
    return jax.lax.conv_general_dilated(
        h, kernel, (stride, stride), "SAME", dimension_numbers=_LAYOUT
    )


def _convolve_forward(h, kernel, stride):
    return _convolve(h, kernel, stride), (h, kernel)


def _convolve_backward(stride, saved, gradient):
    h, kernel = saved
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
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        padding,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )
    _, kernel_vjp = jax.vjp(lambda kernel: _convolve(h, kernel, stride), kernel)
    return grad_h, *kernel_vjp(gradient)


convolve.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def multiply(
    h: Float[Array, "*shape in_features"], kernel: Float[Array, "in_features out_features"]
) -> Float[Array, "*shape out_features"]:
    """A matrix product over the last axis.

    Custom gradient: XLA on CPU fuses the transpose of h into the preceding operations, which then
    access memory with large strides. A barrier keeps the transpose a separate copy.
    """
    return h @ kernel


def _multiply_forward(h, kernel):
    return multiply(h, kernel), (h, kernel)


def _multiply_backward(saved, gradient):
    h, kernel = saved
    rows, gradient_rows = (array.reshape(-1, array.shape[-1]) for array in (h, gradient))
    return gradient @ kernel.T, transposed_in_memory(rows) @ gradient_rows


multiply.defvjp(_multiply_forward, _multiply_backward)


def _dot_general(h, kernel, dimension_numbers, **unchanged):
    del dimension_numbers, unchanged  # the last axis of h, and defaults that are not set here
    return multiply(h, kernel)


# flax.linen.Dense whose kernel gradient is faster on CPUs.
PointwiseDense = partial(nn.Dense, dot_general=_dot_general)


def transposed_in_memory(array: Float[Array, "*shape a b"]) -> Float[Array, "*shape b a"]:
    """Transposes the last two axes; barriers make XLA on CPU copy the array into that layout."""
    return jax.lax.platform_dependent(
        array,
        cpu=lambda x: jax.lax.optimization_barrier(
            jax.lax.optimization_barrier(x).swapaxes(-1, -2)
        ),
        default=lambda x: x.swapaxes(-1, -2),
    )
