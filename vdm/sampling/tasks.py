"""Sampling tasks: generation, prediction, autoregressive extension and super-resolution.

A task is a function (config, draw, videos) -> videos [batch, frames, height, width, channels] in
[-1, 1], where `videos` holds the observed videos. draw(block, observation) samples block number
`block`, config.data.frames frames, given an observation. All observations of a task have the same
structure, with masks that may be all False, so that the sampler compiles once.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

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
    """Predicts videos from their first config.predict.num_given frames."""
    return draw(0, _frames(videos, np.arange(config.data.frames) < config.predict.num_given))


def interpolate(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Interpolates frames (temporal super-resolution), given one of config.interpolate.every."""
    return draw(0, _frames(videos, np.arange(config.data.frames) % config.interpolate.every == 0))


def upsample(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Upsamples videos (spatial super-resolution) by config.upsample.factor.

    `videos` have the low resolution already, or are downsampled to it.
    """
    settings = config.upsample
    side = config.data.resolution // settings.factor
    if videos.shape[2:4] != (side, side):
        videos = np.asarray(downsample(jnp.asarray(videos), (side, side), settings.downsampling))
    return draw(0, ObservedLowResolution(videos, downsampling=settings.downsampling))


def extend(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Extends videos block by block (autoregressively) to config.extend.num_frames frames.

    The first block is sampled given the first config.extend.num_given frames of `videos`, 0 by
    default. Each further block is sampled given the last `overlap` frames so far, and adds its
    first `stride` new frames.
    """
    settings, positions = config.extend, np.arange(config.data.frames)
    video = draw(0, _frames(videos, positions < settings.num_given))
    block = 1
    while video.shape[1] < settings.num_frames:
        known = np.zeros_like(videos)
        known[:, : settings.overlap] = video[:, -settings.overlap :]
        new = draw(block, _frames(known, positions < settings.overlap))
        video = np.concatenate([video, new[:, settings.overlap :][:, : settings.stride]], axis=1)
        block += 1
    return video[:, : settings.num_frames]


def cascade(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Upsamples low-resolution videos with a frameskip in time and space at once (section 4.3).

    Frame k of `videos` [batch, n, h, w, channels] is frame k * config.cascade.frameskip of the
    result at low resolution. Each block of config.data.frames frames is sampled given its
    low-resolution frames, and the last config.cascade.overlap frames of the block before it.
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


def frames_needed(config: ml_collections.ConfigDict) -> int:
    """Returns the number of frames of a held-out or user's video that config.sample.task reads."""
    if config.sample.task == "predict":
        return config.predict.num_given
    if config.sample.task == "extend":
        return config.extend.num_given
    return config.data.frames if config.sample.task in ("interpolate", "upsample") else 0


def _frames(videos: np.ndarray, mask: np.ndarray) -> ObservedFrames:
    return ObservedFrames(videos, _per_video(videos, mask))


def _per_video(videos: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask [frames] as [batch, frames], which is sharded as the videos are."""
    return np.tile(mask, (len(videos), 1))
