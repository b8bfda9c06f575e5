"""Communication between processes. All processes must make these calls in the same order."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first_process() -> bool:
    """Returns whether this is process 0, which prints and writes files. Needs no communication."""
    return jax.process_index() == 0


def gathered(array: jax.Array) -> np.ndarray:
    """Gathers a sharded array; returns the whole array on every process."""
    if jax.process_count() == 1:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def all_processes(condition: bool) -> bool:
    """Returns whether a condition is true on every process."""
    if jax.process_count() == 1:
        return condition
    return bool(multihost_utils.process_allgather(np.array(condition)).all())


def from_first_process(value: np.ndarray) -> np.ndarray:
    """Broadcasts the value of process 0 to every process."""
    if jax.process_count() == 1:
        return value
    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def wait_for_all(name: str) -> None:
    """Blocks until every process has called this with the same name: a barrier."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
