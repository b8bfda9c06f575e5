"""What to sample: videos from nothing, or what is missing of videos that are partly observed.

A task is a function (config, draw, videos) -> videos [batch, frames, height, width, channels] in
[-1, 1]. draw(block, observation) samples one block of config.data.frames frames given an
observation; the noise of a block is a function of the sample's seed, its index and the block's
number. Every block of a task has an observation of the same structure, so that the sampler is
compiled once: a mask may be all False.
"""

from collections.abc import Callable

import jax.numpy as jnp
import ml_collections
import numpy as np

from vdm.diffusion.conditioning import ObservedFrames, ObservedLowResolution, downsample

Draw = Callable[[int, object], np.ndarray]


def generate(config: ml_collections.ConfigDict, draw: Draw, videos: None) -> np.ndarray:
    """Videos from nothing."""
    return draw(0, None)


def predict(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """The first config.predict.num_given frames are given, and the rest is sampled."""
    return draw(0, _frames(videos, np.arange(config.data.frames) < config.predict.num_given))


def interpolate(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Temporal super-resolution: every config.interpolate.every-th frame is given."""
    return draw(0, _frames(videos, np.arange(config.data.frames) % config.interpolate.every == 0))


def upsample(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Spatial super-resolution: the videos are given at 1 / config.upsample.factor of the size."""
    low = low_resolution_of(config, videos)
    return draw(0, ObservedLowResolution(low, downsampling=config.upsample.downsampling))


def extend(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Block-autoregressive extension to config.extend.num_frames frames.

    The first block is sampled given the first config.extend.num_given frames of `videos`, none by
    default. Each further one is sampled given the last `overlap` frames so far, and the first
    `stride` of its new frames are kept.
    """
    settings, places = config.extend, np.arange(config.data.frames)
    video = draw(0, _frames(videos, places < settings.num_given))
    block = 1
    while video.shape[1] < settings.num_frames:
        known = np.zeros_like(videos)
        known[:, : settings.overlap] = video[:, -settings.overlap :]
        new = draw(block, _frames(known, places < settings.overlap))
        video = np.concatenate([video, new[:, settings.overlap :][:, : settings.stride]], axis=1)
        block += 1
    return video[:, : settings.num_frames]


def cascade(config: ml_collections.ConfigDict, draw: Draw, videos: np.ndarray) -> np.ndarray:
    """Super-resolution in time and space at once, of low-resolution videos with a frameskip.

    Frame k of `videos` [batch, n, h, w, channels] is frame k * config.cascade.frameskip of the
    result at low resolution. Each block of config.data.frames frames is sampled given those of its
    frames that are known at low resolution and, but for the first one, the last
    config.cascade.overlap frames of the block before, as the paper does with its 9-frame model
    (section 4.3).
    """
    settings, frames = config.cascade, config.data.frames
    size = (len(videos), frames, config.data.resolution, config.data.resolution, videos.shape[-1])
    result = np.zeros((len(videos), 0, *size[2:]), np.float32)
    block = 0
    while result.shape[1] < settings.num_frames:
        overlap = settings.overlap if block else 0
        places = result.shape[1] - overlap + np.arange(frames)
        of_low, rest = np.divmod(places, settings.frameskip)
        seen = (rest == 0) & (of_low < videos.shape[1])
        low = videos[:, np.minimum(of_low, videos.shape[1] - 1)]
        known = np.zeros(size, np.float32)
        known[:, :overlap] = result[:, result.shape[1] - overlap :]
        observation = (
            _frames(known, np.arange(frames) < overlap),
            ObservedLowResolution(low, _for_each(low, seen)),
        )
        new = draw(block, observation)
        result = np.concatenate([result, new[:, overlap:]], axis=1)
        block += 1
    return result[:, : settings.num_frames]


TASKS = {
    "generate": generate,
    "predict": predict,
    "extend": extend,
    "interpolate": interpolate,
    "upsample": upsample,
    "cascade": cascade,
}


def frames_needed(config: ml_collections.ConfigDict) -> int:
    """How many frames of other videos the task looks at."""
    if config.sample.task == "predict":
        return config.predict.num_given
    if config.sample.task == "extend":
        return config.extend.num_given
    return config.data.frames if config.sample.task in ("interpolate", "upsample") else 0


def low_resolution_of(config: ml_collections.ConfigDict, videos: np.ndarray) -> np.ndarray:
    """Videos at the size that config.upsample observes; those that have it already, as they are."""
    side = config.data.resolution // config.upsample.factor
    if videos.shape[2:4] == (side, side):
        return videos
    return np.asarray(downsample(jnp.asarray(videos), (side, side), config.upsample.downsampling))


def _frames(videos: np.ndarray, mask: np.ndarray) -> ObservedFrames:
    return ObservedFrames(videos, _for_each(videos, mask))


def _for_each(videos: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask [frames] as [batch, frames], to be split over devices as the videos are."""
    return np.tile(mask, (len(videos), 1))
