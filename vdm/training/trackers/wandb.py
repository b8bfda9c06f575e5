"""Weights & Biases, an optional extra: `pip install "video-diffusion-jax[wandb]"`."""

import importlib.util
import io
import uuid
from collections.abc import Mapping
from pathlib import Path

import ml_collections

from vdm.files import AnyPath, write_text
from vdm.parallel.processes import first_line
from vdm.training.trackers.interface import Clip, Tracker

_NAME = "wandb_id.txt"


def check_installed(project: str) -> None:
    """Raises ValueError if a project is set and the package is not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"config.training.wandb_project is {project!r}, and needs the package wandb: "
            'pip install "video-diffusion-jax[wandb]", or leave the field empty'
        )


class WeightsAndBiases(Tracker):
    """Logs to one run of the project config.training.wandb_project.

    The run's id is in WORKDIR/wandb_id.txt, so that a resumed training continues the same run.
    Weights & Biases ignores repeated steps, whose values are equal. Its environment variables
    apply: WANDB_MODE=offline needs no network.
    """

    def __init__(self, workdir: AnyPath, folder: Path, config: ml_collections.ConfigDict) -> None:
        """Starts or continues the run of a workdir; Weights & Biases writes to a local folder.

        Raises:
          OSError: Weights & Biases cannot be reached, or there is no API key.
        """
        import wandb  # an optional extra, which starts its own process

        path = workdir / _NAME
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:16] + "\n")
        try:
            self._run = wandb.init(
                project=config.training.wandb_project,
                id=path.read_text().strip(),
                resume="allow",
                config=config.to_dict(),
                dir=str(folder),
            )
        except wandb.errors.Error as error:
            raise OSError(
                f"config.training.wandb_project is {config.training.wandb_project!r}, and Weights "
                f"& Biases fails: {first_line(error)} (WANDB_MODE=offline needs no network)"
            ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def clip(self, step: int, name: str, clip: Clip) -> None:
        import wandb

        video = wandb.Video(io.BytesIO(clip.gif), caption=clip.caption or None, format="gif")
        self._run.log({name: video}, step=step)

    def close(self) -> None:
        self._run.finish()
