"""A profile of some training steps, for TensorBoard's profile plugin."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

from vdm.files import AnyPath, make_folder


class ProfilerWindow:
    """Traces the steps of config.training.profile_steps on this process, with jax.profiler.

    The trace excludes compilation: it starts after the first step of this process, and ends before
    a save, an evaluation or a preview, which may compile. It is written to
    WORKDIR/tensorboard/plugins/profile. Used as a context manager, which ends an unfinished trace.
    """

    def __init__(self, workdir: AnyPath, steps: Sequence[int], first_step: int, *, enabled: bool):
        """Prepares to trace; the trace itself starts in `start`.

        Args:
          workdir: folder of the run.
          steps: first and last step to trace; empty for none.
          first_step: step of the restored state.
          enabled: whether this process traces.
        """
        first, last = steps if steps and enabled else (0, 0)
        self._steps = range(max(first, first_step + 2), last + 1)
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
                    target.write_bytes(path.read_bytes())
        self._folder = None
