"""--mode=rehearse: runs and times each phase of a run once, so that problems show up early.

The phases use the same code as a real run: the first batch, the initial state, a training step, a
checkpoint (saved, restored and compared), a preview and a batch of the evaluation. Sampling takes
few steps, with the compiled program and memory of a full run.
"""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh

from vdm.data.batches import Batches
from vdm.data.datasets import ZEROS, held_out_videos, make_data_set
from vdm.evaluation.held_out_loss import make_held_out_loss
from vdm.evaluation.protocol import protocol_of
from vdm.files import AnyPath, entries, is_remote, make_folder, write_bytes
from vdm.metrics.features import make_extractors, measurable
from vdm.metrics.measure import summarize
from vdm.parallel.mesh import make_mesh, rounded_up
from vdm.parallel.messages import all_processes, is_first_process, wait_for_all
from vdm.parallel.rows import local_rows, shard_batch
from vdm.sampling.preview import make_preview, preview_config
from vdm.training.checkpoints import Checkpoints, abstract_on, saved_steps
from vdm.training.state import TrainState, state_shapes
from vdm.training.step import make_train_step
from vdm.training.warm_start import load_source, make_first_state
from vdm.video.display import gif_bytes, mp4_bytes
from vdm.video.pixels import to_uint8, with_channels

NAME = "rehearsal"  # folder in WORKDIR
_PREVIEWS = ("preview.gif", "preview.mp4")
_FILES = {"checkpoints", *_PREVIEWS}
_SAMPLER_STEPS = 2


class RehearsalFailed(ArithmeticError):
    """A phase has a wrong result."""


class Phases:
    """Measures and prints the phases of a rehearsal."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times the block; prints the name first, so that a failure shows its phase."""
        print(f"rehearsing: {name}", flush=True)
        start = time.monotonic()
        yield
        self._seconds[name] = time.monotonic() - start

    def note(self, text: str) -> None:
        """Adds a note below the table."""
        self._notes.append(text)

    def table(self) -> str:
        """Returns a table of phases and seconds, and the notes."""
        rows = [*self._seconds.items(), ("all", sum(self._seconds.values()))]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'phase':{width}}  seconds", *(f"{name:{width}}  {s:7.2f}" for name, s in rows)]
        return "\n".join([*lines, *(f"note: {text}" for text in self._notes)])


