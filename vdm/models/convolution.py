"""Convolution in space alone, of frames folded into the batch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

CONVOLUTION = "convolution"  # the name of its results for rematerialisation
_KERNEL_SIZE = 3
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class FrameConv(nn.Module):
    """A 1x3x3 convolution as a 2D convolution with frames folded into the batch.

    Attributes:
      features: output channels.
      stride: in height and width.
      zero_init: start from zeros, so that a residual branch starts as the identity.
      dtype: of the computation.
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
            conv_general_dilated=_convolve_as_flax_asks,
            name="conv",
        )(folded)
        return checkpoint_name(folded.reshape(*h.shape[:2], *folded.shape[1:]), CONVOLUTION)


def _convolve_as_flax_asks(inputs, kernel, strides, padding, **unchanged):
    del padding, unchanged  # "SAME", and the defaults of what FrameConv does not set
    return convolve(inputs, kernel, strides[0])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    h: Float[Array, "n height width in_features"],
    kernel: Float[Array, "size size in_features out_features"],
    stride: int,
) -> Float[Array, "n out_height out_width out_features"]:
    """A 'SAME' convolution.

    The gradient with respect to h is written as a convolution by the kernel turned around, in the
    same layout as the forward one. The derived one has the kernel's axes in another order, which
    XLA for CPUs puts right outside of loops alone: in a sampler's loop it took ten times as long.
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
        spread = (out_size - 1) * stride + 1
        before = taps - 1 - low
        padding.append((before, size + taps - 1 - spread - before))
    towards_h = jax.lax.conv_general_dilated(
        gradient,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        padding,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )
    _, towards_kernel = jax.vjp(lambda kernel: _convolve(h, kernel, stride), kernel)
    return towards_h, *towards_kernel(gradient)


convolve.defvjp(_convolve_forward, _convolve_backward)
