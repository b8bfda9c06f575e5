"""What processes tell each other."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first_process() -> bool:
    """Whether this is the process that writes what one process has to write."""
    return jax.process_index() == 0


def gathered(array: jax.Array) -> np.ndarray:
    """The whole of an array, on every process: all of them have to call it."""
    if jax.process_count() == 1:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def all_processes(holds: bool) -> bool:
    """Whether something holds on every process: all of them have to call it."""
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.process_allgather(np.array(holds)).all())


def from_first_process(value: np.ndarray) -> np.ndarray:
    """What process 0 has, on every process: all of them have to call it."""
    if jax.process_count() == 1:
        return value
    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def wait_for_all(what: str) -> None:
    """Until every process is here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
