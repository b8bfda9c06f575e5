"""Answers the page's requests: from settings and a clip to videos and files."""

import dataclasses
import itertools
import math
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ml_collections
import numpy as np

from vdm.data.shapes import frame_rate_of
from vdm.sample_settings import SampleSettings
from vdm.sampling.generate import SamplesNotFinite
from vdm.video.display import contact_sheet, mp4_bytes, video_grid
from vdm.video.video_sets import Videos
from vdm.video_model import VideoModel, load

TASKS = ("sample", "predict", "extend", "upsample")
MAX_VIDEOS, MAX_FRAMES = 8, 256  # per request
_GRID_SIDE = 480  # approximate side of the displayed video, pixels

# {name in error messages: name of the page's field}.
_PAGE_NAMES = {
    "config.predict.num_given": "Observed frames",
    "config.upsample.factor": "Factor",
    "config.data.resolution": "the model's resolution",
    "config.sample.guidance_weight": "Guidance weight",
    "guidance_weight": "Guidance weight",
    "config.sample.num_steps": "Steps",
    "config.sample.sampler": "Sampler",
    "config.sample.seed": "Seed",
    "num_frames": "Frames",
}

# (step, steps, block): called before step `step` of `steps` of a block; blocks count from 1.
Progress = Callable[[int, int, int], object]


class RequestError(ValueError):
    """A request that cannot be answered; the message is a sentence for the page."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings shared by all tabs; fields of config.sample keep their names.

    Attributes:
      condition: text entered in the field of `condition_field`.
      num_videos: number of samples.
    """

    condition: str = ""
    num_videos: int = 4
    guidance_weight: float = 1.0
    sampler: str = "dpmpp_2m"
    num_steps: int = 24
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """Sampled videos and their files.

    Attributes:
      videos: uint8 [n, frames, height, width, channels].
      movie: MP4 of all videos in a grid.
      sheet: contact sheet, one row per video, one column per frame.
      arrays: .npz file with `video`.
      summary: one sentence that describes the result.
    """

    videos: np.ndarray
    movie: Path
    sheet: Path
    arrays: Path
    summary: str


