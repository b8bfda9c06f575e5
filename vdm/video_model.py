"""Python API: `vdm.load(path)` returns a model that samples, predicts and extends videos."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Unpack

import jax
import ml_collections
import numpy as np

from vdm.build import count_parameters
from vdm.configuration.stored import from_record, load_run_config
from vdm.exported import load_exported, load_exported_config
from vdm.files import EXPORTED_FILE, AnyPath, as_path
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.rules import check_field
from vdm.sample_settings import SampleSettings, check_task_of, conditions_of, configured, integer
from vdm.sampling.conditions import load_observed
from vdm.sampling.generate import make_draw, make_generator
from vdm.sampling.tasks import is_joint
from vdm.shipped import checkpoint_names, find_checkpoint
from vdm.training.checkpoints import load_ema, saved_steps
from vdm.video.video_sets import Videos, open_videos

# Fields of config.sample that do not affect the compiled sampler.
_ARGUMENTS = ("task", "num_videos", "seed", "label", "caption", "action", "observed")
_NOT_DRAWN = (*_ARGUMENTS, "per_example", "max_video_files")


def load(path: str | Path, *, step: int | str = "") -> "VideoModel":
    """Loads the EMA weights of a trained model.

    Args:
      path: an exported .safetensors file; the workdir of a run; a folder with model.safetensors;
        the name of a checkpoint that comes with the package; or a Hugging Face Hub repository,
        hf://OWNER/NAME or hf://OWNER/NAME@REVISION.
      step: for a workdir, the step of a checkpoint, or 'best' for the lowest held-out loss;
        default: the newest checkpoint.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError, OSError: the file or folder has no model, is damaged, or cannot be downloaded.
    """
    source = find_checkpoint(str(path)) or as_path(str(path))
    if source.is_dir() and saved_steps(source):
        config = load_run_config(source)
        if config is None:
            raise ValueError(f"{source} has checkpoints, and no config.json that describes them")
        config.step, config.checkpoint = str(step), ""
        check_field(config, "step")
        _fit_devices(config)
        return VideoModel(config, *load_ema(config, source))
    file = _exported_file(source)
    if step != "":
        raise ValueError(f"step is {step!r}, and must be empty: {file} has one state")
    record, trained_steps = load_exported_config(file)
    config = from_record(record, file)
    _fit_devices(config)
    return VideoModel(config, load_exported(file), trained_steps)


def _exported_file(source: AnyPath) -> AnyPath:
    if not source.exists():
        raise FileNotFoundError(
            f"{source} does not exist, and must be an exported .safetensors file, a workdir, a "
            f"folder with {EXPORTED_FILE}, hf://OWNER/NAME on the Hugging Face Hub, or one of "
            + ", ".join(checkpoint_names())
        )
    if not source.is_dir():
        return source
    if not (source / EXPORTED_FILE).exists():
        raise ValueError(
            f"{source} has no checkpoint and no {EXPORTED_FILE}: train with "
            f"`python -m vdm.main --config=NAME --workdir={source}`, or give another path"
        )
    return source / EXPORTED_FILE


def _fit_devices(config: ml_collections.ConfigDict) -> None:
    """Falls back to data parallelism if the training mesh does not fit these devices."""
    if config.mesh.fsdp < 1 or jax.device_count() % config.mesh.fsdp:
        config.mesh.fsdp = 1


class VideoModel:
    """A trained model. Videos are uint8 [n, frames, height, width, channels].

    Sample i is a function of (seed, i), and equals sample i of `--mode=sample` with the same
    settings. Samplers are compiled at first use, once per combination of settings. All methods
    raise ValueError if a setting, an argument or a video is invalid, OSError if a file cannot be
    read, and `vdm.sampling.generate.SamplesNotFinite`, an ArithmeticError, if a sampled pixel is
    infinite or NaN.

    Attributes:
      config: the configuration of training and sampling.
      params: the EMA parameters.
      step: number of training steps.
      on_step: None, or a callback that each block's sampler calls with the step number, from 0,
        before each step. It does not change samples.
    """

    on_step: Callable[[int], object] | None = None

    def __init__(self, config: ml_collections.ConfigDict, params: dict, step: int) -> None:
        self.config = config
        self.step = step
        self._mesh = make_mesh(config)
        self.params = sharded_params(self._mesh, params)
        self._draws: dict[str, Callable[..., jax.Array]] = {}

    def __repr__(self) -> str:
        data = self.config.data
        shape = [data.frames, data.resolution, data.resolution, data.channels]
        millions = count_parameters(self.params) / 1e6
        return (
            f"VideoModel({shape}, condition={data.condition!r}, {millions:.2f} M parameters, "
            f"step {self.step})"
        )

    def sample(
        self,
        n: int,
        *,
        num_frames: int = 0,
        method: str | None = None,
        **settings: Unpack[SampleSettings],
    ) -> np.ndarray:
        """Samples new videos.

        Args:
          n: number of videos.
          num_frames: frames per video; 0: the model's. More are sampled as in `extend`.
          method: see `extend`; used if num_frames exceeds the model's frames.
          **settings: fields of config.sample.

        Returns:
          uint8 [n, frames, height, width, channels].
        """
        n, frames = integer("n", n, 1), self.config.data.frames
        if num_frames:
            num_frames = integer("num_frames", num_frames, frames)
        if num_frames in (0, frames):
            return self._run(self._checked("generate", settings), n, settings)
        fields = {"num_frames": num_frames, "num_given": 0, **self._blocks(None, None, method)}
        return self._run(self._checked("extend", settings, extend=fields), n, settings)

    def predict(
        self,
        videos: Videos,
        *,
        num_given: int | None = None,
        stride: int | None = None,
        **settings: Unpack[SampleSettings],
    ) -> np.ndarray:
        """Predicts videos from their first frames.

        Args:
          videos: array, list of arrays or path; cropped and resized like training data.
          num_given: number of observed frames; default config.predict.num_given.
          stride: new frames per block, which observes all earlier frames; 0: all frames at once;
            default config.predict.stride.
          **settings: fields of config.sample; the `per_example` samples of a video are consecutive.

        Returns:
          uint8 [n, frames, height, width, channels], including the observed frames.
        """
        return self._of_videos("predict", videos, settings, num_given=num_given, stride=stride)

    def interpolate(
        self, videos: Videos, *, every: int | None = None, **settings: Unpack[SampleSettings]
    ) -> np.ndarray:
        """Interpolates in time: samples the frames between every `every`-th frame.

        Args:
          videos: as in `predict`.
          every: distance between observed frames, at least 2; default config.interpolate.every.
          **settings: as in `predict`.

        Returns:
          uint8 [n, frames, height, width, channels], including the observed frames.
        """
        return self._of_videos("interpolate", videos, settings, every=every)

    def upsample(
        self,
        videos: Videos,
        *,
        factor: int | None = None,
        downsampling: str | None = None,
        **settings: Unpack[SampleSettings],
    ) -> np.ndarray:
        """Upsamples videos in space by a factor, to the resolution of the model.

        Args:
          videos: as in `predict`; cropped and resized to the low resolution.
          factor: ratio of the resolutions, a divisor of the model's resolution; default
            config.upsample.factor.
          downsampling: 'area' or 'bilinear', the filter of the low resolution; default
            config.upsample.downsampling.
          **settings: as in `predict`.

        Returns:
          uint8 [n, frames, height, width, channels].
        """
        values = {"factor": factor, "downsampling": downsampling}
        return self._of_videos("upsample", videos, settings, **values)

    def extend(
        self,
        videos: Videos,
        *,
        num_frames: int,
        overlap: int | None = None,
        stride: int | None = None,
        method: str | None = None,
        key_frame_interval: int | None = None,
        key_frame_checkpoint: str | Path | None = None,
        **settings: Unpack[SampleSettings],
    ) -> np.ndarray:
        """Extends videos to `num_frames` frames: block by block, by key frames, or jointly.

        Args:
          videos: as in `predict`; must have the same number of frames, all of which are kept.
          num_frames: frames of the result.
          overlap: observed frames of each further block; default config.extend.overlap, or half a
            block if that does not fit.
          stride: new frames per block; default config.extend.stride, or the rest of a block
            ('key_frames' and 'joint' require the rest).
          method: 'autoregressive', 'key_frames' or 'joint'; default config.extend.method.
            docs/conditional_sampling.md compares them.
          key_frame_interval: frames from one key frame to the next, for 'key_frames'; default
            config.extend.key_frame_interval.
          key_frame_checkpoint: model that samples key frames, as in `load`, except for workdirs;
            default config.extend.key_frame_checkpoint, or this model.
          **settings: as in `predict`.

        Returns:
          uint8 [n, num_frames, height, width, channels].
        """
        is_path = isinstance(videos, str | os.PathLike)
        rate = self.config.data.frame_rate if is_path else 0.0
        found = open_videos(videos, 0, resolution=1, frame_rate=rate)  # allows any sizes
        for name, video in found.videos.items():
            if video.num_frames != found.frames:
                raise ValueError(
                    f"{name} has {video.num_frames} frames, and the first video {found.frames}: "
                    "videos to extend need equally many"
                )
        num_frames = integer("num_frames", num_frames, 1)
        if num_frames <= found.frames:
            raise ValueError(
                f"num_frames is {num_frames}, and must be more than {found.frames}, the number of "
                "frames of the videos"
            )
        # The model observes only the last block; earlier frames are copied to the result.
        given = min(found.frames, self.config.data.frames)
        loaded = {"num_given": found.frames, "method": method}  # all frames, more than a block has
        config = configured(self.config, "extend", settings, extend=loaded)
        known = load_observed(config, videos)[:, : found.frames]
        before, block = np.split(known, [found.frames - given], axis=1)
        padding = self.config.data.frames - given
        block = np.pad(block, ((0, 0), (0, padding), (0, 0), (0, 0), (0, 0)))
        values: dict[str, object] = {"num_frames": num_frames - before.shape[1], "num_given": given}
        values |= self._blocks(overlap, stride, method)
        values |= {"key_frame_interval": key_frame_interval}
        if key_frame_checkpoint is not None:
            name = str(key_frame_checkpoint)
            values["key_frame_checkpoint"] = str(find_checkpoint(name) or name)
        n = len(known) * config.sample.per_example
        extended = self._run(self._checked("extend", settings, extend=values), n, settings, block)
        before = before.repeat(config.sample.per_example, axis=0)
        return np.concatenate([before, extended], axis=1)

    def _of_videos(
        self, task: str, videos: Videos, settings: SampleSettings, **values: object
    ) -> np.ndarray:
        if videos is None:
            raise ValueError("videos is None, and must be an array, a list of arrays or a path")
        config = self._checked(task, settings, **{task: values})
        observed = load_observed(config, videos)
        n = len(observed) * config.sample.per_example
        return self._run(config, n, settings, observed)

    def _blocks(
        self, overlap: int | None, stride: int | None, method: str | None
    ) -> dict[str, int | str]:
        """Returns fields of config.extend that fit this model; the defaults assume 16 frames."""
        frames, default = self.config.data.frames, self.config.extend
        if overlap is None:
            overlap = default.overlap if default.overlap < frames else frames // 2
        method = default.method if method is None else method
        if stride is None:
            rest = max(frames - overlap, 1)  # 1: too much overlap is the error, not the stride
            stride = min(default.stride, rest) if method == "autoregressive" else rest
        return {"overlap": overlap, "stride": stride, "method": method}

    def _run(
        self,
        config: ml_collections.ConfigDict,
        n: int,
        settings: SampleSettings,
        videos: np.ndarray | None = None,
    ) -> np.ndarray:
        """Samples n videos by a configuration of `_checked`, given observed videos."""
        generate = make_generator(
            config,
            self._mesh,
            draw=self._draw(config),
            condition_of=conditions_of(config, n, settings),
            videos=videos,
        )
        with jax.threefry_partitionable(True):  # without it, a seed has other noise
            return generate(self.params, range(n))

    def _draw(self, config: ml_collections.ConfigDict) -> Callable[..., jax.Array]:
        sample = {k: v for k, v in config.sample.items() if k not in _NOT_DRAWN}
        reports = self.on_step is not None
        key = repr((config.data, config.model, config.diffusion, sorted(sample.items()), reports))
        if is_joint(config):
            key += repr(config.extend)
        if key not in self._draws:
            on_step = self._report_step if reports else None
            self._draws[key] = make_draw(config, self._mesh, on_step=on_step)
        return self._draws[key]

    def _report_step(self, step: jax.Array) -> None:
        if self.on_step is not None:
            self.on_step(int(step))

    def _checked(
        self, task: str, settings: SampleSettings, **sections: Mapping[str, object]
    ) -> ml_collections.ConfigDict:
        """Returns the configuration of a call, as `configured`, with the task's fields checked."""
        config = configured(self.config, task, settings, **sections)
        check_task_of(config, settings)
        return config
