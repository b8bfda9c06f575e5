"""Checkpoints of a workdir, through Orbax, and what says which model they are of."""

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
from vdm.parallel.processes import NotSaved, first_line
from vdm.training.state import TrainState

# The fields that make a checkpoint the checkpoint of another model. The others may change from one
# run to the next on the same workdir: more steps, say, or another precision of the computation.
_FREE_MODEL_FIELDS = ("dropout", "condition_dropout", "remat", "dtype")


def check_same_model(
    config: ml_collections.ConfigDict, saved: Mapping[str, Mapping], where: str | Path
) -> None:
    """Raises ValueError, naming the first differing field, where a checkpoint is of another model.

    Args:
      config: the configuration asked for.
      saved: the configuration that the checkpoint was made with, as nested dicts.
      where: what to call the checkpoint.
    """
    wanted = json.loads(config.to_json_best_effort())
    fields = [("model", name) for name in config.model if name not in _FREE_MODEL_FIELDS]
    fields += [("diffusion", "target"), ("data", "channels")]
    for section, name in fields:
        ours, theirs = wanted[section][name], saved.get(section, {}).get(name)
        if ours != theirs:
            raise ValueError(
                f"{where} is of another model: its config.{section}.{name} is {theirs!r}, "
                f"and {ours!r} was asked for"
            )


def load_config(workdir: Path) -> dict | None:
    """The configuration that a workdir was last trained with, or None where there is none."""
    try:
        return json.loads((workdir / "config.json").read_text())
    except FileNotFoundError:
        return None


def save_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the configuration beside the checkpoints."""
    write_text(workdir / "config.json", config.to_json_best_effort(indent=2) + "\n")


def has_checkpoints(workdir: Path) -> bool:
    """Whether a workdir holds a finished checkpoint; touches nothing."""
    return any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*"))


def check_ema(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Checks that `load_ema` has parameters to load, and that they are of this model.

    Raises:
      FileNotFoundError: there is no file config.checkpoint.
      ValueError: the workdir has no checkpoint, or the parameters are of another model.
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
    """Loads the EMA parameters and their step: of config.checkpoint, else the workdir's newest.

    Raises:
      FileNotFoundError: there is no such file, or the workdir has no checkpoint.
      OSError: all checkpoints of the workdir are damaged.
      ValueError: config.checkpoint is not a file that --mode=export wrote.
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
    """The checkpoints of a workdir: the EMA parameters, and beside them the rest of the state.

    Saving is asynchronous: the state is copied to the host, and written while training goes on. A
    checkpoint that was not finished when the process died is not there for the next one, and one
    that is damaged gives way to the one before, which is said. Every process has to make the calls,
    in the same order.
    """

    def __init__(self, workdir: Path, keep: int = 1):
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, create=True
            ),
        )

    def save(self, state: TrainState) -> None:
        """Saves the state at its own step, unless it is there already.

        Raises:
          NotSaved: this or an earlier checkpoint cannot be written; those before it are kept.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        with self._saying_what_is_kept():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    ema=ocp.args.StandardSave(state.ema_params),
                    rest=ocp.args.StandardSave(_without_ema(state)),
                ),
            )

    def raise_failures(self) -> None:
        """Raises NotSaved where a checkpoint that was being written has failed; does not wait."""
        with self._saying_what_is_kept():
            self._manager.check_for_errors()

    def restore(self, abstract_state: TrainState) -> TrainState | None:
        """The newest state, placed as the abstract state's shardings say; None if there is none.

        Damaged checkpoints that are newer are moved aside.

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
            wait_for_all("damaged checkpoints are moved aside")
            self._manager.reload()
        return TrainState(**restored["rest"], ema_params=restored["ema"])

    def restore_ema(self, abstract_params: dict) -> tuple[dict, int]:
        """The newest EMA parameters and their step.

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
        """Waits for what is being written.

        Raises:
          NotSaved: it cannot be written; the checkpoints before it are kept.
        """
        with self._saying_what_is_kept():
            self._manager.wait_until_finished()
        self._manager.close()

    def _newest_readable(self, args: ocp.args.Composite):
        """What is restored, its step, both None where there is none, and the damaged steps."""
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, failure = None, None
            try:
                restored = self._manager.restore(step, args=args)
            except Exception as error:  # Orbax and TensorStore raise many types on damaged files.
                failure = error
            if all_processes(failure is None):
                return restored, step, damaged
            what = _what(failure) if failure else "another process cannot read it"
            print(f"the checkpoint of step {step} is damaged: {what}", flush=True)
            damaged.append(step)
        if damaged:
            raise OSError(f"all checkpoints in {self._manager.directory} are damaged: {damaged}")
        return None, None, damaged

    @contextlib.contextmanager
    def _saying_what_is_kept(self):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types on a full disk.
            kept = [path.name for path in Path(self._manager.directory).glob("*")]
            kept = sorted(int(name) for name in kept if name.isdecimal())
            raise NotSaved(
                f"a checkpoint cannot be saved in {self._manager.directory}: {_what(error)}; "
                + (f"that of step {kept[-1]} is kept" if kept else "there is none yet")
            ) from error


def _what(error: Exception) -> str:
    """What is wrong, without what TensorStore adds for its developers."""
    return first_line(error).partition(" [tensorstore_spec=")[0].partition(" [source locations=")[0]


def _move_aside(folder: Path) -> None:
    aside = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def _without_ema(state: TrainState) -> dict:
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "metric_sums")}


def abstract_on(mesh: Mesh, tree):
    """Shapes and dtypes of a tree of arrays, placed on a mesh by `param_shardings`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        param_shardings(mesh, tree),
    )
