"""All trackers of a run as one."""

from collections.abc import Mapping
from pathlib import Path

import ml_collections

from vdm.training.trackers.interface import Clip, Tracker
from vdm.training.trackers.jsonl import JsonLines
from vdm.training.trackers.tensorboard import TensorBoard
from vdm.training.trackers.wandb import WeightsAndBiases, check_installed


class Trackers(Tracker):
    """Passes everything on to several trackers; a context manager that closes them."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.scalars(step, values)

    def text(self, step: int, name: str, text: str) -> None:
        for tracker in self._trackers:
            tracker.text(step, name, text)

    def clip(self, step: int, name: str, clip: Clip) -> None:
        for tracker in self._trackers:
            tracker.clip(step, name, clip)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_trackers(
    config: ml_collections.ConfigDict, workdir: Path, first_step: int, *, enabled: bool
) -> Trackers:
    """Opens metrics.jsonl, TensorBoard and, with config.training.wandb_project, Weights & Biases.

    Args:
      config: the configuration.
      workdir: existing folder of the run.
      first_step: step of the restored state; what was logged after it is logged again.
      enabled: whether this process logs; the trackers of other processes do nothing.

    Raises:
      ValueError, OSError: Weights & Biases is not installed or cannot be reached.
    """
    if not enabled:
        return Trackers()
    trackers: list[Tracker] = [JsonLines(workdir, first_step), TensorBoard(workdir, first_step)]
    if project := config.training.wandb_project:
        check_installed(project)
        trackers.append(WeightsAndBiases(workdir, config))
    return Trackers(*trackers)