def rehearsal_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the configuration of a rehearsal: few sampling steps, and zeros as data if chosen."""
    config = preview_config(config)
    config.sample.update(num_steps=min(_SAMPLER_STEPS, config.sample.num_steps), repaint_repeats=1)
    config.eval.log_snr_bins = 1
    if config.rehearse.data == ZEROS:
        config.data.update(name=ZEROS, frame_rate=0.0)
        config.sample.update(observed="", caption="")
    return config


def check_rehearsal_folder(workdir: AnyPath) -> None:
    """Raises ValueError if WORKDIR/rehearsal has files that no rehearsal wrote."""
    found = {path.name for path in entries(workdir / NAME)}
    if others := sorted(found - _FILES):
        raise ValueError(f"{workdir / NAME} has {others[0]}, and a rehearsal would remove it")


def rehearse(config: ml_collections.ConfigDict, workdir: AnyPath | None) -> None:
    """Rehearses a configuration, and prints a table of the phases and their seconds.

    Every process must make the call.

    Args:
      config: a configuration that `preflight.check` has checked.
      workdir: the folder of the run. Only WORKDIR/rehearsal is written to, and it is removed at the
        end. None uses a temporary folder, and requires a single process.

    Raises:
      RehearsalFailed: the loss is not finite, or the restored state is not the saved one.
      OSError: a file cannot be written or read.
    """
    asked, config, phases = config, rehearsal_config(config), Phases()
    if workdir is not None and saved_steps(workdir):
        config.training.init_from = ""  # as in a resumed run
    mesh = make_mesh(config)
    with _folder(workdir) as folder:
        state = _train(config, mesh, phases)
        state = _save_and_restore(config, mesh, state, folder, phases)
        _preview(config, mesh, state, folder, phases)
        _evaluate(config, asked, mesh, state, phases)
    print(f"\n{phases.table()}\n\nthe rehearsal is complete, and its files are removed", flush=True)


def _train(config: ml_collections.ConfigDict, mesh: Mesh, phases: Phases) -> TrainState:
    """Returns the state after one training step."""
    size = config.training.batch_size
    with phases("input: first batch"):
        batches = Batches(
            make_data_set(config, "train"),
            range(1),
            size,
            rows=local_rows(mesh, size),
            place=lambda batch: shard_batch(mesh, batch, size),
            num_workers=config.data.num_workers,
            prefetch=1,
        )
        with batches:
            batch = jax.block_until_ready(batches.next())
    with phases("initial state"):
        state = jax.block_until_ready(make_first_state(config, mesh, load_source(config, mesh)))
    with phases("training step: compilation"):
        train_step = make_train_step(config, mesh)
        compiled = train_step.lower(state, batch).compile()
    with phases("training step"):
        state = jax.block_until_ready(compiled(state, batch))
    loss = float(state.metric_sums["loss"])
    if not math.isfinite(loss):
        raise RehearsalFailed(f"the loss of the first step is {loss}")
    return state


def _save_and_restore(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    state: TrainState,
    folder: AnyPath,
    phases: Phases,
) -> TrainState:
    """Saves, restores and compares a checkpoint; returns the restored state."""
    with phases("checkpoint: save"):
        checkpoints = Checkpoints(folder)
        checkpoints.save(state)
        checkpoints.close()
    saved = _on_host(state)
    jax.tree.map(lambda leaf: leaf.delete(), state)  # a run never has two states on its devices
    with phases("checkpoint: restore and compare"):
        abstract_state = abstract_on(mesh, state_shapes(config))
        checkpoints = Checkpoints(folder)
        restored = checkpoints.restore(abstract_state)
        checkpoints.close()
        if not all_processes(restored is not None and _on_host(restored) == saved):
            raise RehearsalFailed(f"the state restored from {folder} is not the one saved there")
    assert restored is not None
    return restored


def _preview(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    state: TrainState,
    folder: AnyPath,
    phases: Phases,
) -> None:
    preview = make_preview(config, mesh)
    try:
        with phases(f"preview, {config.sample.num_steps} sampler steps, with compilation"):
            drawn = preview(state.ema_params)
            if drawn is not None:
                for name, encode in zip(_PREVIEWS, (gif_bytes, mp4_bytes), strict=True):
                    write_bytes(folder / name, encode(drawn.video, scale=1))
        with phases("preview again"):
            preview(state.ema_params)
    except ArithmeticError as error:  # training would continue as well
        phases.note(f"no preview: {error}")


def _evaluate(
    config: ml_collections.ConfigDict,
    asked: ml_collections.ConfigDict,
    mesh: Mesh,
    state: TrainState,
    phases: Phases,
) -> None:
    # A standard error needs two videos.
    config.eval.num_videos = max(2, rounded_up(mesh, config.eval.batch_size))
    held_out_loss = make_held_out_loss(config, mesh)
    with phases("evaluation: a batch of the held-out loss, with compilation"):
        held_out_loss(state.ema_params)
    if config.eval.protocol == "moving_digits":
        return
    try:
        with phases(f"evaluation: a batch of features of {config.eval.protocol}"):
            protocol, count = protocol_of(asked), config.eval.batch_size
            extractors = make_extractors(protocol)
            protocol, missing = measurable(protocol, extractors)
            for sentence in missing:
                phases.note(sentence)
            source = held_out_videos(config, protocol.frames)
            videos = (to_uint8(source.example(index)["video"]) for index in range(count))
            summarize(
                (with_channels(video, 3) for video in videos),
                count,
                protocol,
                extractors,
                batch_size=count,
            )
    except (ValueError, OSError) as error:  # training does not need it
        phases.note(f"--mode=eval would fail: {error}")


@contextlib.contextmanager
def _folder(workdir: AnyPath | None) -> Iterator[AnyPath]:
    """Yields an empty folder that all processes share, and removes it at the end."""
    if workdir is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = workdir / NAME
    missing = (
        []
        if is_remote(workdir)
        else [path for path in (workdir, *workdir.parents) if not path.exists()]
    )
    try:
        if is_first_process():
            _remove(folder)  # left by a killed rehearsal
            make_folder(folder)
        wait_for_all("the folder of the rehearsal exists")
        yield folder
        wait_for_all("the rehearsal is complete")
    finally:
        if is_first_process():
            _remove(folder)
            for path in missing:
                with contextlib.suppress(OSError):
                    path.rmdir()


def _remove(folder: AnyPath) -> None:
    if folder.exists():
        epath.Path(folder).rmtree()


def _on_host(tree) -> list[dict[str, bytes]]:
    """Returns, per array, the bytes of this process's shards, keyed by their position."""
    return [
        {str(shard.index): np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}
        for leaf in jax.tree.leaves(tree)
    ]
