"""The smallest change with which a step fits, found by compiling."""

import dataclasses
from collections.abc import Callable

import ml_collections

from vdm.models.unet import REMAT
from vdm.planning.compile import Compiled

Changes = dict[str, str | int]  # "section.field" -> value


@dataclasses.dataclass(frozen=True)
class Trial:
    """A change that was compiled, and whether the step fits with it."""

    changes: Changes
    compiled: Compiled
    fits: bool


class NoMoreTrials(Exception):
    """As many changes as were allowed have been compiled, or none is left."""


def find_change(
    config: ml_collections.ConfigDict,
    first: Compiled,
    *,
    num_devices: int,
    room: float,
    compile_with: Callable[[Changes], Compiled],
    fits: Callable[[Compiled], bool],
    most: int,
    tell: Callable[[str], None],
) -> list[Trial]:
    """Compiles changes in the order of what they cost until the step fits with one.

    Rematerialisation costs arithmetic and comes last, 'activations' before 'blocks'. Before each of
    its levels come a smaller batch at a time (micro-batches in training, fewer samples at once in
    sampling), which costs next to nothing, then a division of the parameters, which costs
    communication. Both of these are compiled only where the memory measured so far predicts that
    they are enough, and in the smallest amount that is.

    Args:
      config: as it was given.
      first: the step as it was compiled without changes.
      num_devices: of the mesh.
      room: bytes of a device.
      compile_with: compiles the step with changes made to the configuration.
      fits: whether a compiled step does.
      most: changes to compile.
      tell: is given a line on each trial, before it is compiled.

    Returns:
      The trials in order; the last one fits, or none does.
    """
    trials: list[Trial] = []

    def attempt(changes: Changes) -> Trial:
        if len(trials) == most:
            raise NoMoreTrials
        tell(as_flags(changes))
        compiled = compile_with(changes)
        trials.append(Trial(changes, compiled, fits(compiled)))
        return trials[-1]

    try:
        for remat in REMAT[REMAT.index(config.model.remat) :]:
            changes: Changes = {}
            compiled = first
            if remat != config.model.remat:
                changes = {"model.remat": remat}
                trial = attempt(changes)
                if trial.fits:
                    return trials
                compiled = trial.compiled
            for more in (
                _smaller_batch(config, compiled, num_devices, room),
                _division(config, compiled, num_devices, room),
            ):
                if more and attempt(changes | more).fits:
                    return trials
    except NoMoreTrials:
        pass
    return trials


def as_flags(changes: Changes) -> str:
    """Changes as a command line takes them."""
    return " ".join(f"--config.{field}={value}" for field, value in changes.items())


def _smaller_batch(
    config: ml_collections.ConfigDict, compiled: Compiled, num_devices: int, room: float
) -> Changes | None:
    """The least division of the batch whose temporaries are predicted to fit."""
    memory, videos = compiled.memory, compiled.batch_size // num_devices
    accumulated = config.training.accumulate if compiled.name == "train" else 1
    fixed = memory.total - memory.temporaries
    for parts in range(accumulated + 1, videos + 1):
        if videos % parts == 0 and fixed + memory.temporaries * accumulated / parts <= room:
            if compiled.name == "train":
                return {"training.accumulate": parts}
            return {"sample.batch_size": num_devices * videos // parts}
    return None


def _division(
    config: ml_collections.ConfigDict, compiled: Compiled, num_devices: int, room: float
) -> Changes | None:
    """The least fsdp degree that is predicted to fit, with its share of the arguments."""
    memory, fsdp = compiled.memory, config.mesh.fsdp
    fixed = memory.total - memory.arguments
    degree = 2 * fsdp
    while degree <= num_devices:
        if num_devices % degree == 0 and fixed + memory.arguments * fsdp / degree <= room:
            return {"mesh.fsdp": degree}
        degree *= 2
    return None
