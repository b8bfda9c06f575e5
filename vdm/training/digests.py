"""Checksums of arrays, computed on the devices that hold them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


def digests_of(tree) -> dict[str, int]:
    """Returns a 32-bit checksum of each array in a pytree, keyed by its path.

    A change of a single element always changes the checksum; any other change does with probability
    1 - 2**-32. Each device computes its own shards, and the result is independent of the sharding:
    it is the sum modulo 2**32 of a bijective hash of each element's bits and position.
    """
    # Dispatches all checksums before waiting for the first.
    sums = [
        (jax.tree_util.keystr(path), _sum(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return {name: int(total) for name, total in sums}  # scalars are replicated


# Compiled once per shape; one program for all arrays would take seconds to compile.
@jax.jit
def _sum(array: Array) -> UInt32[Array, ""]:
    bits = _bits(array)
    position = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, bits.shape, axis
        )
    # A golden-ratio step between positions, then the finaliser of MurmurHash3 (public domain).
    hashed = bits + position * jnp.uint32(0x9E3779B9)
    hashed = (hashed ^ (hashed >> 16)) * jnp.uint32(0x85EBCA6B)
    hashed = (hashed ^ (hashed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(hashed ^ (hashed >> 16), dtype=jnp.uint32)


def _bits(array: Array) -> UInt32[Array, "..."]:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
