"""TPU slices: valid topologies, device descriptions to compile for, and interconnect links."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax


class _Generation(NamedTuple):
    axes: int
    max_chips: int
    is_megacore: bool = False  # both cores of a chip are one device, as on a pod


_GENERATIONS = {
    "v4": _Generation(3, 4096, is_megacore=True),
    "v5p": _Generation(3, 6144, is_megacore=True),
    "tpu7x": _Generation(3, 9216),
    "v5e": _Generation(2, 256),
    "v6e": _Generation(2, 256),
}
_FLAT_SHAPES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SUB_CUBE_SHAPES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


def devices_of(topology: str) -> Sequence[jax.Device]:
    """Returns the devices of a (possibly unattached) TPU slice, or the attached devices.

    Args:
      topology: GENERATION:AxBxC or GENERATION:AxB in chips, for example 'v4:4x4x8'; '' for the
        attached devices.

    Raises:
      ValueError: if no such slice exists, or if libtpu is missing.
    """
    if not topology:
        return jax.devices()
    check_topology(topology)
    # Without these, libtpu queries the metadata server of a TPU VM and locks attached TPUs.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v4-8")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")  # leaves attached TPUs to other processes
    from jax.experimental.topologies import get_topology_desc

    is_megacore = _GENERATIONS[topology.split(":")[0]].is_megacore
    options = {"chip_config_name": "megacore"} if is_megacore else {}
    try:
        return get_topology_desc(topology, "tpu", **options).devices
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"config.plan.topology is {topology!r}, and libtpu cannot describe it: {reason}"
        ) from error


def check_topology(topology: str) -> None:
    """Checks that a slice exists and that libtpu is installed.

    Raises:
      ValueError: one sentence with the topology and the allowed shapes, or the missing package.
    """
    name, _, shape = topology.partition(":")
    prefix = f"config.plan.topology is {topology!r}, and must be "
    if name not in _GENERATIONS or not re.fullmatch(r"\d+(x\d+)+", shape):
        raise ValueError(
            f"{prefix}empty, for the attached devices, or GENERATION:SHAPE in chips, for example "
            f"'v4:4x4x8' or 'v5e:4x8', with a generation of {', '.join(_GENERATIONS)}"
        )
    generation = _GENERATIONS[name]
    if generation.axes == 2:
        exists, rule = shape in _FLAT_SHAPES, ", ".join(_FLAT_SHAPES)
    else:
        exists = shape in _SUB_CUBE_SHAPES or _is_of_cubes(shape, generation.max_chips)
        rule = f"{', '.join(_SUB_CUBE_SHAPES)}, or AxBxC of multiples of 4 with A <= B <= C"
    if not exists:
        raise ValueError(
            f"{prefix}an existing slice of {name}: {rule}, of at most {generation.max_chips} chips"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"config.plan.topology is {topology!r}, and compiling for unattached TPUs needs "
            "libtpu: pip install 'jax[tpu]'"
        )


def _is_of_cubes(shape: str, max_chips: int) -> bool:
    sizes = [int(size) for size in shape.split("x")]
    return (
        len(sizes) == 3
        and all(size > 0 and size % 4 == 0 for size in sizes)
        and sizes == sorted(sizes)
        and math.prod(sizes) <= max_chips
    )


def link_share(topology: str) -> float:
    """Returns the share of a chip's links that connect it to other chips of its slice.

    A chip has two links per axis. Both are usable if the axis is a ring: all axes of a
    three-dimensional slice if its sizes are multiples of 4, and axes of 16 chips of v5e and v6e. An
    axis without wraparound counts as one link, an axis of one chip as none. '' returns 1.
    """
    if not topology:
        return 1.0
    name, _, shape = topology.partition(":")
    axes = _GENERATIONS[name].axes
    sizes = [int(size) for size in shape.split("x")]
    if axes == 3:
        is_ring = [all(size % 4 == 0 for size in sizes)] * 3
    else:
        is_ring = [size == 16 for size in sizes]
    links = sum((2 if ring else 1) for size, ring in zip(sizes, is_ring, strict=True) if size > 1)
    return links / (2 * axes)
