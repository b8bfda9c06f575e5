"""The training loop."""

import math
from collections import deque
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from clu.parameter_overview import get_parameter_overview
from jax.sharding import Mesh

from vdm.build import count_parameters
from vdm.configuration.stored import load_run_config, save_run_config
from vdm.data.batches import Batches, DataSet
from vdm.data.datasets import frame_rate_of, make_data_set, with_classes
from vdm.data.shapes import batch_shapes
from vdm.files import AnyPath, make_folder, write_bytes, write_text
from vdm.parallel.mesh import check_divides, make_mesh
from vdm.parallel.messages import is_first_process
from vdm.parallel.preemption import PreemptionNotice
from vdm.parallel.processes import RESUME_HINT, Preempted
from vdm.parallel.rows import abstract_rows, local_rows, shard_batch
from vdm.training.checkpoints import Checkpoints, abstract_on
from vdm.training.compatibility import check_same_run
from vdm.training.lock import RunLock
from vdm.training.state import TrainState, make_learning_rate, state_shapes
from vdm.training.step import make_train_step
from vdm.training.trackers.interface import Clip, Tracker
from vdm.training.trackers.profile import ProfilerWindow
from vdm.training.trackers.progress import StepTimer, memory, progress_line
from vdm.training.trackers.run import open_trackers
from vdm.training.warm_start import load_source, make_first_state
from vdm.video.display import gif_bytes, mp4_bytes

# (EMA parameters) -> held-out loss.
HeldOutLoss = Callable[[dict], float]
# (EMA parameters) -> (uint8 video [frames, height, width, channels], its caption), or None.
Preview = Callable[[dict], tuple[np.ndarray, str] | None]

_MIN_PREVIEW_STEP = 10


class LossNotFinite(ArithmeticError):
    """Training stops: the loss or the gradient is infinite or NaN."""


