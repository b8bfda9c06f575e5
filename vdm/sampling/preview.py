"""The sample videos that training logs."""

from collections.abc import Callable
from typing import NamedTuple

import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.data.datasets import held_out_videos
from vdm.parallel.messages import is_first_process
from vdm.sampling.conditions import describe_conditions
from vdm.sampling.generate import make_generator
from vdm.video.display import captioned_grids
from vdm.video.pixels import to_uint8

_SMALL = 256  # pixels: grids of samples below this height are enlarged


class Preview(NamedTuple):
    """Samples, and real videos to compare with.

    Attributes:
      video: uint8 [frames, height, width, channels]: a row of real videos, and a grid of samples.
      text: the condition of each video.
    """

    video: np.ndarray
    text: str


def preview_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the configuration of previews, in which 'generate' replaces the task 'cascade'."""
    config = config.copy_and_resolve_references()
    if config.sample.task == "cascade":
        config.sample.task = "generate"
    return config


def make_preview(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[[dict], Preview | None]:
    """Returns a function from parameters to a preview on process 0, and to None on the others.

    It draws one batch of the first samples: config.sample.num_videos or config.sample.batch_size,
    whichever is less. The real videos are the first held-out videos; they are omitted if the data
    set has none or if they are shorter than the samples. Every process must make every call.
    """
    config = preview_config(config)
    generator = make_generator(config, mesh)
    count = min(config.sample.num_videos, config.sample.batch_size)
    fixed: dict[str, np.ndarray] = {}  # the real videos, read only once

    def preview(params: dict) -> Preview | None:
        samples = generator(params, range(count))
        if not is_first_process():
            return None
        columns = int(np.ceil(np.sqrt(count)))
        if not fixed:
            fixed["real"] = _real_videos(config, columns, samples.shape[1])
        groups = {"real": fixed["real"], "samples": samples}
        groups = {name: videos for name, videos in groups.items() if len(videos)}
        scale = 4 if samples.shape[2] * columns < _SMALL else 1
        return Preview(captioned_grids(groups, scale=scale), _text(config, groups))

    return preview


def _real_videos(config: ml_collections.ConfigDict, count: int, frames: int) -> np.ndarray:
    """Returns the first held-out videos, uint8 [count, frames, ...]; [0, ...] if there are none."""
    try:
        return to_uint8(held_out_videos(config, frames).batch(0, count)["video"])
    except (ValueError, OSError):
        return np.zeros((0, 0, 0, 0, 0), np.uint8)


def _text(config: ml_collections.ConfigDict, groups: dict[str, np.ndarray]) -> str:
    """Returns one line per video, in the order of the grids: its condition."""
    lines = []
    for name, videos in groups.items():
        described = config.copy_and_resolve_references()
        if name == "real":  # real videos keep their own conditions
            described.data.frames = videos.shape[1]  # as `_real_videos`: others may be too short
            described.sample.update(label=-1, caption="", action=(), per_example=1)
        elif not config.sample.guidance_weight:
            described.data.condition = "none"
        conditions = describe_conditions(described, range(len(videos)))
        if "action" in conditions:  # of all frames
            conditions = {"mean action": conditions["action"].mean(1).round(2)}
        for index in range(len(videos)):
            known = [f"{kind} {values[index]}" for kind, values in conditions.items()]
            lines.append(f"- {name}, video {index}: {known[0] if known else 'no condition'}")
    return "\n".join(lines) + "\n"
