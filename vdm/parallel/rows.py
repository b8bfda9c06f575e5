"""Rows of a batch: which of them this process holds, and how they get to its devices and back."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdm.parallel.mesh import AXES, batch_sharding


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a global batch that this process's devices hold, in order."""
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted(row for (rows,) in held for row in range(batch_size)[rows])


def shard_batch(
    mesh: Mesh, batch: Mapping[str, np.ndarray], batch_size: int
) -> dict[str, jax.Array]:
    """This process's rows of a batch to its devices, as part of the global arrays.

    Args:
      mesh: of `make_mesh`.
      batch: [rows, ...] each, the rows of `local_rows`.
      batch_size: of all processes together.
    """
    return {name: shard_rows(mesh, rows, batch_size) for name, rows in batch.items()}


def shard_rows(mesh: Mesh, rows: np.ndarray, batch_size: int) -> jax.Array:
    """As `shard_batch`, of one array."""
    place = {row: index for index, row in enumerate(local_rows(mesh, batch_size))}

    def piece(index: tuple[slice, ...]) -> np.ndarray:
        wanted = range(batch_size)[index[0]]
        return rows[place[wanted[0]] :][: len(wanted)]

    shape = (batch_size, *np.shape(rows)[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), piece)


def micro_batches(mesh: Mesh, batch, count: int):
    """A batch, [batch, ...] each array, as `count` parts [count, batch / count, ...].

    Each device keeps the rows that it has: part m is the m-th of each device's.
    """

    def divided(array: jax.Array) -> jax.Array:
        rows = array.shape[0] // (mesh.size * count)
        array = array.reshape(mesh.size, count, rows, *array.shape[1:]).swapaxes(0, 1)
        array = array.reshape(count, mesh.size * rows, *array.shape[3:])
        split = NamedSharding(mesh, PartitionSpec(None, AXES))
        return jax.lax.with_sharding_constraint(array, split)

    return jax.tree.map(divided, batch)


def rows_of(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that is split as a batch, in order; inverts `shard_rows`."""
    pieces = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(piece.data) for piece in pieces])
