"""A profile of some training steps, for TensorBoard's profile plugin."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

from vdm.files import AnyPath, make_folder, write_bytes


def traced_steps(steps: Sequence[int], first_step: int = 0) -> range:
    """Returns the steps that are traced, of the first and the last one of a window.

    Args:
      steps: first and last step; empty for none.
      first_step: step of the restored state; 0 at the start. The step after it compiles, and is
        not traced.
    """
    first, last = steps or (0, 0)
    return range(max(first, first_step + 2), last + 1)


class ProfilerWindow:
    """Traces the steps of config.training.profile_steps on this process, with jax.profiler.

    The trace excludes compilation: it covers `traced_steps`, and ends before a save, an evaluation
    or a preview, which may compile. It is written to WORKDIR/tensorboard/plugins/profile. Used as a
    context manager, which ends an unfinished trace.
    """

    def __init__(self, workdir: AnyPath, steps: Sequence[int], first_step: int, *, enabled: bool):
        """Prepares to trace; prints a sentence if the only step left to trace is one that compiles.

        Args:
          workdir: folder of the run.
          steps: first and last step to trace; empty for none.
          first_step: step of the restored state.
          enabled: whether this process traces.
        """
        self._steps = traced_steps(steps if enabled else (), first_step)
        if enabled and steps and steps[1] == first_step + 1:
            print(
                f"config.training.profile_steps is {tuple(steps)}, of which step {steps[1]} is not "
                "traced: the first step since the start or the resume compiles",
                flush=True,
            )
        self._target = workdir / "tensorboard"
        self._folder: tempfile.TemporaryDirectory | None = None

    def start(self, step: int, pending: jax.Array) -> None:
        """Starts the trace at the first step of the window; called before each step.

        `pending` is an output of the previous step, and is waited for.
        """
        if step in self._steps[:1]:
            jax.block_until_ready(pending)
            # A local folder, because the profiler may not support the file system of the workdir.
            self._folder = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._folder.name)

    def stop(self, step: int, pending: jax.Array, *, early: bool) -> bool:
        """Ends the trace after the last step of the window; called after each step.

        Args:
          step: the step.
          pending: an output of the step; waited for before the trace ends.
          early: whether to end the trace before the window ends.

        Returns:
          Whether a trace was written (which takes seconds).
        """
        if self._folder is None or not (early or step == self._steps[-1]):
            return False
        jax.block_until_ready(pending)
        self._write()
        return True

    def __enter__(self) -> "ProfilerWindow":
        return self

    def __exit__(self, *_) -> None:
        if self._folder is not None:
            self._write()

    def _write(self) -> None:
        """Ends the trace and copies its files to the workdir."""
        assert self._folder is not None
        jax.profiler.stop_trace()
        with self._folder as name:
            for path in Path(name).rglob("*"):
                if path.is_file():
                    target = self._target / path.relative_to(name).as_posix()
                    make_folder(target.parent)
                    write_bytes(target, path.read_bytes())
        self._folder = None
