"""The device mesh, and where arrays live on it."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """A mesh of all devices of all processes, along which a batch is split."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divides(mesh: Mesh, batch_size: int, field: str) -> None:
    """Raises ValueError, naming the field, where a batch cannot be split over the devices."""
    if batch_size % mesh.size:
        raise ValueError(
            f"config.{field} is {batch_size}, and must be a multiple of the {mesh.size} devices"
        )


def local_rows(batch_size: int) -> range:
    """The rows of a global batch that this process makes."""
    size = batch_size // jax.process_count()
    return range(jax.process_index() * size, (jax.process_index() + 1) * size)


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch to its devices, as part of the global arrays."""
    return {
        name: jax.make_array_from_process_local_data(batch_sharding(mesh), rows)
        for name, rows in batch.items()
    }
