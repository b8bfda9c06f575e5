"""Sampling tasks: generation, prediction, autoregressive extension and super-resolution.

A task is a function (config, draw, videos) -> videos [batch, frames, height, width, channels] in
[-1, 1], where the argument `videos` holds the observed videos. draw(block, observation) samples
block number `block`, of `frames_drawn(config)` frames, given an observation. All observations of a
task have the same structure (masks may be all False), so that the sampler compiles once.

The arguments of every task are:
  config: the configuration; the section with the name of the task has its fields.
  draw: the sampler of one block.
  videos: float32 [batch, frames, height, width, channels] in [-1, 1]; None for 'generate'.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from vdm.build import make_schedule
from vdm.diffusion.conditioning import (
    Observation,
    ObservedFrames,
    ObservedLowResolution,
    downsample,
)

Draw = Callable[[int, Observation], np.ndarray]
Task = Callable[[ml_collections.ConfigDict, Draw, Any], np.ndarray]


def generate(config: ml_collections.ConfigDict, draw: Draw, videos: None) -> np.ndarray:
    """Generates videos without an observation."""
    return draw(0, None)


def predict(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Predicts videos from their first config.predict.num_given frames.

    With config.predict.stride, prediction is block by block: each block observes all earlier frames
    and adds its first `stride` new frames. Each block is then close to its observed frames, but
    errors of one block become conditions of the next.
    """
    frames, num_given = config.data.frames, config.predict.num_given
    stride, positions = config.predict.stride or frames, np.arange(frames)
    result = draw(0, _frames(videos, positions < num_given))
    for block, known in enumerate(range(num_given + stride, frames, stride), 1):
        so_far = np.concatenate([videos[:, :num_given], result[:, num_given:]], axis=1)
        new = draw(block, _frames(so_far, positions < known))
        result = np.concatenate([result[:, :known], new[:, known:]], axis=1)
    return result


