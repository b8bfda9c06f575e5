"""Checkpoints of a workdir, through Orbax, and the configuration that identifies their model."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import ml_collections
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from vdm.build import init_params
from vdm.exported import load_exported, load_exported_config
from vdm.files import write_text
from vdm.parallel.mesh import make_mesh, param_shardings
from vdm.parallel.messages import all_processes, is_first_process, wait_for_all
from vdm.parallel.processes import CheckpointNotSaved, first_line
from vdm.training.state import TrainState

# A resumed run may change these fields of config.model, as they leave the parameters' shapes and
# meaning unchanged.
_FREE_MODEL_FIELDS = ("dropout", "condition_dropout", "remat", "dtype")


def check_same_model(
    config: ml_collections.ConfigDict, saved: Mapping[str, Mapping], name: str | Path
) -> None:
    """Checks that the checkpoint `name`, with configuration `saved`, has this run's model.

    Raises:
      ValueError: it was trained with a different model; the message names the first field.
    """
    current = json.loads(config.to_json_best_effort())
    fields = [("model", field) for field in config.model if field not in _FREE_MODEL_FIELDS]
    fields += [("diffusion", "target"), ("data", "channels")]
    for section, field in fields:
        ours, theirs = current[section][field], saved.get(section, {}).get(field)
        if ours != theirs:
            raise ValueError(
                f"{name} was trained with a different model: its config.{section}.{field} is "
                f"{theirs!r}, and this configuration has {ours!r}"
            )


def load_config(workdir: Path) -> dict | None:
    """Returns the configuration of a workdir's last training run, or None if there is none."""
    try:
        return json.loads((workdir / "config.json").read_text())
    except FileNotFoundError:
        return None


def save_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the configuration to WORKDIR/config.json."""
    write_text(workdir / "config.json", config.to_json_best_effort(indent=2) + "\n")


def has_checkpoints(workdir: Path) -> bool:
    """Returns whether a workdir has a finished checkpoint; writes nothing."""
    return any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*"))


def check_ema(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Checks that `load_ema` has parameters to load, and that they belong to this model.

    Raises:
      FileNotFoundError: the file config.checkpoint does not exist.
      ValueError: the workdir has no checkpoint, or a checkpoint of a different model.
    """
    if config.checkpoint:
        saved, _ = load_exported_config(Path(config.checkpoint))
        check_same_model(config, saved, config.checkpoint)
    elif has_checkpoints(workdir):
        check_same_model(config, load_config(workdir) or {}, f"the checkpoint in {workdir}")
    else:
        raise ValueError(
            f"no checkpoint in {workdir}: train first, or give --config.checkpoint=FILE.safetensors"
        )


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
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore_ema(abstract_on(make_mesh(config), abstract))
    finally:
        checkpoints.close()


class Checkpoints:
    """The checkpoints of a workdir, each with two items: 'ema', and the 'rest' of the state.

    Saving is asynchronous: the state is copied to the host, and written while training continues.
    Unfinished checkpoints of a killed process are ignored. If the newest one is damaged, the one
    before it is restored, and a message is printed. Every process has to make the calls, in the
    same order.
    """

    def __init__(self, workdir: Path, keep: int = 1):
        """Opens WORKDIR/checkpoints, created if missing; saving keeps the newest `keep`."""
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, create=True
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
        with self._as_not_saved():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    ema=ocp.args.StandardSave(state.ema_params),
                    rest=ocp.args.StandardSave(_without_ema(state)),
                ),
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
        args = ocp.args.Composite(
            ema=ocp.args.StandardRestore(abstract_state.ema_params),
            rest=ocp.args.StandardRestore(_without_ema(abstract_state)),
        )
        restored, step, damaged = self._newest_readable(args)
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
        args = ocp.args.Composite(ema=ocp.args.StandardRestore(abstract_params))
        restored, step, _ = self._newest_readable(args)
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._manager.directory}")
        return restored["ema"], step

    def close(self) -> None:
        """Waits until all saves are finished.

        Raises:
          CheckpointNotSaved: a checkpoint cannot be written.
        """
        with self._as_not_saved():
            self._manager.wait_until_finished()
        self._manager.close()

    def _newest_readable(self, args: ocp.args.Composite):
        """Returns (restored items, step, newer damaged steps); (None, None, []) if none exists."""
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, failure = None, None
            try:
                restored = self._manager.restore(step, args=args)
            except Exception as error:  # Orbax and TensorStore raise many types on damaged files.
                failure = error
            if all_processes(failure is None):
                return restored, step, damaged
            reason = _short(failure) if failure else "another process cannot read it"
            print(f"the checkpoint of step {step} is damaged: {reason}", flush=True)
            damaged.append(step)
        if damaged:
            raise OSError(f"all checkpoints in {self._manager.directory} are damaged: {damaged}")
        return None, None, damaged

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
