"""Checksums of arrays, computed where the arrays are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


def digests_of(tree) -> dict[str, int]:
    """Returns a 32-bit checksum of each array in a tree, by its path.

    A change of one element always changes the checksum, and other changes do with probability
    1 - 2**-32. Devices compute it on their own shards, and it does not depend on the sharding. It
    is the sum modulo 2**32 of a bijective hash of each element's bits and position.
    """
    # All are started before the first is awaited.
    sums = [
        (jax.tree_util.keystr(path), _sum(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return {name: int(total) for name, total in sums}  # scalars are replicated


# Compiled once for all arrays of a shape; a program for all arrays would take seconds.
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