def interpolate(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Temporal super-resolution: observes one of every config.interpolate.every frames."""
    return draw(0, _frames(videos, np.arange(config.data.frames) % config.interpolate.every == 0))


def upsample(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Upsamples videos (spatial super-resolution) by config.upsample.factor.

    `videos` have the low resolution already, or else are downsampled.
    """
    settings = config.upsample
    side = config.data.resolution // settings.factor
    if videos.shape[2:4] != (side, side):
        videos = np.asarray(downsample(jnp.asarray(videos), (side, side), settings.downsampling))
    return draw(0, ObservedLowResolution(videos, downsampling=settings.downsampling))


def extend(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Extends videos to config.extend.num_frames frames by config.extend.method.

    The first config.extend.num_given frames of `videos` (default 0) are observed without noise, and
    generated frames with the noise level config.sample.context_noise.
    """
    return EXTENSIONS[config.extend.method](config, draw, videos)


def _extend_autoregressively(
    config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray
) -> np.ndarray:
    """Extends videos block by block.

    Each further block observes the last `overlap` frames and adds its first `stride` new frames.
    """
    settings, positions = config.extend, np.arange(config.data.frames)
    observe = _make_observe(config)
    video = draw(0, observe(videos, positions < settings.num_given, positions))
    block = 1
    while video.shape[1] < settings.num_frames:
        known = np.zeros_like(videos)
        known[:, : settings.overlap] = video[:, -settings.overlap :]
        times = video.shape[1] - settings.overlap + positions
        new = draw(block, observe(known, positions < settings.overlap, times))
        video = np.concatenate([video, new[:, settings.overlap :][:, : settings.stride]], axis=1)
        block += 1
    return video[:, : settings.num_frames]


def _extend_by_key_frames(
    config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray
) -> np.ndarray:
    """Samples key frames over the whole length (block 0), then the frames between them.

    As in `interpolate`, further blocks observe their key frames, and the last `overlap` frames.
    """
    settings, frames = config.extend, config.data.frames
    positions, interval = np.arange(frames), settings.key_frame_interval
    observe = _make_observe(config)
    known = np.zeros_like(videos)
    given = videos[:, : settings.num_given : interval]
    known[:, : given.shape[1]] = given
    keys = draw(0, observe(known, positions < given.shape[1], positions * interval))
    video = videos[:, : settings.num_given]
    block = 1
    while video.shape[1] < settings.num_frames:
        first = max(0, video.shape[1] - settings.overlap)
        times, known_frames = first + positions, video.shape[1] - first
        index, remainder = np.divmod(times, interval)
        mask = ((remainder == 0) & (index < frames)) | (positions < known_frames)
        known = keys[:, np.minimum(index, frames - 1)]
        known[:, :known_frames] = video[:, first:]
        new = draw(block, observe(known, mask, times))
        video = np.concatenate([video, new[:, known_frames:]], axis=1)
        block += 1
    return video[:, : settings.num_frames]


def _extend_jointly(
    config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray
) -> np.ndarray:
    """Samples all frames at once, in blocks that overlap by `overlap` frames and are averaged."""
    settings, positions = config.extend, np.arange(config.extend.num_frames)
    known = np.zeros((len(videos), settings.num_frames, *videos.shape[2:]), np.float32)
    known[:, : settings.num_given] = videos[:, : settings.num_given]
    return draw(0, _frames(known, positions < settings.num_given))


EXTENSIONS: dict[str, Task] = {
    "autoregressive": _extend_autoregressively,
    "key_frames": _extend_by_key_frames,
    "joint": _extend_jointly,
}


def cascade(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Super-resolution in time and space at once, of low-resolution videos (section 4.3).

    Frame k of `videos` [batch, n, h, w, channels] is frame k * config.cascade.frameskip of the
    result, at low resolution. Each block of config.data.frames frames observes its low-resolution
    frames and the last config.cascade.overlap frames of the previous block.
    """
    settings, frames = config.cascade, config.data.frames
    size = (len(videos), frames, config.data.resolution, config.data.resolution, videos.shape[-1])
    result = np.zeros((len(videos), 0, *size[2:]), np.float32)
    block = 0
    while result.shape[1] < settings.num_frames:
        overlap = settings.overlap if block else 0
        positions = result.shape[1] - overlap + np.arange(frames)
        low_index, remainder = np.divmod(positions, settings.frameskip)
        observed = (remainder == 0) & (low_index < videos.shape[1])
        low = videos[:, np.minimum(low_index, videos.shape[1] - 1)]
        known = np.zeros(size, np.float32)
        known[:, :overlap] = result[:, result.shape[1] - overlap :]
        observation = (
            _frames(known, np.arange(frames) < overlap),
            ObservedLowResolution(low, _per_video(low, observed)),
        )
        new = draw(block, observation)
        result = np.concatenate([result, new[:, overlap:]], axis=1)
        block += 1
    return result[:, : settings.num_frames]


TASKS: dict[str, Task] = {
    "generate": generate,
    "predict": predict,
    "extend": extend,
    "interpolate": interpolate,
    "upsample": upsample,
    "cascade": cascade,
}


def is_joint(config: ml_collections.ConfigDict) -> bool:
    """Returns whether the task denoises the whole long video jointly, as one block."""
    return config.sample.task == "extend" and config.extend.method == "joint"


def frames_drawn(config: ml_collections.ConfigDict) -> int:
    """Returns the number of frames per block of config.sample.task."""
    return config.extend.num_frames if is_joint(config) else config.data.frames


def frames_needed(config: ml_collections.ConfigDict) -> int:
    """Returns the number of frames that config.sample.task reads from a held-out or user video."""
    if config.sample.task == "predict":
        return config.predict.num_given
    if config.sample.task == "extend":
        return config.extend.num_given
    return config.data.frames if config.sample.task in ("interpolate", "upsample") else 0


def _make_observe(
    config: ml_collections.ConfigDict,
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], ObservedFrames]:
    """Returns a function (videos, mask [frames], times [frames] in the long video) -> observation.

    With context noise, the observation has log-SNRs: clean data before frame
    config.extend.num_given, and config.sample.context_noise from there on, where frames are
    generated.
    """
    if not config.sample.context_noise:
        return lambda videos, mask, times: _frames(videos, mask)
    levels = jnp.array([0.0, config.sample.context_noise], jnp.float32)
    exact, noisy = np.asarray(make_schedule(config)(levels))

    def observe(videos: np.ndarray, mask: np.ndarray, times: np.ndarray) -> ObservedFrames:
        log_snr = np.where(times < config.extend.num_given, exact, noisy)
        return _frames(videos, mask, _per_video(videos, log_snr))

    return observe


def _frames(
    videos: np.ndarray, mask: np.ndarray, log_snr: np.ndarray | None = None
) -> ObservedFrames:
    return ObservedFrames(videos, _per_video(videos, mask), log_snr)


def _per_video(videos: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Repeats a row [frames], such as a mask, to [batch, frames], to be sharded like the videos."""
    return np.tile(row, (len(videos), 1))