class Demo:
    """Loads models at first use, and answers requests sequentially.

    Args:
      checkpoints: names or paths, as in `vdm.load`.
      folder: output folder of result files; default: a new temporary folder.
    """

    def __init__(self, checkpoints: list[str], folder: Path | None = None) -> None:
        self.checkpoints = checkpoints
        self.folder = folder or Path(tempfile.mkdtemp(prefix="vdm_demo_"))
        self._models: dict[str, VideoModel] = {}
        self._results = itertools.count()
        self._lock = threading.Lock()

    def model(self, checkpoint: str) -> VideoModel:
        """Returns the model of a checkpoint, loaded once."""
        if checkpoint not in self._models:
            self._models[checkpoint] = load(checkpoint)
        return self._models[checkpoint]

    def run(
        self,
        task: str,
        checkpoint: str,
        settings: Settings,
        *,
        clip: str | np.ndarray | None = None,
        option: int | None = None,
        progress: Progress = lambda step, steps, block: None,
    ) -> Result:
        """Samples videos by a task; the same request gives the same videos.

        Args:
          task: one of TASKS.
          checkpoint: one of `self.checkpoints`.
          settings: settings of the samples.
          clip: path, or uint8 [frames, height, width, channels]; required for all tasks but
            'sample'.
          option: number of observed frames for 'predict', number of frames for 'extend', factor for
            'upsample'; None: the model's default.
          progress: called before each step.

        Raises:
          RequestError: a setting or the clip is invalid.
        """
        with self._lock:
            start = time.perf_counter()
            try:
                model = self.model(checkpoint)
                videos = _sample(model, task, settings, clip, option, progress)
            except (ValueError, OSError, SamplesNotFinite) as error:
                raise RequestError(_sentence(error, clip)) from error
            seconds = time.perf_counter() - start
            count, frames, height, width, _ = videos.shape
            summary = (
                f"{count} video{'s' * (count > 1)} of {frames} frames of {height}x{width} pixels "
                f"in {seconds:.1f} s: {Path(checkpoint).stem}, step {model.step}, seed "
                f"{settings.seed}, {settings.num_steps} steps of {settings.sampler}."
            )
            return self._write(videos, frame_rate_of(model.config), summary)

    def _write(self, videos: np.ndarray, frame_rate: float, summary: str) -> Result:
        stem = self.folder / f"videos_{next(self._results):04}"
        movie, sheet, arrays = (stem.with_suffix(f".{kind}") for kind in ("mp4", "png", "npz"))
        scale = max(1, _GRID_SIDE // (math.ceil(len(videos) ** 0.5) * videos.shape[3]))
        grid = video_grid(videos.repeat(scale, axis=2).repeat(scale, axis=3))
        movie.write_bytes(mp4_bytes(grid, frames_per_second=frame_rate, scale=1))
        contact_sheet(videos).save(sheet)
        np.savez_compressed(arrays, video=videos)
        return Result(videos, movie, sheet, arrays, summary)


def condition_field(config: ml_collections.ConfigDict) -> tuple[str, str, str]:
    """Returns (name, description, initial text) of a model's condition field; name '' if none.

    `Settings.condition` holds the text.
    """
    data, model = config.data, config.model
    if data.condition == "label":
        last = model.num_classes - 1
        return "Label", f"0 to {last}; empty: one label after another", ""
    if data.condition == "text":
        return "Caption", "one for all videos", ""
    if data.condition == "action":
        numbers = ", ".join(["1"] + ["0"] * (model.action_width - 1))
        return "Action", f"{model.action_width} numbers, of all frames", numbers
    return "", "", ""


def default_settings(config: ml_collections.ConfigDict, num_videos: int = 4) -> Settings:
    """Returns a model's default settings, without guidance if it has no condition."""
    sample = config.sample
    return Settings(
        condition=condition_field(config)[2],
        num_videos=num_videos,
        guidance_weight=1.0 if config.data.condition == "none" else sample.guidance_weight,
        sampler=sample.sampler,
        num_steps=sample.num_steps,
    )


def _sample(
    model: VideoModel,
    task: str,
    settings: Settings,
    clip: str | np.ndarray | None,
    option: int | None,
    progress: Progress,
) -> np.ndarray:
    """Calls the model's method of a task."""
    count = settings.num_videos
    if not 1 <= count <= MAX_VIDEOS:
        raise ValueError(f"The number of videos is {count}, and must be 1 to {MAX_VIDEOS}")
    if task == "extend" and option is not None and option > MAX_FRAMES:
        raise ValueError(f"The number of frames is {option}, and must be at most {MAX_FRAMES}")
    fields: SampleSettings = {
        "batch_size": count,
        "seed": settings.seed,
        "sampler": settings.sampler,
        "num_steps": settings.num_steps,
        "guidance_weight": settings.guidance_weight,
        **_condition(model.config, settings),
    }
    block = 0

    def on_step(step: int) -> None:
        nonlocal block
        block += step == 0
        progress(step, settings.num_steps, block)

    model.on_step = on_step
    if task == "sample":
        return model.sample(count, **fields)
    if clip is None:
        raise ValueError("There is no clip: upload one, or sample a video first")
    videos: Videos = clip if isinstance(clip, str) else clip[None]
    fields["per_example"] = count
    if task == "predict":
        return model.predict(videos, num_given=option, **fields)
    if task == "extend":
        return model.extend(videos, num_frames=option or 2 * model.config.data.frames, **fields)
    fields["conditioning"] = "reconstruction"  # the only method for low-resolution observations
    return model.upsample(videos, factor=option, **fields)


def _condition(config: ml_collections.ConfigDict, settings: Settings) -> SampleSettings:
    text, data = settings.condition.strip(), config.data
    if data.condition == "label":
        classes = config.model.num_classes
        if not text:
            return {"label": [index % classes for index in range(settings.num_videos)]}
        if not text.isdecimal() or int(text) >= classes:
            raise ValueError(f"The label is {text!r}, and must be a number from 0 to {classes - 1}")
        return {"label": int(text)}
    if data.condition == "text":
        if not text:
            raise ValueError("The caption is empty, and the model needs one")
        return {"caption": text}
    if data.condition == "action":
        try:
            action = tuple(float(number) for number in text.split(","))
        except ValueError:
            action = ()
        if len(action) != config.model.action_width or not all(map(math.isfinite, action)):
            raise ValueError(
                f"The action is {text!r}, and must be {config.model.action_width} numbers with "
                "commas between them"
            )
        return {"action": action}
    return {}


def _sentence(error: Exception, clip: str | np.ndarray | None) -> str:
    """Returns the first line of a message, with the page's names for fields and the clip."""
    line = str(error).strip().partition("\n")[0]
    if isinstance(clip, str):
        line = line.replace(clip, Path(clip).name)
    for name, of_page in _PAGE_NAMES.items():
        line = re.sub(rf"(?<![\w.]){re.escape(name)}(?= is |,)", of_page, line)
    return line.removesuffix(".") + "."
