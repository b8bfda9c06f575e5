"""The peer's changes of resolution as convolutions of stride 1 on patches of 2x2 pixels.

A 4x4 convolution of stride 2 sees two by two such patches; so it is a 2x2 convolution of stride 1
over four times the channels. The gradients of a strided one would multiply zeros. The two are each
other's adjoints, by which their gradients are written: the weight gradient of the upward one that
JAX derives has the axes of XLA's slowest convolution on CPUs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def convolve_down(
    h: Float[Array, "n height width in_features"],
    kernel: Float[Array, "4 4 in_features out_features"],
) -> Float[Array, "n half_height half_width out_features"]:
    """A 4x4 convolution of stride 2 with one pixel of padding."""
    return _down(h, kernel)


@jax.custom_vjp
def convolve_up(
    h: Float[Array, "n height width in_features"],
    kernel: Float[Array, "4 4 in_features out_features"],
) -> Float[Array, "n double_height double_width out_features"]:
    """The adjoint of a 4x4 convolution of stride 2 with one pixel of padding.

    Tap [i, j] of the kernel takes pixel [y, x] to [2 y + i - 1, 2 x + j - 1].
    """
    return _up(h, kernel)


def _down(h, kernel):
    n, height, width, features = h.shape
    out_features = kernel.shape[-1]
    padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = padded.reshape(n, height // 2 + 1, 2, width // 2 + 1, 2, features)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(*patches.shape[:2], width // 2 + 1, -1)
    kernel = kernel.reshape(2, 2, 2, 2, features, out_features).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(2, 2, 4 * features, out_features)
    return jax.lax.conv_general_dilated(patches, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _up(h, kernel):
    n, height, width, features = h.shape
    out_features = kernel.shape[-1]
    kernel = kernel.reshape(2, 2, 2, 2, features, out_features).transpose(0, 2, 4, 1, 3, 5)
    kernel = jnp.flip(kernel.reshape(2, 2, features, 4 * out_features), (0, 1))
    patches = jax.lax.conv_general_dilated(
        h, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=_LAYOUT
    )
    patches = patches.reshape(n, height + 1, width + 1, 2, 2, out_features)
    doubled = patches.transpose(0, 1, 3, 2, 4, 5)
    return doubled.reshape(n, 2 * height + 2, 2 * width + 2, out_features)[:, 1:-1, 1:-1]


def _down_backward(saved, gradient):
    h, kernel = saved
    _, towards_kernel = jax.vjp(lambda kernel: _down(h, kernel), kernel)
    return _up(gradient, kernel.swapaxes(2, 3)), *towards_kernel(gradient)


def _up_backward(saved, gradient):
    h, kernel = saved
    towards_h, towards_kernel = jax.vjp(
        lambda kernel: _down(gradient, kernel), kernel.swapaxes(2, 3)
    )
    return towards_h, towards_kernel(h)[0].swapaxes(2, 3)


convolve_down.defvjp(lambda h, kernel: (_down(h, kernel), (h, kernel)), _down_backward)
convolve_up.defvjp(lambda h, kernel: (_up(h, kernel), (h, kernel)), _up_backward)
