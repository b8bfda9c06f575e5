"""Combines all trackers of a run into one."""

from collections.abc import Mapping

import ml_collections

from vdm.files import AnyPath
from vdm.training.mirror import Mirror
from vdm.training.trackers.interface import Clip, Tracker
from vdm.training.trackers.jsonl import JsonLines
from vdm.training.trackers.tensorboard import TensorBoard
from vdm.training.trackers.wandb import WeightsAndBiases, check_installed


class Trackers(Tracker):
    """Forwards every call to several trackers; a context manager that closes them.

    Their local files are in a mirror of the workdir.
    """

    def __init__(self, mirror: Mirror | None, *trackers: Tracker) -> None:
        self._mirror, self._trackers = mirror, trackers

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.scalars(step, values)
        if self._mirror is not None:
            self._mirror.push(at_once=False)

    def text(self, step: int, name: str, text: str) -> None:
        for tracker in self._trackers:
            tracker.text(step, name, text)

    def clip(self, step: int, name: str, clip: Clip) -> None:
        for tracker in self._trackers:
            tracker.clip(step, name, clip)

    def flush(self) -> None:
        """Writes everything logged so far to disk: a resumed run needs it up to its checkpoint."""
        if self._mirror is not None:
            self._mirror.push()

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
        if self._mirror is not None:
            self._mirror.close()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_trackers(
    config: ml_collections.ConfigDict, workdir: AnyPath, first_step: int, *, enabled: bool
) -> Trackers:
    """Opens metrics.jsonl, TensorBoard and, with config.training.wandb_project, Weights & Biases.

    Args:
      config: the configuration.
      workdir: existing folder of the run.
      first_step: step of the restored state; later log entries are dropped and logged again.
      enabled: whether this process logs; the trackers of other processes do nothing.

    Raises:
      ValueError, OSError: Weights & Biases is not installed or cannot be reached.
    """
    if not enabled:
        return Trackers(None)
    mirror = Mirror(workdir)
    trackers: list[Tracker] = [
        JsonLines(mirror.fetch("metrics.jsonl"), first_step),
        TensorBoard(mirror.folder / "tensorboard", first_step),
    ]
    if project := config.training.wandb_project:
        check_installed(project)
        trackers.append(WeightsAndBiases(workdir, mirror.folder, config))
    return Trackers(mirror, *trackers)
