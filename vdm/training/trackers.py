"""Trackers of a training run: metrics.jsonl, TensorBoard events and the progress line."""

import json
import sys
import time
import types
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from vdm.files import AnyPath, write_text
from vdm.training.mirror import Mirror

# TensorBoard skips TensorFlow if a module of this name exists. Importing TensorFlow takes seconds,
# and may reserve the accelerator's memory.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))


class Trackers:
    """Writes metrics to WORKDIR/metrics.jsonl and WORKDIR/tensorboard/."""

    def __init__(self, workdir: AnyPath, first_step: int, *, enabled: bool = True) -> None:
        """Resumes the trackers of an existing workdir, dropping lines after `first_step`.

        Methods do nothing unless `enabled`, on one process.
        """
        self._events = None
        if not enabled:
            return
        self._mirror = Mirror(workdir)
        self._metrics = self._mirror.fetch("metrics.jsonl")
        _drop_after(self._metrics, first_step)
        self._events = EventFileWriter(str(self._mirror.folder / "tensorboard"))
        # Makes TensorBoard discard later steps that a killed process wrote.
        self._add_event(
            first_step + 1,
            session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends one line to metrics.jsonl, and the same scalars to TensorBoard."""
        if self._events is None:
            return
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        scalars = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
        ]
        self._add_event(step, summary=summary_pb2.Summary(value=scalars))
        self._mirror.push(at_once=False)

    def flush(self) -> None:
        """Makes what was written durable: a resumed run needs it up to its checkpoint."""
        if self._events is not None:
            self._mirror.push()

    def write_gif(self, step: int, tag: str, gif: bytes, height: int, width: int) -> None:
        """Adds a video to TensorBoard, which plays GIF images."""
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=gif
        )
        value = summary_pb2.Summary.Value(tag=tag, image=image)
        self._add_event(step, summary=summary_pb2.Summary(value=[value]))

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._mirror.close()

    def _add_event(self, step: int, **content) -> None:
        if self._events is not None:
            self._events.add_event(event_pb2.Event(wall_time=time.time(), step=step, **content))
            self._events.flush()


def _drop_after(path: Path, step: int) -> None:
    """Keeps the complete lines of metrics.jsonl up to a step; a killed process may leave others."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            is_kept = json.loads(line)["step"] <= step
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if is_kept:
            kept.append(line)
    write_text(path, "".join(kept))


class StepTimer:
    """Measures steps per second and the wait for input, between calls of its methods."""

    def __init__(self, step: int, seconds_waited: float) -> None:
        """Starts at a step; arguments as of `rates`."""
        self.restart(step, seconds_waited)

    def restart(self, step: int, seconds_waited: float) -> None:
        """Restarts at a step, to leave out compilation and sampling; arguments as of `rates`."""
        self._step, self._time, self._waited = step, time.monotonic(), seconds_waited

    def rates(self, step: int, seconds_waited: float) -> dict[str, float]:
        """Returns the rates since the last call of any method; empty if no step was taken.

        seconds_waited is the run's total wait for batches. The rates are 'steps_per_second', and
        'input_wait_share', the fraction of the time in which the devices were idle because the next
        batch was not ready.
        """
        steps, waited = step - self._step, seconds_waited - self._waited
        seconds = time.monotonic() - self._time
        self.restart(step, seconds_waited)
        if not steps:
            return {}
        return {"steps_per_second": steps / seconds, "input_wait_share": waited / seconds}


def progress_line(step: int, num_steps: int, loss: float, steps_per_second: float | None) -> str:
    """Returns one line for the terminal, with the remaining time if the speed is known."""
    line = f"step {step:>{len(str(num_steps))}}/{num_steps}  loss {loss:.4f}"
    if steps_per_second:
        minutes, seconds = divmod(round((num_steps - step) / steps_per_second), 60)
        hours, minutes = divmod(minutes, 60)
        line += f"  {steps_per_second:.2f} steps/s  {hours}:{minutes:02}:{seconds:02} left"
    return line
