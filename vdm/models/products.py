"""Matrix products, with gradients and results in forms for which XLA on CPU has fast kernels."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def product(operation: Callable[..., jax.Array], a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns operation(a, b) in the dtype of a.

    XLA on CPU has fast kernels for products of bfloat16 only if their result is float32.

    Args:
      operation: a product of arrays that takes `preferred_element_type`, such as jnp.matmul.
      a: first operand.
      b: second operand, of the same dtype.
    """
    if a.dtype != jnp.bfloat16:
        return operation(a, b)
    return jax.lax.platform_dependent(
        a,
        b,
        cpu=lambda a, b: operation(a, b, preferred_element_type=jnp.float32).astype(a.dtype),
        default=operation,
    )


@jax.custom_vjp
def multiply(
    h: Float[Array, "*shape in_features"], kernel: Float[Array, "in_features out_features"]
) -> Float[Array, "*shape out_features"]:
    """A matrix product over the last axis.

    Custom gradient: XLA on CPU fuses the transpose of h into the preceding operations, which then
    access memory with large strides. A barrier keeps the transpose a separate copy.
    """
    return product(jnp.matmul, h, kernel)


def _multiply_forward(h, kernel):
    return multiply(h, kernel), (h, kernel)


def _multiply_backward(saved, gradient):
    h, kernel = saved
    rows, gradient_rows = (array.reshape(-1, array.shape[-1]) for array in (h, gradient))
    return (
        product(jnp.matmul, gradient, kernel.T),
        product(jnp.matmul, transposed_in_memory(rows), gradient_rows),
    )


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
