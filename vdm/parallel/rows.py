"""Moves this process's rows of a batch to its devices and back; splits micro-batches."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdm.parallel.mesh import AXES, batch_sharding, replicated


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Returns the indices of the global batch's rows on this process's devices, ascending."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted(row for index in indices if index for row in range(batch_size)[index[0]])


def shard_batch(
    mesh: Mesh, batch: Mapping[str, np.ndarray], batch_size: int
) -> dict[str, jax.Array]:
    """Sends this process's rows of a batch (see `local_rows`) to its devices.

    Arrays [rows, ...] become global arrays [batch_size, ...], sharded over all devices.
    """
    return {name: shard_rows(mesh, rows, batch_size) for name, rows in batch.items()}


def shard_rows(mesh: Mesh, rows: np.ndarray, batch_size: int) -> jax.Array:
    """Sends the rows of one array to the devices, as in `shard_batch`."""
    position = {row: index for index, row in enumerate(local_rows(mesh, batch_size))}

    def shard(index) -> np.ndarray:  # index: a tuple of slices
        held = range(batch_size)[index[0]]
        return rows[position[held[0]] :][: len(held)]

    shape = (batch_size, *np.shape(rows)[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), shard)


def replicate_rows(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """Replicates an array, equal on all processes, on every device."""
    return jax.make_array_from_callback(np.shape(rows), replicated(mesh), lambda index: rows[index])


def abstract_rows(mesh: Mesh, tree):
    """Returns shapes and dtypes with the sharding of a batch: the first axis over all devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def micro_batches(mesh: Mesh, batch, count: int):
    """Splits arrays [batch, ...] into micro-batches [count, batch / count, ...].

    Needs no communication: micro-batch m is the m-th part of each device's rows.
    """

    def split(array: jax.Array) -> jax.Array:
        rows = array.shape[0] // (mesh.size * count)
        array = array.reshape(mesh.size, count, rows, *array.shape[1:]).swapaxes(0, 1)
        array = array.reshape(count, mesh.size * rows, *array.shape[3:])
        sharding = NamedSharding(mesh, PartitionSpec(None, AXES))
        return jax.lax.with_sharding_constraint(array, sharding)

    return jax.tree.map(split, batch)


def rows_of(array: jax.Array) -> np.ndarray:
    """Returns this process's rows of an array sharded as a batch; inverts `shard_rows`."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
