"""Matrix products over channels."""

import jax
from jaxtyping import Array, Float


def fold(
    h: Float[Array, "*tokens in_features"],
    kernel: Float[Array, "in_features out_features"],
    *unchanged,
    **unchanged_by_name,
) -> Float[Array, "*tokens out_features"]:
    """h @ kernel with all axes but the last folded into one; flax.linen.Dense(dot_general=fold).

    The gradient with respect to the kernel is a sum over tokens. Over two or more axes of them, XLA
    for CPUs transposes the whole array first, and a layer's gradients take three times as long.
    """
    del unchanged, unchanged_by_name  # dimension numbers and precision, always the defaults here
    folded = jax.numpy.dot(h.reshape(-1, h.shape[-1]), kernel)
    return folded.reshape(*h.shape[:-1], kernel.shape[-1])