def train(
    config: ml_collections.ConfigDict,
    workdir: AnyPath,
    *,
    preview: Preview | None,
    held_out_loss: HeldOutLoss | None = None,
) -> bool:
    """Trains up to config.training.num_steps, resuming from the newest checkpoint of the workdir.

    A resumed run equals the uninterrupted run bit for bit: step n is a function of the state and of
    batch n, which is a function of (seed, n).

    Args:
      config: a validated configuration.
      workdir: receives checkpoints/, metrics.jsonl, tensorboard/, previews/, config.json and
        parameters.txt.
      preview: draws sample videos every config.training.sample_every steps, and at earlier steps as
        in `has_preview`.
      held_out_loss: computes the held-out loss every config.training.eval_every steps and after the
        last one.

    Returns:
      Whether any step was taken; if not, config.json is unchanged.

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
    source = make_data_set(config, "train")
    config = with_classes(config)
    check_same_run(config, workdir)
    if is_first_process():
        make_folder(workdir)
    with RunLock(workdir, enabled=is_first_process()) as lock:
        return _train(config, workdir, mesh, source, preview, held_out_loss, lock)


def _train(
    config: ml_collections.ConfigDict,
    workdir: AnyPath,
    mesh: Mesh,
    source: DataSet,
    preview: Preview | None,
    held_out_loss: HeldOutLoss | None,
    lock: RunLock,
) -> bool:
    training = config.training

    # ---- State: restored, or new.
    abstract_state = abstract_on(mesh, state_shapes(config))
    checkpoints = Checkpoints(workdir, training.keep_checkpoints)
    state = checkpoints.restore(abstract_state)
    source_params = load_source(config, mesh) if state is None else None
    first_step = 0 if state is None else int(state.step)
    if first_step >= training.num_steps:
        print(
            f"nothing to do: the newest checkpoint is of step {first_step}, and "
            f"config.training.num_steps is {training.num_steps}",
            flush=True,
        )
        if is_first_process() and load_run_config(workdir) is None:  # config.json was lost
            save_run_config(workdir, config)
        checkpoints.close()
        return False
    if is_first_process():
        save_run_config(workdir, config)
        overview = get_parameter_overview(abstract_state.params, include_stats=False)
        write_text(workdir / "parameters.txt", f"{overview}\n")
        print(overview)
    print(
        f"{count_parameters(abstract_state.params):,} parameters on {mesh.size} "
        f"{jax.devices()[0].platform} device(s); from step {first_step} to {training.num_steps}",
        flush=True,
    )

    # ---- Step, trackers and input.
    train_step = make_train_step(config, mesh)
    learning_rate = jax.jit(make_learning_rate(config))
    trackers = open_trackers(config, workdir, first_step, enabled=is_first_process())
    batches = Batches(
        source,
        range(first_step, training.num_steps),
        training.batch_size,
        rows=local_rows(mesh, training.batch_size),
        place=lambda batch: shard_batch(mesh, batch, training.batch_size),
        num_workers=config.data.num_workers,
        prefetch=config.data.prefetch,
    )
    profiler = ProfilerWindow(
        workdir, training.profile_steps, first_step, enabled=is_first_process()
    )
    timer = StepTimer(first_step, batches.seconds_waited)
    in_flight: deque[jax.Array] = deque()

    with trackers, batches, profiler, PreemptionNotice() as notice:
        # ---- Compilation, while the first batches are loaded.
        print("compiling the training step", flush=True)
        if state is None:
            batch_rows = abstract_rows(mesh, batch_shapes(config, training.batch_size))
            state = make_first_state(
                config,
                mesh,
                source_params,
                meanwhile=lambda: train_step.lower(abstract_state, batch_rows).compile(),
            )
        del source_params  # frees device memory of arrays that the state did not take

        # ---- Loop.
        for step in range(first_step + 1, training.num_steps + 1):
            # -- Step
            batch = batches.next(meanwhile=partial(jax.block_until_ready, state.step))
            profiler.start(step, state.step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state = train_step(state, batch)
            if step == first_step + 1:
                jax.block_until_ready((state.step, learning_rate(first_step)))
                timer.restart(step, batches.seconds_waited)
                notice.listen()
            # Two steps in flight keep the devices busy; more would delay preemption.
            in_flight.append(jnp.copy(state.step))
            if len(in_flight) > 2:
                jax.block_until_ready(in_flight.popleft())

            is_last = step == training.num_steps
            is_logged = step % training.log_every == 0 or is_last
            is_preempted = notice.reached(step)
            is_saved = step % training.checkpoint_every == 0 or is_last or is_preempted
            is_evaluated = _is_due(step, training.eval_every, is_last)
            is_previewed = preview is not None and has_preview(
                step, training.sample_every, is_last=is_last
            )
            logged: dict[str, float] = {}
            loss = None

            # -- Measure
            if is_logged or is_saved or is_evaluated:
                means = _mean_metrics(state)
            if is_logged:
                rates = timer.rates(step, batches.seconds_waited)
                logged |= means | {"learning_rate": float(learning_rate(step - 1))}
                logged |= rates | memory()
                speed = rates.get("steps_per_second")
                notice.report(progress_line(step, training.num_steps, means["loss"], speed))
                checkpoints.raise_failures()

            # -- Profile
            if profiler.stop(step, state.step, early=is_saved or is_evaluated or is_previewed):
                timer.restart(step, batches.seconds_waited)

            # -- Evaluate
            if is_evaluated and held_out_loss is not None:
                loss = held_out_loss(state.ema_params)
                notice.report(f"held-out loss of step {step}: {loss:.4f}")
                loss = loss if math.isfinite(loss) else None
                if loss is not None:
                    logged["held_out_loss"] = loss
                    is_saved = is_saved or checkpoints.is_best(loss)
                timer.restart(step, batches.seconds_waited)

            # -- Log
            if logged:
                trackers.scalars(step, logged)

            # -- Save
            if is_saved:
                lock.check()
                trackers.flush()
                checkpoints.save(state, loss)
            if is_preempted and not is_last:
                checkpoints.close()
                raise Preempted(f"{notice.cause}: step {step} is saved, and {RESUME_HINT}")

            # -- Preview
            if preview is not None and is_previewed:
                try:
                    drawn = preview(state.ema_params)
                    _write_preview(workdir, trackers, step, drawn, frame_rate_of(config))
                except ArithmeticError as error:  # the loss is finite, so training continues
                    notice.report(f"no preview of step {step}: {error}")
                timer.restart(step, batches.seconds_waited)
        checkpoints.close()  # here, so that Ctrl-C does not end the last save
    return True


def _is_due(step: int, every: int, is_last: bool) -> bool:
    """Returns whether an action is due: after each `every` steps (0: never), and after the last."""
    return every > 0 and (step % every == 0 or is_last)


def has_preview(step: int, every: int, *, is_last: bool = False) -> bool:
    """Returns whether there is a preview after a step.

    Previews are drawn every `every` steps, and before that at `every` / 2, / 4, / 8 ... (rounded
    down, at least 10 steps): early previews show problems soon, and the intervals double.
    """
    is_early = step >= _MIN_PREVIEW_STEP and any(
        step == every >> halvings for halvings in range(1, every.bit_length())
    )
    return is_early or _is_due(step, every, is_last)


def _mean_metrics(state: TrainState) -> dict[str, float]:
    """Returns the mean of each metric since the last log step.

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


def _write_preview(
    workdir: AnyPath,
    trackers: Tracker,
    step: int,
    preview: tuple[np.ndarray, str] | None,
    rate: float,
) -> None:
    if preview is None:
        return
    video, text = preview
    gif = gif_bytes(video, frames_per_second=rate, scale=1)
    folder = workdir / "previews"
    make_folder(folder)
    write_bytes(folder / f"step_{step:08}.gif", gif)
    mp4 = mp4_bytes(video, frames_per_second=rate, scale=1)
    write_bytes(folder / f"step_{step:08}.mp4", mp4)
    write_text(folder / f"step_{step:08}.txt", text)
    trackers.clip(step, "samples", Clip(gif, video.shape[1], video.shape[2], text))
