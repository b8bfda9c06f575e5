"""The training loop."""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.build import count_parameters
from vdm.configuration.stored import save_run_config
from vdm.data.batches import Batches, DataSet
from vdm.data.datasets import make_data_set
from vdm.parallel.mesh import check_divides, make_mesh
from vdm.parallel.messages import is_first_process
from vdm.parallel.preemption import PreemptionNotice
from vdm.parallel.processes import RESUME_HINT, Preempted
from vdm.parallel.rows import local_rows, shard_batch
from vdm.training.checkpoints import Checkpoints, abstract_on
from vdm.training.compatibility import check_same_run
from vdm.training.lock import RunLock
from vdm.training.state import TrainState, init_state
from vdm.training.step import make_train_step
from vdm.training.trackers import StepTimer, Trackers, progress_line
from vdm.training.warm_start import make_first_state
from vdm.video.display import gif_bytes, mp4_bytes

# (EMA parameters) -> uint8 video [frames, height, width, channels], samples in a grid.
Preview = Callable[[dict], np.ndarray]


class LossNotFinite(ArithmeticError):
    """Training stops: the loss or the gradient is infinite or NaN."""


def train(config: ml_collections.ConfigDict, workdir: Path, *, preview: Preview) -> None:
    """Trains up to config.training.num_steps, resuming from the newest checkpoint of the workdir.

    A resumed run equals the uninterrupted run bit for bit: step n is a function of the state and of
    batch n, which is a function of (seed, n).

    Args:
      config: a validated configuration.
      workdir: receives checkpoints/, metrics.jsonl, tensorboard/, previews/ and config.json.
      preview: draws sample videos, every config.training.sample_every steps.

    Raises:
      LossNotFinite: the loss or the gradient is not finite; the last good checkpoint is kept.
      Preempted: a signal or the platform's notice arrived; the state is saved.
      OSError: another training uses the workdir (WorkdirInUse), a checkpoint cannot be saved
        (CheckpointNotSaved), or none can be read.
      ValueError: the batch does not divide over the devices, or the data set is unknown.
    """
    # Checks, before anything is written.
    training = config.training
    mesh = make_mesh(config)
    check_divides(mesh, training.batch_size, "training.batch_size", training.accumulate)
    check_same_run(config, workdir)
    source = make_data_set(config, "train")
    if is_first_process():
        workdir.mkdir(parents=True, exist_ok=True)
    with RunLock(workdir, enabled=is_first_process()) as lock:
        _train(config, workdir, mesh, source, preview, lock)


def _train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    mesh: Mesh,
    source: DataSet,
    preview: Preview,
    lock: RunLock,
) -> None:
    training = config.training

    # ---- State: restored, or new.
    abstract_state = abstract_on(mesh, jax.eval_shape(partial(init_state, config)))
    checkpoints = Checkpoints(workdir, training.keep_checkpoints)
    state = checkpoints.restore(abstract_state)
    if state is None:
        state = make_first_state(config, mesh)
    if is_first_process():
        save_run_config(workdir, config)
    first_step = int(state.step)
    print(
        f"{count_parameters(state.params):,} parameters on {mesh.size} "
        f"{jax.devices()[0].platform} device(s); from step {first_step} to {training.num_steps}",
        flush=True,
    )
    if first_step >= training.num_steps:
        print("nothing to do: the newest checkpoint has all the steps", flush=True)
        checkpoints.close()
        return

    # ---- Step, trackers and input.
    train_step = make_train_step(config, mesh)
    trackers = Trackers(workdir, first_step, enabled=is_first_process())
    batches = Batches(
        source,
        range(first_step, training.num_steps),
        training.batch_size,
        rows=local_rows(mesh, training.batch_size),
        place=lambda batch: shard_batch(mesh, batch, training.batch_size),
        num_workers=config.data.num_workers,
        prefetch=config.data.prefetch,
    )
    timer = StepTimer(first_step, batches.seconds_waited)
    in_flight: deque[jax.Array] = deque()

    # ---- Loop.
    print("compiling the training step", flush=True)
    with batches, PreemptionNotice() as notice:
        for step in range(first_step + 1, training.num_steps + 1):
            # -- Step
            batch = batches.next(meanwhile=partial(jax.block_until_ready, state.step))
            state = train_step(state, batch)
            if step == first_step + 1:
                jax.block_until_ready(state.step)
                timer.restart(step, batches.seconds_waited)
                notice.listen()
            # Two steps ahead keep the devices busy; more would delay the response to a preemption.
            in_flight.append(jnp.copy(state.step))
            if len(in_flight) > 2:
                jax.block_until_ready(in_flight.popleft())

            is_last = step == training.num_steps
            is_logged = step % training.log_every == 0 or is_last
            is_preempted = notice.reached(step)
            is_saved = step % training.checkpoint_every == 0 or is_last or is_preempted

            # -- Log
            if is_logged or is_saved:
                metrics = _mean_metrics(state)
            if is_logged:
                rates = timer.rates(step, batches.seconds_waited)
                trackers.write(step, metrics | rates)
                speed = rates.get("steps_per_second")
                notice.report(progress_line(step, training.num_steps, metrics["loss"], speed))
                checkpoints.raise_failures()

            # -- Save
            if is_saved:
                lock.check()
                checkpoints.save(state)
            if is_preempted and not is_last:
                checkpoints.close()
                raise Preempted(f"{notice.cause}: step {step} is saved, and {RESUME_HINT}")

            # -- Preview
            if training.sample_every and (step % training.sample_every == 0 or is_last):
                try:
                    _write_preview(workdir, trackers, step, preview(state.ema_params))
                except ArithmeticError as error:  # the loss is finite, and may become lower
                    notice.report(f"no preview of step {step}: {error}")
                timer.restart(step, batches.seconds_waited)
    trackers.close()
    checkpoints.close()


def _mean_metrics(state: TrainState) -> dict[str, float]:
    """Returns the means since the last log step.

    Raises:
      LossNotFinite: a mean is infinite or NaN.
    """
    sums = {name: float(total) for name, total in state.metric_sums.items()}
    step, steps = int(state.step), int(sums.pop("steps"))
    means = {name: total / steps for name, total in sums.items()}
    for name, mean in means.items():
        if not math.isfinite(mean):
            raise LossNotFinite(
                f"{name} is {mean} between steps {step - steps + 1} and {step}: training stops, "
                "and the last checkpoint before it is kept; a lower training.learning_rate or a "
                "training.gradient_clip may help"
            )
    return means


def _write_preview(workdir: Path, trackers: Trackers, step: int, video: np.ndarray) -> None:
    if not is_first_process():
        return
    scale = 4 if video.shape[1] < 256 else 1
    gif = gif_bytes(video, scale=scale)
    (workdir / "previews").mkdir(exist_ok=True)
    (workdir / "previews" / f"step_{step:08}.gif").write_bytes(gif)
    (workdir / "previews" / f"step_{step:08}.mp4").write_bytes(mp4_bytes(video, scale=scale))
    height, width = video.shape[1:3]
    trackers.write_gif(step, "samples", gif, height, width)
