"""Checkpoints of a workdir, through Orbax, and the configuration that identifies their model."""

import contextlib
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from vdm.build import init_params
from vdm.exported import load_exported, load_exported_config
from vdm.parallel.mesh import make_mesh, param_shardings
from vdm.parallel.messages import all_processes, is_first_process, wait_for_all
from vdm.parallel.processes import CheckpointNotSaved, first_line
from vdm.training.digests import digests_of
from vdm.training.state import TrainState


def has_checkpoints(workdir: Path) -> bool:
    """Returns whether a workdir has a finished checkpoint; writes nothing.

    Raises:
      NotADirectoryError: WORKDIR/checkpoints is a file.
    """
    folder = workdir / "checkpoints"
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file, and must be a folder")
    return any(path.name.isdecimal() for path in folder.glob("*"))


def load_ema(config: ml_collections.ConfigDict, workdir: Path) -> tuple[dict, int]:
    """Loads EMA parameters from config.checkpoint, or from the workdir's newest checkpoint.

    Returns:
      (parameters, step).

    Raises:
      FileNotFoundError: the file does not exist, or the workdir has no checkpoint.
      OSError: all checkpoints of the workdir are damaged.
      ValueError: config.checkpoint was not written by --mode=export.
    """
    if config.checkpoint:
        path = Path(config.checkpoint)
        return load_exported(path), load_exported_config(path)[1]
    abstract = jax.eval_shape(partial(init_params, config))
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return checkpoints.restore_ema(abstract_on(make_mesh(config), abstract))
    finally:
        checkpoints.close()


class Checkpoints:
    """The checkpoints of a workdir: 'ema', the 'rest' of the state, and the 'digests' of both.

    Saving is asynchronous: the state is copied to the host, and written while training continues.
    Unfinished checkpoints of a killed process are ignored. If the newest one is damaged, which its
    digests show, the one before it is restored, and a message is printed. Every process has to make
    the calls, in the same order.
    """

    def __init__(self, workdir: Path, keep: int = 1, *, read_only: bool = False):
        """Opens WORKDIR/checkpoints.

        Args:
          workdir: folder of the run.
          keep: number of newest checkpoints that saving keeps.
          read_only: whether to change nothing, so that a training may write at the same time;
            otherwise the folder is created, and unfinished checkpoints are deleted.
        """
        sys.unraisablehook = _without_closed_loops
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
        )

    def save(self, state: TrainState) -> None:
        """Starts to save the state as the checkpoint of its step, unless that exists.

        Raises:
          CheckpointNotSaved: this or an earlier checkpoint cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {"ema": state.ema_params, "rest": _without_ema(state)}
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        digests = {name: digests_of(item) for name, item in items.items()}
        with self._as_not_saved():
            self._manager.save(
                step,
                args=ocp.args.Composite(**saved, digests=ocp.args.JsonSave(digests)),
                force=True,  # also where a folder of a later step is in the way
            )

    def raise_failures(self) -> None:
        """Raises CheckpointNotSaved if a save in the background has failed; does not wait."""
        with self._as_not_saved():
            self._manager.check_for_errors()

    def restore(self, abstract_state: TrainState) -> TrainState | None:
        """Restores the newest readable state, and moves newer, damaged ones aside.

        The shapes, dtypes and shardings are of `abstract_on`. Returns None without a checkpoint.

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
                    _move_aside(Path(self._manager.directory) / str(newer))
            wait_for_all("damaged checkpoints moved aside")
            self._manager.reload()
        return TrainState(**restored["rest"], ema_params=restored["ema"])

    def restore_ema(self, abstract_params: dict) -> tuple[dict, int]:
        """Returns the newest readable EMA parameters, and their step.

        The shapes, dtypes and shardings are of `abstract_on`.

        Raises:
          FileNotFoundError: the workdir has no checkpoint.
          OSError: all checkpoints are damaged.
        """
        restored, step, _ = self._newest_readable({"ema": abstract_params})
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._manager.directory}")
        return restored["ema"], step

    def restore_params(self, abstract_state: TrainState) -> tuple[dict, dict, int]:
        """Returns the newest readable parameters, their EMA and their step; changes nothing.

        The shapes, dtypes and shardings are of `abstract_on`.

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
            step, restored, failure = max(remaining), None, None
            try:
                restored = self._restore(step, items)
            except Exception as error:  # Orbax and TensorStore raise many types on damaged files.
                failure = error
            if all_processes(failure is None):
                return restored, step, damaged
            if not all_processes((Path(self._manager.directory) / str(step)).exists()):
                self._manager.reload()  # deleted meanwhile, by a training that has a newer one
                continue
            reason = _short(failure) if failure else "another process cannot read it"
            print(f"the checkpoint of step {step} is damaged: {reason}", flush=True)
            damaged.append(step)
        if damaged:
            raise OSError(f"all checkpoints in {self._manager.directory} are damaged: {damaged}")
        return None, None, damaged

    def _restore(self, step: int, items: dict) -> dict:
        args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        restored = self._manager.restore(
            step, args=ocp.args.Composite(**args, digests=ocp.args.JsonRestore())
        )
        for name in items:
            found, saved = digests_of(restored[name]), restored["digests"][name]
            for path in found.keys() | saved.keys():
                if found.get(path) != saved.get(path):
                    raise ValueError(f"{name}{path} does not have its digest")
        return {name: restored[name] for name in items}

    @contextlib.contextmanager
    def _as_not_saved(self):
        """Raises errors of its block as CheckpointNotSaved, with the newest checkpoint kept."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types on a full disk.
            names = [path.name for path in Path(self._manager.directory).glob("*")]
            kept = sorted(int(name) for name in names if name.isdecimal())
            raise CheckpointNotSaved(
                f"a checkpoint cannot be saved in {self._manager.directory}: {_short(error)}; "
                + (f"that of step {kept[-1]} is kept" if kept else "there is no earlier one")
            ) from error


def _without_closed_loops(unraisable: Any) -> None:
    """Leaves out what TensorStore's callbacks raise after a save has failed, which we report."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _short(error: Exception) -> str:
    """Returns the first line of a message, without TensorStore's details for developers."""
    return first_line(error).partition(" [tensorstore_spec=")[0].partition(" [source locations=")[0]


def _move_aside(folder: Path) -> None:
    aside = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def _without_ema(state: TrainState) -> dict:
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "metric_sums")}


def abstract_on(mesh: Mesh, tree):
    """Returns shapes, dtypes and the shardings of `param_shardings` for a tree of arrays."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        param_shardings(mesh, tree),
    )
