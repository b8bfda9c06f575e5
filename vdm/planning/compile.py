"""Compiles a step for devices that need not be here, and reads off what it needs."""

import dataclasses
import math
import re
import time

import jax

from vdm.planning.collectives import Collective, read_collectives
from vdm.planning.flops import count_flops
from vdm.planning.steps import Step

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while a step runs.

    Attributes:
      arguments: parameters, optimizer and batch.
      outputs: of which `aliased` are the arguments' own, updated in place.
      aliased: of the outputs.
      temporaries: activations, gradients and all else in between, at the peak.
      code: the program itself.
      capacity: what the compiler says that the device has for all of them, where it refused.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    capacity: int | None = None

    @property
    def total(self) -> int:
        """All of them together, what is aliased once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What one step needs of one device.

    Attributes:
      name: of the step.
      what: it does, in words.
      batch_size: on all devices.
      memory: needed.
      refused: the compiler found no room, and only the memory and `written_flops` are known.
      flops: the compiler's count; None where it refused or does not say.
      written_flops: products and convolutions as written (`arithmetic.count_flops`), divided by the
        devices.
      memory_bytes: read and written in a step, by the compiler's count.
      collectives: of the step.
      seconds: that compiling took.
    """

    name: str
    what: str
    batch_size: int
    memory: Memory
    refused: bool
    flops: float | None
    written_flops: float
    memory_bytes: float | None
    collectives: tuple[Collective, ...]
    seconds: float


def compile_step(step: Step, num_devices: int) -> Compiled:
    """Compiles a step; a compiler that finds no room for it is an answer and not an error.

    Raises:
      jax.errors.JaxRuntimeError: for what else the compiler refuses.
    """
    start = time.monotonic()
    traced = step.function.trace(*step.arguments)
    try:
        executable = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        memory = _of_refusal(str(error), argument_bytes(step))
        if memory is None:
            raise
        return Compiled(
            name=step.name,
            what=step.what,
            batch_size=step.batch_size,
            memory=memory,
            refused=True,
            flops=None,
            written_flops=_written_flops(step, traced, num_devices),
            memory_bytes=None,
            collectives=(),
            seconds=time.monotonic() - start,
        )
    return read_off(step, traced, executable, num_devices, time.monotonic() - start)


def read_off(
    step: Step,
    traced: jax.stages.Traced,
    executable: jax.stages.Compiled,
    num_devices: int,
    seconds: float,
) -> Compiled:
    """What the compiler says of a step that it has compiled, in so many seconds."""
    stats, cost = executable.memory_analysis(), executable.cost_analysis() or {}
    # What surrounds a loop is counted with each of its turns: an optimizer is little beside a
    # micro-batch, a sampler's first noise beside a step.
    counted = {name: value * step.repeats / step.steps for name, value in cost.items()}
    return Compiled(
        name=step.name,
        what=step.what,
        batch_size=step.batch_size,
        memory=Memory(
            stats.argument_size_in_bytes,
            stats.output_size_in_bytes,
            stats.alias_size_in_bytes,
            stats.temp_size_in_bytes,
            stats.generated_code_size_in_bytes,
        ),
        refused=False,
        flops=counted.get("flops"),
        written_flops=_written_flops(step, traced, num_devices),
        memory_bytes=counted.get("bytes accessed"),
        collectives=tuple(
            dataclasses.replace(collective, times=collective.times / step.steps)
            for collective in read_collectives(executable.as_text(), num_devices)
        ),
        seconds=seconds,
    )


def _written_flops(step: Step, traced: jax.stages.Traced, num_devices: int) -> float:
    return count_flops(traced.jaxpr) / num_devices / step.steps


def argument_bytes(step: Step) -> int:
    """Of the step's arguments, on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(step.arguments)
    )


# What libtpu says, at one stage of the compilation or at another: in the first form of all memory,
# in the second of temporaries alone.
_SIZE = r"([\d.]+)([KMGT]?)"
_OF_ALL = re.compile(f"Used {_SIZE} of {_SIZE} hbm")
_OF_TEMPORARIES = re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)")


def _of_refusal(message: str, arguments: int) -> Memory | None:
    """Needed and present memory from a compiler's refusal; None where it says no such."""
    found = _OF_ALL.search(message) or _OF_TEMPORARIES.search(message)
    if found is None:
        return None
    needed, capacity = (round(float(found[place]) * _UNITS[found[place + 1]]) for place in (1, 3))
    temporaries = needed if found.re is _OF_TEMPORARIES else max(0, needed - arguments)
    return Memory(arguments, 0, 0, temporaries, 0, capacity)
