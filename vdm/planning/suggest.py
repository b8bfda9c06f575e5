"""Searches for the cheapest configuration change that makes a step fit in memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import ml_collections

from vdm.models.unet import REMAT
from vdm.planning.compile import Compiled

Changes = dict[str, str | int]  # "section.field" -> value


class Trial(NamedTuple):
    """A configuration change, and the step compiled with it."""

    changes: Changes
    compiled: Compiled


def find_change(
    config: ml_collections.ConfigDict,
    first: Compiled,
    *,
    num_devices: int,
    device_memory: float,
    compile_with: Callable[[Changes], Compiled],
) -> Iterator[Trial]:
    """Compiles changes, cheapest first, until the step fits; yields each trial.

    For each level of gradient checkpointing (`model.remat`), from the configuration's own to
    'blocks', the candidates are: this level alone; with a smaller batch per pass (micro-batches in
    training, fewer samples in sampling); and with parameters sharded over more devices. The latter
    two are compiled only if the memory measured at this level predicts that they fit, with the
    smallest sufficient factor. `first` is the step compiled without changes.
    """
    capacity = first.memory.capacity or device_memory
    for remat in REMAT[REMAT.index(config.model.remat) :]:
        changes: Changes = {}
        compiled = first
        if remat != config.model.remat:
            changes = {"model.remat": remat}
            compiled = compile_with(changes)
            yield Trial(changes, compiled)
            if compiled.fits(device_memory):
                return
        for reduction in (_smaller_batch, _larger_fsdp):
            if reduced := reduction(config, compiled, num_devices, capacity):
                trial = Trial(changes | reduced, compile_with(changes | reduced))
                yield trial
                if trial.compiled.fits(device_memory):
                    return


def as_flags(changes: Changes) -> str:
    """Returns changes as command line flags."""
    return " ".join(f"--config.{field}={value}" for field, value in changes.items())


def _smaller_batch(
    config: ml_collections.ConfigDict, compiled: Compiled, num_devices: int, capacity: float
) -> Changes | None:
    """Returns the smallest split of the batch whose temporaries are predicted to fit."""
    memory, videos = compiled.memory, compiled.batch_size // num_devices
    accumulated = config.training.accumulate if compiled.name == "train" else 1
    fixed = memory.total - memory.temporaries
    for parts in range(accumulated + 1, videos + 1):
        if videos % parts == 0 and fixed + memory.temporaries * accumulated / parts <= capacity:
            if compiled.name == "train":
                return {"training.accumulate": parts}
            return {"sample.batch_size": num_devices * videos // parts}
    return None


def _larger_fsdp(
    config: ml_collections.ConfigDict, compiled: Compiled, num_devices: int, capacity: float
) -> Changes | None:
    """Returns the smallest fsdp degree whose shard of the arguments is predicted to fit."""
    memory, fsdp = compiled.memory, config.mesh.fsdp
    fixed = memory.total - memory.arguments
    degree = 2 * fsdp
    while degree <= num_devices:
        if num_devices % degree == 0 and fixed + memory.arguments * fsdp / degree <= capacity:
            return {"mesh.fsdp": degree}
        degree *= 2
    return None
