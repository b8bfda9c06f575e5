"""Saves and restores the checkpoints of a workdir with Orbax."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.sharding import Mesh

from vdm.build import init_params
from vdm.exported import load_exported, load_exported_config
from vdm.files import AnyPath, as_path, entries, is_remote, sealed, unsealed
from vdm.parallel.mesh import make_mesh, param_shardings
from vdm.parallel.messages import all_processes, is_first_process, wait_for_all
from vdm.parallel.processes import CheckpointNotSaved, first_line, is_out_of_memory
from vdm.training.digests import digests_of
from vdm.training.state import TrainState

BEST = "best"  # value of config.step


def has_checkpoints(workdir: AnyPath) -> bool:
    """Returns whether a workdir has a finished checkpoint; raises the errors of `saved_steps`."""
    return bool(saved_steps(workdir))


def saved_steps(workdir: AnyPath) -> list[int]:
    """Returns the steps of the finished checkpoints in a workdir, ascending; writes nothing.

    Raises:
      NotADirectoryError: WORKDIR/checkpoints is a file.
    """
    folder = workdir / "checkpoints"
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file, and must be a folder")
    # Where folders cannot be renamed (object stores), an unfinished checkpoint has its final name
    # but no commit marker.
    return sorted(
        int(path.name)
        for path in entries(folder)
        if path.name.isdecimal() and ocp.utils.is_checkpoint_finalized(path)
    )


def load_ema(config: ml_collections.ConfigDict, workdir: AnyPath) -> tuple[dict, int]:
    """Loads EMA parameters from config.checkpoint, or from the workdir's checkpoint config.step.

    Returns:
      (parameters, step).

    Raises:
      FileNotFoundError: the file, or such a checkpoint, does not exist.
      OSError: the checkpoint is damaged; if config.step is empty, all checkpoints are damaged.
      ValueError: config.checkpoint was not written by --mode=export.
    """
    if config.checkpoint:
        path = as_path(config.checkpoint)
        return load_exported(path), load_exported_config(path)[1]
    abstract = jax.eval_shape(partial(init_params, config))
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return checkpoints.restore_ema(abstract_on(make_mesh(config), abstract), config.step)
    finally:
        checkpoints.close()


class Checkpoints:
    """Manages a workdir's checkpoints: 'ema', the 'rest' of the state, and 'digests' of both.

    The digests also hold the held-out loss, if it was evaluated. The checkpoint with the lowest
    loss is kept in addition to the newest ones.

    Saving is asynchronous: the state is copied to the host and written while training continues.
    Unfinished checkpoints of a killed process are ignored. If the digests show that the newest
    checkpoint is damaged, a message is printed and the previous one is restored. Every process must
    make the same calls in the same order.
    """

    def __init__(self, workdir: AnyPath, keep: int = 1, *, read_only: bool = False):
        """Opens WORKDIR/checkpoints.

        Args:
          workdir: folder of the run.
          keep: number of newest checkpoints to keep besides the best one; default 1.
          read_only: whether to change nothing, so that a concurrent training may write; default
            False creates the folder and deletes unfinished checkpoints.
        """
        sys.unraisablehook = _without_closed_loops
        self._losses: dict[int, float] = {}  # held-out loss by step
        folder = epath.Path(workdir / "checkpoints")
        with _without_warnings():  # that read_only is set
            self._manager = ocp.CheckpointManager(
                folder if is_remote(folder) else folder.absolute(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=_NewestAndBest(keep, self._losses),
                    cleanup_tmp_directories=not read_only,
                    create=not read_only,
                    read_only=read_only,
                ),
            )
        if not read_only:
            self._read_losses()

    def steps(self) -> list[int]:
        """Returns the steps of all finished checkpoints, in ascending order."""
        return sorted(self._manager.all_steps())

    def is_best(self, held_out_loss: float) -> bool:
        """Returns whether a held-out loss is lower than that of every checkpoint."""
        return all(held_out_loss < loss for loss in self._losses.values())

    def save(self, state: TrainState, held_out_loss: float | None = None) -> None:
        """Starts saving the state as the checkpoint of its step, unless that checkpoint exists.

        Args:
          state: the state.
          held_out_loss: held-out loss of the EMA parameters, None if it was not evaluated.

        Raises:
          CheckpointNotSaved: this or an earlier checkpoint cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {"ema": state.ema_params, "rest": _without_ema(state)}
        saved = {name: ocp.args.StandardSave(_one_replica(item)) for name, item in items.items()}
        digests: dict = {name: digests_of(item) for name, item in items.items()}
        digests["held_out_loss"] = held_out_loss
        if held_out_loss is not None:
            self._losses[step] = held_out_loss
        with self._as_not_saved():
            self._manager.save(
                step,
                args=ocp.args.Composite(**saved, digests=ocp.args.JsonSave(sealed(digests))),
                force=True,  # even if a folder of a later step exists
            )

    def raise_failures(self) -> None:
        """Raises CheckpointNotSaved if a save in the background has failed; does not wait."""
        with self._as_not_saved():
            self._manager.check_for_errors()

    def restore(self, abstract_state: TrainState) -> TrainState | None:
        """Restores the newest readable state, and moves newer, damaged ones aside.

        `abstract_state` has shapes, dtypes and shardings, from `abstract_on`. Returns None if there
        is no checkpoint.

        Raises:
          OSError: all checkpoints are damaged.
        """
        items = {"ema": abstract_state.ema_params, "rest": _without_ema(abstract_state)}
        restored, step, damaged = self._newest_readable(items)
        if step is None:
            return None
        if damaged:
            if is_first_process():
                for newer in damaged:
                    _move_aside(self._manager.directory / str(newer))
            wait_for_all("damaged checkpoints moved aside")
            self._manager.reload()
            self._read_losses()
        return TrainState(**restored["rest"], ema_params=restored["ema"])

    def restore_ema(self, abstract_params: dict, which: str = "") -> tuple[dict, int]:
        """Returns the EMA parameters of a checkpoint, and its step.

        Args:
          abstract_params: shapes, dtypes and shardings, from `abstract_on`.
          which: a step; 'best', the checkpoint with the lowest held-out loss; or '' (default), the
            newest readable checkpoint.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          OSError: the checkpoint is damaged; if `which` is '', all checkpoints are damaged.
        """
        while which:
            step = self._best_step() if which == BEST else int(which)
            if step is None or step not in self._manager.all_steps():
                raise FileNotFoundError(no_step(which, self._manager.all_steps()))
            restored, failure = self._try(self._restore, step, {"ema": abstract_params})
            if failure is None:
                return restored["ema"], step
            if self._exists(step):
                raise OSError(self._damaged(step, failure))
            self._manager.reload()  # a running training has since deleted it for a better one
        restored, step, _ = self._newest_readable({"ema": abstract_params})
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._manager.directory}")
        return restored["ema"], step

    def restore_params(self, abstract_state: TrainState) -> tuple[dict, dict, int]:
        """Returns the newest readable parameters, their EMA and their step; changes nothing.

        `abstract_state` has shapes, dtypes and shardings, from `abstract_on`.

        Raises:
          FileNotFoundError: the workdir has no checkpoint.
          OSError: all checkpoints are damaged.
        """
        items = {"ema": abstract_state.ema_params, "rest": _without_ema(abstract_state)}
        restored, step, _ = self._newest_readable(items)
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._manager.directory}")
        return restored["rest"]["params"], restored["ema"], step

    def close(self) -> None:
        """Waits until all saves are finished.

        Raises:
          CheckpointNotSaved: a checkpoint cannot be written.
        """
        with self._as_not_saved():
            self._manager.wait_until_finished()
        self._manager.close()

    def _newest_readable(self, items: dict):
        """Returns (restored items, step, newer damaged steps); (None, None, []) if none exists."""
        damaged: list[int] = []
        while remaining := set(self._manager.all_steps()) - set(damaged):
            step = max(remaining)
            restored, failure = self._try(self._restore, step, items)
            if failure is None:
                return restored, step, damaged
            if not self._exists(step):
                self._manager.reload()  # a running training has since deleted it for a newer one
                continue
            print(f"the checkpoint of step {step} is damaged: {failure}", flush=True)
            damaged.append(step)
        if damaged:
            folder, hint = self._manager.directory, ""
            if not (folder.parent / "config.json").exists():
                hint = "; or of another configuration, since no config.json describes them"
            raise OSError(f"all checkpoints in {folder} are damaged: {damaged}{hint}")
        return None, None, damaged

    def _best_step(self) -> int | None:
        if damaged := self._read_losses():
            raise OSError(self._damaged(damaged[0], "its held-out loss is unreadable"))
        return min(self._losses, key=lambda step: (self._losses[step], step), default=None)

    def _read_losses(self) -> list[int]:
        """Reads the held-out losses of all checkpoints; returns the steps of damaged ones."""
        self._losses.clear()
        damaged = []
        for step in sorted(self._manager.all_steps()):
            loss, failure = self._try(self._held_out_loss, step)
            if failure is not None and self._exists(step):
                damaged.append(step)
            elif loss is not None:
                self._losses[step] = loss
        return damaged

    def _held_out_loss(self, step: int) -> float | None:
        args = ocp.args.Composite(digests=ocp.args.JsonRestore())
        try:
            record = self._manager.restore(step, args=args)["digests"]
        except (FileNotFoundError, KeyError):  # a kill interrupted the deletion of this one
            return None
        return _unsealed(record).get("held_out_loss")

    def _try(self, read: Callable, *arguments) -> tuple[Any, str | None]:
        """Returns (result, None), or (None, error message) if any process cannot read."""
        result, failure = None, None
        try:
            result = read(*arguments)
        except Exception as error:  # Orbax and TensorStore raise many types on damaged files.
            if is_out_of_memory(error):
                raise
            failure = _short(error)
        if all_processes(failure is None):
            return result, None
        return None, failure or "another process cannot read it"

    def _exists(self, step: int) -> bool:
        return all_processes((self._manager.directory / str(step)).exists())

    def _damaged(self, step: int, reason: str) -> str:
        steps = ", ".join(map(str, self.steps()))
        return f"the checkpoint of step {step} is damaged: {reason}; --config.step: {steps}"

    def _restore(self, step: int, items: dict) -> dict:
        args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        restored = self._manager.restore(
            step, args=ocp.args.Composite(**args, digests=ocp.args.JsonRestore())
        )
        record = _unsealed(restored["digests"])
        for name in items:
            found, saved = digests_of(restored[name]), record[name]
            for path in found.keys() | saved.keys():
                if found.get(path) != saved.get(path):
                    raise ValueError(f"{name}{path} does not match its digest")
        # A copied or renamed folder would be the newest for ever, and later steps would be lost.
        if "rest" in items and (saved_step := int(restored["rest"]["step"])) != step:
            raise ValueError(f"its folder is named {step}, and its state is of step {saved_step}")
        return {name: restored[name] for name in items}

    @contextlib.contextmanager
    def _as_not_saved(self):
        """Raises errors of its block as CheckpointNotSaved, with the newest checkpoint kept."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types on a full disk.
            names = [path.name for path in entries(self._manager.directory)]
            kept = sorted(int(name) for name in names if name.isdecimal())
            raise CheckpointNotSaved(
                f"a checkpoint cannot be saved in {self._manager.directory}: {_short(error)}; "
                + (f"that of step {kept[-1]} is kept" if kept else "there is no earlier one")
            ) from error


@dataclasses.dataclass
class _NewestAndBest:
    """Orbax's policy of which checkpoints to preserve.

    Attributes:
      keep: number of newest checkpoints to preserve.
      losses: held-out loss by step; the checkpoint with the lowest loss is preserved, too.
    """

    keep: int
    losses: dict[int, float]

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        evaluated = [step for step in steps if step in self.losses]
        best = min(evaluated, key=lambda step: (self.losses[step], step), default=None)
        return [step == best or step in sorted(steps)[-self.keep :] for step in steps]


def no_step(which: str, steps: Iterable[int]) -> str:
    """Returns the error message for a value of config.step that matches no checkpoint."""
    saved = ", ".join(map(str, sorted(steps)))
    if which == BEST:
        return (
            "config.step is 'best', and no checkpoint has a held-out loss (training.eval_every): "
            f"the saved steps are {saved}"
        )
    return f"config.step is {which!r}, and the saved steps are {saved}"


@contextlib.contextmanager
def _without_warnings():
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _without_closed_loops(unraisable: Any) -> None:
    """Hides errors that TensorStore's callbacks raise after a failed save, which we report."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _short(error: Exception) -> str:
    """Returns the first line of a message, without TensorStore's details for developers."""
    return first_line(error).partition(" [tensorstore_spec=")[0].partition(" [source locations=")[0]


def _move_aside(folder: epath.Path) -> None:
    aside = folder.with_name(f"damaged_{folder.name}")
    if aside.exists():
        aside.rmtree()
    folder.rename(aside)


def _unsealed(record: dict) -> dict:
    """Returns the content of a record of digests; old records without a loss have no checksum."""
    return unsealed(record, required="held_out_loss" in record)


def _one_replica(tree):
    """Returns a tree of arrays; in a single process, replicated arrays become their first replica.

    For replicas, Orbax would compile a program per shape, to write a slice from each device.
    """
    if jax.process_count() > 1:
        return tree
    return jax.tree.map(lambda a: a.addressable_data(0) if a.is_fully_replicated else a, tree)


def _without_ema(state: TrainState) -> dict:
    names = ["step", "params", "opt_state", "metric_sums"]
    if state.teacher is not None:
        names.append("teacher")
    return {name: getattr(state, name) for name in names}


def abstract_on(mesh: Mesh, tree):
    """Returns shapes, dtypes and the shardings of `param_shardings` for a pytree of arrays."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        param_shardings(mesh, tree),
    )
