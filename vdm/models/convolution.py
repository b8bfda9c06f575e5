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
# On CPUs, a kernel gradient is a sum over groups of frames whose gradients have at most this size,
# for the whole batch: those of each core then remain in its cache. With 2 MiB of L2 cache per core,
# this is 1.7 to 2.5 times as fast for frames of 16x16 and 32x32, and hardly faster for 64x64.
_CACHED_BYTES = 2**20
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
            conv_general_dilated=partial(_conv_general_dilated, frames=h.shape[1]),
            name="conv",
        )(folded)
        return checkpoint_name(folded.reshape(*h.shape[:2], *folded.shape[1:]), CONVOLUTION)


def _conv_general_dilated(inputs, kernel, strides, padding, *, frames, **unchanged):
    del padding, unchanged  # "SAME", and defaults that FrameConv does not set
    return convolve(inputs, kernel, strides[0], frames)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    h: Float[Array, "n height width in_features"],
    kernel: Float[Array, "size size in_features out_features"],
    stride: int,
    frames: int = 1,
) -> Float[Array, "n out_height out_width out_features"]:
    """Returns the 2D convolution of h with 'SAME' padding.

    Custom gradient with respect to h: a convolution with the flipped kernel, in the layout of the
    forward pass. Autodiff's gradient permutes the kernel's axes. XLA on CPU undoes this only
    outside loops, so in a sampler's loop autodiff's gradient is 10 times slower.

    Custom gradient with respect to the kernel, on CPUs: a sum over groups of frames that remain in
    the cache.

    Args:
      h: n images, which are `frames` consecutive ones for each video.
      kernel: the kernel.
      stride: stride of both axes.
      frames: frames per video.
    """
    return _convolve(h, kernel, stride)


def _convolve(h, kernel, stride):
    return jax.lax.conv_general_dilated(
        h, kernel, (stride, stride), "SAME", dimension_numbers=_LAYOUT
    )


def _convolve_forward(h, kernel, stride, frames):
    del frames
    return _convolve(h, kernel, stride), (h, kernel)


def _convolve_backward(stride, frames, saved, gradient):
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

    def grad_kernel(h, gradient):
        _, kernel_vjp = jax.vjp(lambda kernel: _convolve(h, kernel, stride), kernel)
        return kernel_vjp(gradient)[0]

    def grad_kernel_by_groups(h, gradient):
        groups = _number_of_groups(gradient, frames)
        # Groups are over frames, never over the batch, which is sharded over devices.
        h, gradient = (array.reshape(-1, groups, *array.shape[1:]) for array in (h, gradient))
        return sum(grad_kernel(h[:, group], gradient[:, group]) for group in range(groups))

    return grad_h, jax.lax.platform_dependent(
        h, gradient, cpu=grad_kernel_by_groups, default=grad_kernel
    )


convolve.defvjp(_convolve_forward, _convolve_backward)


def _number_of_groups(gradient, frames: int) -> int:
    """Returns the smallest divisor of `frames` whose groups fit the cache; 1 if there is none."""
    fits = (
        groups
        for groups in range(1, frames + 1)
        if frames % groups == 0 and gradient.nbytes <= groups * _CACHED_BYTES
    )
    return next(fits, 1)


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
