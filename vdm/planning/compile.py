"""Compiles a step for attached or unattached devices, and extracts its resource requirements."""

import dataclasses
import math
import re
import time
from typing import Any

import jax

from vdm.planning.collectives import Collective, read_collectives
from vdm.planning.flops import count_flops
from vdm.planning.steps import Step

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs.

    Attributes:
      arguments: parameters, optimizer state and batch.
      outputs: results, including the aliased ones.
      aliased: outputs that reuse the buffers of arguments.
      temporaries: peak of activations, gradients and other intermediate arrays.
      code: the program.
      capacity: device memory reported by the compiler if it ran out of memory; else None.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    capacity: int | None = None

    @property
    def total(self) -> int:
        """Total bytes; aliased bytes count once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Requirements of one step, per device unless noted.

    Attributes:
      name: the step, one of `steps.STEPS`.
      description: the step in words.
      batch_size: videos on all devices together.
      memory: required memory.
      written_flops: FLOPs of matrix products and convolutions in the jaxpr (`flops.count_flops`).
      flops: FLOPs counted by the compiler; None if unavailable.
      memory_bytes: bytes read and written, counted by the compiler; None if unavailable.
      collectives: communication of the step.
      compile_seconds: time to trace and compile.
    """

    name: str
    description: str
    batch_size: int
    memory: Memory
    written_flops: float
    flops: float | None = None
    memory_bytes: float | None = None
    collectives: tuple[Collective, ...] = ()
    compile_seconds: float = 0.0

    @property
    def refused(self) -> bool:
        """Whether the compiler ran out of device memory; collectives are then unknown."""
        return self.memory.capacity is not None

    def fits(self, device_memory: float) -> bool:
        """Whether the step was compiled and needs at most `device_memory` bytes."""
        return not self.refused and self.memory.total <= device_memory


def compile_step(step: Step, num_devices: int) -> Compiled:
    """Compiles a step and returns its requirements, even if they exceed the device's memory.

    Raises:
      jax.errors.JaxRuntimeError: compilation fails for a reason other than memory.
    """
    start = time.monotonic()
    traced = step.function.trace(*step.arguments)
    try:
        executable = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        memory = _parse_refusal(str(error), argument_bytes(step))
        if memory is None:
            raise
        compiled = _compiled(step, traced, num_devices, memory)
    else:
        compiled = analyze(step, traced, executable, num_devices)
    return dataclasses.replace(compiled, compile_seconds=time.monotonic() - start)


def analyze(
    step: Step, traced: jax.stages.Traced, executable: jax.stages.Compiled, num_devices: int
) -> Compiled:
    """Returns the requirements of a compiled step."""
    stats: Any = executable.memory_analysis()
    cost = executable.cost_analysis() or {}
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    # XLA counts a loop body once, so the count is multiplied. This also multiplies the few
    # operations outside the loop (optimizer, initial noise).
    counts = {name: value * step.repeats / step.steps for name, value in cost.items()}
    return dataclasses.replace(
        _compiled(step, traced, num_devices, memory),
        flops=counts.get("flops"),
        memory_bytes=counts.get("bytes accessed"),
        collectives=tuple(
            dataclasses.replace(collective, times=collective.times / step.steps)
            for collective in read_collectives(executable.as_text() or "", num_devices)
        ),
    )


def _compiled(step: Step, traced: jax.stages.Traced, num_devices: int, memory: Memory) -> Compiled:
    written_flops = count_flops(traced.jaxpr) / num_devices / step.steps
    return Compiled(step.name, step.description, step.batch_size, memory, written_flops)


def argument_bytes(step: Step) -> int:
    """Returns the size of the step's arguments on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(step.arguments)
    )


# libtpu reports either all memory or only the temporaries, depending on the compiler pass.
_SIZE = r"([\d.]+)([KMGT]?)"
_ALL_MEMORY = re.compile(f"Used {_SIZE} of {_SIZE} hbm")
_TEMPORARIES = re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)")


def _parse_refusal(message: str, arguments: int) -> Memory | None:
    """Returns the memory reported by an out-of-memory error, or None for any other error."""
    match = _ALL_MEMORY.search(message) or _TEMPORARIES.search(message)
    if match is None:
        return None
    needed, capacity = (round(float(match[group]) * _UNITS[match[group + 1]]) for group in (1, 3))
    temporaries = needed if match.re is _TEMPORARIES else max(0, needed - arguments)
    return Memory(arguments, 0, 0, temporaries, 0, capacity)
