"""The training loop."""

import collections
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vdm.build import count_parameters
from vdm.data.batches import Batches
from vdm.data.datasets import make_data_set
from vdm.parallel.mesh import check_divides, make_mesh, param_shardings
from vdm.parallel.messages import is_first_process
from vdm.parallel.preemption import PreemptionNotice
from vdm.parallel.processes import GOES_ON, Preempted
from vdm.parallel.rows import local_rows, shard_batch
from vdm.training.checkpoints import Checkpoints, abstract_on, save_config
from vdm.training.logs import Logs, StepTimer, progress_line
from vdm.training.state import TrainState, init_state
from vdm.training.step import make_train_step
from vdm.video.display import gif_bytes, mp4_bytes

# (EMA parameters) -> uint8 video [frames, height, width, channels] of samples side by side.
Preview = Callable[[dict], np.ndarray]


class LossNotFinite(ArithmeticError):
    """Training cannot go on: the loss or the gradient has become infinite or NaN."""


def train(config: ml_collections.ConfigDict, workdir: Path, *, preview: Preview) -> None:
    """Trains up to config.training.num_steps, from the newest checkpoint of the workdir.

    A resumed run is the uninterrupted run bit for bit: step n depends on the state and on batch n,
    a function of (seed, n), and on nothing else.

    Args:
      config: the configuration, validated.
      workdir: where checkpoints/, metrics.jsonl, tensorboard/ and previews/ are written.
      preview: what draws the sample videos, every config.training.sample_every steps.

    Raises:
      LossNotFinite: with the last good checkpoint kept.
      Preempted: by SIGTERM or the platform, with the state saved.
      OSError: a checkpoint cannot be saved (NotSaved), or none can be read.
      ValueError: the batch does not divide over the devices, or the data set is unknown.
    """
    training = config.training

    # Everything that can be wrong is found before anything is written.
    mesh = make_mesh(config)
    check_divides(mesh, training.batch_size, "training.batch_size", training.accumulate)
    source = make_data_set(config, "train")
    initial = partial(init_state, config)
    abstract_state = abstract_on(mesh, jax.eval_shape(initial))

    # State: restored, or new.
    if is_first_process():
        workdir.mkdir(parents=True, exist_ok=True)
        save_config(workdir, config)
    checkpoints = Checkpoints(workdir, training.keep_checkpoints)
    state = checkpoints.restore(abstract_state)
    if state is None:
        state = jax.jit(initial, out_shardings=param_shardings(mesh, abstract_state))()
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
    logs = Logs(workdir, first_step, writes=is_first_process())
    pace = _Pace()
    timer = StepTimer()
    train_step = make_train_step(config, mesh)

    # Loop.
    print("compiling the training step", flush=True)
    batches = Batches(
        source,
        range(first_step, training.num_steps),
        training.batch_size,
        rows=local_rows(mesh, training.batch_size),
        place=lambda batch: shard_batch(mesh, batch, training.batch_size),
        num_workers=config.data.num_workers,
        prefetch=config.data.prefetch,
    )
    with batches, PreemptionNotice() as notice:
        for step in range(first_step + 1, training.num_steps + 1):
            batch = batches.next(meanwhile=partial(jax.block_until_ready, state.step))
            state = train_step(state, batch)
            if step == first_step + 1:
                jax.block_until_ready(state.step)
                timer.restart(step, batches.seconds_waited)
                notice.listen()
            pace.keep(state)

            is_last = step == training.num_steps
            is_logged = step % training.log_every == 0 or is_last
            is_preempted = notice.reached(step)
            is_saved = step % training.checkpoint_every == 0 or is_last or is_preempted
            if is_logged or is_saved:
                metrics = _mean_metrics(state, training.log_every)
            if is_logged:
                rates = timer.rates(step, batches.seconds_waited)
                logs.write(step, metrics | rates)
                speed = rates.get("steps_per_second")
                print(progress_line(step, training.num_steps, metrics["loss"], speed), flush=True)
                checkpoints.raise_failures()
            if is_saved:
                checkpoints.save(state)
            if is_preempted and not is_last:
                checkpoints.close()
                raise Preempted(f"preempted: step {step} is saved, and {GOES_ON}")
            if training.sample_every and (step % training.sample_every == 0 or is_last):
                _write_preview(workdir, logs, step, preview(state.ema_params))
                timer.restart(step, batches.seconds_waited)
    logs.close()
    checkpoints.close()


class _Pace:
    """Keeps the host at most two steps ahead of the devices.

    They never wait for it, and a notice of preemption does not wait for a queue of steps.
    """

    def __init__(self):
        self._ahead = collections.deque()

    def keep(self, state: TrainState) -> None:
        """Called after each step; the state itself is given to the next step."""
        self._ahead.append(jnp.copy(state.step))
        if len(self._ahead) > 2:
            jax.block_until_ready(self._ahead.popleft())


def _mean_metrics(state: TrainState, log_every: int) -> dict[str, float]:
    """Means since the last log step; raises LossNotFinite where a step in between was not."""
    step = int(state.step)
    steps = (step - 1) % log_every + 1
    means = {name: float(total) / steps for name, total in state.metric_sums.items()}
    for name, mean in means.items():
        if not math.isfinite(mean):
            raise LossNotFinite(
                f"{name} is {mean} between steps {step - steps + 1} and {step}: training stops, "
                "and the last checkpoint before it is kept; a lower training.learning_rate or a "
                "training.gradient_clip may help"
            )
    return means


def _write_preview(workdir: Path, logs: Logs, step: int, video: np.ndarray) -> None:
    if not is_first_process():
        return
    scale = 4 if video.shape[1] < 256 else 1
    gif = gif_bytes(video, scale=scale)
    (workdir / "previews").mkdir(exist_ok=True)
    (workdir / "previews" / f"step_{step:08}.gif").write_bytes(gif)
    (workdir / "previews" / f"step_{step:08}.mp4").write_bytes(mp4_bytes(video, scale=scale))
    logs.write_gif(step, "samples", gif, *video.shape[1:3])
