"""metrics.jsonl, TensorBoard events and the progress line.

TensorBoard's own writer is used without TensorFlow.
"""

import json
import sys
import time
import types
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from vdm.files import write_text

# With a module of this name TensorBoard does without TensorFlow where that is installed, too, which
# would take seconds to import and may take the accelerator's memory.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))


class Logs:
    """Where a run writes what it measures.

    Attributes:
      workdir: metrics.jsonl and the event files are written here.
    """

    def __init__(self, workdir: Path, first_step: int, *, writes: bool = True):
        """Continues the logs of a workdir from a step, dropping what was logged after it.

        Args:
          workdir: of the run; exists.
          first_step: the step that the run starts or resumes from.
          writes: whether this process is the one that writes; the others only call.
        """
        self._events = None
        if not writes:
            return
        self._metrics = workdir / "metrics.jsonl"
        _drop_after(self._metrics, first_step)
        self._events = EventFileWriter(str(workdir / "tensorboard"))
        # TensorBoard discards what an earlier, killed process wrote from this step on.
        self._add_event(
            first_step + 1,
            session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends one line to metrics.jsonl and the same scalars to TensorBoard."""
        if self._events is None:
            return
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        scalars = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
        ]
        self._add_event(step, summary=summary_pb2.Summary(value=scalars))
        self._events.flush()

    def write_gif(self, step: int, tag: str, gif: bytes, height: int, width: int) -> None:
        """Adds a video to TensorBoard, which plays GIF images."""
        if self._events is None:
            return
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=gif
        )
        value = summary_pb2.Summary.Value(tag=tag, image=image)
        self._add_event(step, summary=summary_pb2.Summary(value=[value]))
        self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def _add_event(self, step: int, **what) -> None:
        self._events.add_event(event_pb2.Event(wall_time=time.time(), step=step, **what))


def _drop_after(path: Path, step: int) -> None:
    """Keeps the whole lines of a metrics file up to a step; a killed process may leave others."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            logged = json.loads(line)["step"]
        except json.JSONDecodeError:
            continue
        if logged <= step:
            kept.append(line)
    write_text(path, "".join(kept))


class StepTimer:
    """What happened between two log steps, without compilation and sampling."""

    def __init__(self):
        self._step = None
        self._time = None
        self._waited = None

    def restart(self, step: int, seconds_waited: float) -> None:
        """Forgets what happened up to now, `seconds_waited` for input included."""
        self._step, self._time, self._waited = step, time.monotonic(), seconds_waited

    def rates(self, step: int, seconds_waited: float) -> dict[str, float]:
        """Since the last call of either method; nothing where no step was made since.

        Args:
          step: the one that was made last.
          seconds_waited: for input, in all.

        Returns:
          steps_per_second, and input_wait_share: the part of the time in which the devices had
          nothing to do because the next batch was not there.
        """
        now = time.monotonic()
        steps, seconds = step - self._step, now - self._time
        waited = seconds_waited - self._waited
        self.restart(step, seconds_waited)
        if not steps:
            return {}
        return {"steps_per_second": steps / seconds, "input_wait_share": waited / seconds}


def progress_line(step: int, num_steps: int, loss: float, steps_per_second: float | None) -> str:
    """One line for the terminal."""
    line = f"step {step:>{len(str(num_steps))}}/{num_steps}  loss {loss:.4f}"
    if steps_per_second:
        minutes, seconds = divmod(round((num_steps - step) / steps_per_second), 60)
        hours, minutes = divmod(minutes, 60)
        line += f"  {steps_per_second:.2f} steps/s  {hours}:{minutes:02}:{seconds:02} left"
    return line
