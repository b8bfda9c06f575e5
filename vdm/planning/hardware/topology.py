"""Devices that are not here, for the compiler alone."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax

# TPU generation -> (axes, most chips, the options with which JAX counts a device as a pod does)
_GENERATIONS = {
    "v4": (3, 4096, {"chip_config_name": "megacore"}),  # both cores of a chip are one device
    "v5p": (3, 6144, {"chip_config_name": "megacore"}),
    "tpu7x": (3, 9216, {}),
    "v5e": (2, 256, {}),
    "v6e": (2, 256, {}),
}
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_LESS_THAN_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


def devices_of(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice that nobody needs to have, or of this process.

    Args:
      topology: GENERATION:AxBxC or GENERATION:AxB in chips, for instance 'v4:4x4x8'; '' for the
        devices that are attached.

    Raises:
      ValueError: no such slice is made, or libtpu is not installed.
    """
    if not topology:
        return jax.devices()
    check_topology(topology)
    # libtpu asks a TPU machine's metadata server who it is, and locks the TPUs for one process.
    # The names that it would be told stand here, and nothing is locked as nothing runs.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v4-8")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")  # attached TPUs, if any, are left to others
    from jax.experimental.topologies import get_topology_desc

    generation = topology.split(":")[0]
    try:
        return get_topology_desc(topology, "tpu", **_GENERATIONS[generation][2]).devices
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"config.plan.topology is {topology!r}, and libtpu cannot describe it: {reason}"
        ) from error


def check_topology(topology: str) -> None:
    """Raises ValueError for a slice that is not made, or for which nothing here compiles."""
    name, _, shape = topology.partition(":")
    wrong = f"config.plan.topology is {topology!r}, and must be "
    if name not in _GENERATIONS or not re.fullmatch(r"\d+(x\d+)+", shape):
        raise ValueError(
            f"{wrong}empty, for the attached devices, or GENERATION:SHAPE in chips, as 'v4:4x4x8' "
            f"or 'v5e:4x8', with a generation of {', '.join(_GENERATIONS)}"
        )
    axes, most, _ = _GENERATIONS[name]
    if axes == 2:
        made, rule = shape in _FLAT, ", ".join(_FLAT)
    else:
        made = shape in _LESS_THAN_A_CUBE or _is_of_cubes(shape, most)
        rule = f"{', '.join(_LESS_THAN_A_CUBE)}, or AxBxC of multiples of 4 with A <= B <= C"
    if not made:
        raise ValueError(f"{wrong}a slice that is made: of {name}, {rule}, of at most {most} chips")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"config.plan.topology is {topology!r}, and compiling for TPUs that are not attached "
            "needs libtpu: pip install 'jax[tpu]'"
        )


def _is_of_cubes(shape: str, most: int) -> bool:
    sizes = [int(size) for size in shape.split("x")]
    return (
        len(sizes) == 3
        and all(size > 0 and size % 4 == 0 for size in sizes)
        and sizes == sorted(sizes)
        and math.prod(sizes) <= most
    )


def link_share(topology: str) -> float:
    """The share of a chip's links that lead to others of its slice.

    Both links of an axis serve where the axis is closed to a ring: every axis of a slice of v4 and
    newer three-dimensional generations whose sizes are multiples of 4, and axes of 16 chips of v5e
    and v6e. An open axis has the speed of one link, and one of a single chip has none. 1 without a
    topology.
    """
    if not topology:
        return 1.0
    name, _, shape = topology.partition(":")
    axes = _GENERATIONS[name][0]
    sizes = [int(size) for size in shape.split("x")]
    if axes == 3:
        closed = [all(size % 4 == 0 for size in sizes)] * 3
    else:
        closed = [size == 16 for size in sizes]
    links = sum((2 if ring else 1) for size, ring in zip(sizes, closed, strict=True) if size > 1)
    return links / (2 * axes)
