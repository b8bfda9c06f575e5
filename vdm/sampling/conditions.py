"""The conditions and observed videos of sample i, as functions of the configuration and i only.

Both come from held-out example i // config.sample.per_example, unless config.sample sets one label,
caption, action or path for all samples.
"""

import hashlib
import os
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np

from vdm.data.captions.encoded import encode_given
from vdm.data.datasets import (
    held_out_videos,
    make_data_set,
    number_of_videos,
    open_folder_of,
)
from vdm.data.folder.user_videos import load_videos
from vdm.files import as_path, local_copy, local_path
from vdm.metrics.weights.files import sha256_of
from vdm.parallel.messages import from_first_process
from vdm.sampling.tasks import frames_needed
from vdm.video.pixels import from_uint8
from vdm.video.video_sets import Videos

Indices = Sequence[int] | np.ndarray


def examples_of(config: ml_collections.ConfigDict, indices: Indices) -> np.ndarray:
    """Returns the index of each sample's held-out example, int [len(indices)]."""
    return np.asarray(indices, int) // config.sample.per_example


def conditions(config: ml_collections.ConfigDict, indices: Indices) -> dict[str, np.ndarray]:
    """Returns the conditions of samples, in the form that `vdm.models.embeddings` takes.

    Args:
      config: the configuration; config.sample.label, .caption and .action replace the labels,
        captions and actions of the held-out examples.
      indices: indices of the samples.

    Returns:
      'label' int32 [n]; or 'text' [n, tokens, width] and 'text_mask' [n, tokens]; or 'action'
      [n, frames, width] and 'action_mask' [n, frames]; or {} for an unconditional model.

    Raises:
      ValueError: config.sample.caption has too many words.
    """
    data, settings = config.data, config.sample
    count = len(indices)
    if data.condition == "label" and settings.label >= 0:
        return {"label": np.full(count, settings.label, np.int32)}
    if data.condition == "text" and settings.caption:
        text, text_mask = encode_given(config, settings.caption)
        return {
            "text": np.tile(text, (count, 1, 1)),
            "text_mask": np.tile(text_mask, (count, 1)),
        }
    if data.condition == "action" and settings.action:
        action = np.array(settings.action, np.float32)
        return {
            "action": np.tile(action, (count, data.frames, 1)),
            "action_mask": np.ones((count, data.frames), bool),
        }
    if data.condition == "none":
        return {}
    source = make_data_set(config, "test")
    held_out = examples_of(config, indices).tolist()
    if data.condition == "label":  # without decoding the videos
        return {"label": np.array([source.label(i) for i in held_out], np.int32)}
    examples = [source.example(i) for i in held_out]
    names = (data.condition, f"{data.condition}_mask")
    return {name: np.stack([example[name] for example in examples]) for name in names}


def needs_held_out(config: ml_collections.ConfigDict) -> bool:
    """Returns whether samples observe held-out videos, or use their conditions."""
    data, sample = config.data, config.sample
    observes = _observes(config) and not sample.observed
    is_given = sample.label >= 0 if data.condition == "label" else sample.caption or sample.action
    return observes or (data.condition != "none" and not is_given)


def number_of_sources(config: ml_collections.ConfigDict) -> int:
    """Returns the number of different videos that samples observe, or whose conditions they use.

    Further samples use the same videos again. 0: none, or an endless number.
    """
    counts = []
    if needs_held_out(config):
        counts.append(number_of_videos(held_out_videos(config, config.data.frames)))
    if _observes(config) and config.sample.observed:
        counts.append(len(load_observed(config)))
    return min([count for count in counts if count], default=0)


def _observes(config: ml_collections.ConfigDict) -> bool:
    return frames_needed(config) > 0


def digests_of_sources(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns a SHA-256 of each file or folder that samples depend on, by configuration field.

    These are the user's observed videos, files of other models, and the held-out videos of a
    folder.
    """
    sample, digests = config.sample, {}
    if _observes(config) and sample.observed:
        digests["sample.observed"] = hashlib.sha256(load_observed(config).tobytes()).hexdigest()
    for task, field in (("cascade", "base_checkpoint"), ("extend", "key_frame_checkpoint")):
        if sample.task == task and (name := config[task][field]):
            with local_copy(as_path(name)) as file:
                digests[f"{task}.{field}"] = sha256_of(file)
    if config.data.name == "folder" and needs_held_out(config):
        state = open_folder_of(config, "test").state()
        # File times may differ between machines, but all processes must agree.
        agreed = from_first_process(np.frombuffer(bytes.fromhex(state), np.uint8))
        digests["data.path"] = agreed.tobytes().hex()
    return digests


def describe_conditions(
    config: ml_collections.ConfigDict, indices: Indices
) -> dict[str, np.ndarray]:
    """Returns the conditions of samples in human-readable form.

    The keys are 'label' int [n], 'caption' str [n], or 'action' float32 [n, frames, width].
    """
    data, settings = config.data, config.sample
    if data.condition in ("label", "action"):
        return {data.condition: conditions(config, indices)[data.condition]}
    if data.condition == "text" and settings.caption:  # without the held-out videos
        return {"caption": np.full(len(indices), settings.caption)}
    if data.condition == "text":
        source = make_data_set(config, "test")
        captions = [source.caption(int(i)) for i in examples_of(config, indices)]
        return {"caption": np.array(captions)}
    return {}


def make_observed(
    config: ml_collections.ConfigDict, videos: np.ndarray | None = None
) -> Callable[[Indices], np.ndarray]:
    """Returns a function from sample indices to the videos that the task observes.

    The videos are float32 [len(indices), frames, height, width, channels] in [-1, 1]. They come
    from `videos` (as returned by `load_observed`) or config.sample.observed, both repeated
    cyclically; else from held-out videos. They are zeros if the task observes no frames, as in an
    extension whose first block is generated.

    Raises:
      ValueError, OSError: as in `load_observed` and `make_data_set`.
    """
    if videos is None and config.sample.observed:
        videos = load_observed(config)
    if videos is None and not _observes(config):
        data = config.data
        shape = (1, data.frames, data.resolution, data.resolution, data.channels)
        videos = np.zeros(shape, np.uint8)
    if videos is not None:
        pixels = from_uint8(videos)
        return lambda indices: pixels[examples_of(config, indices) % len(pixels)]
    source = make_data_set(config, "test")
    return lambda indices: np.stack(
        [source.example(int(i))["video"] for i in examples_of(config, indices)]
    )


def load_observed(config: ml_collections.ConfigDict, source: Videos | None = None) -> np.ndarray:
    """Loads the user's videos at the task's size, from `source` or config.sample.observed.

    Files are resampled to config.data.frame_rate; arrays in memory are assumed to have that rate.

    Returns:
      uint8 [n, config.data.frames, height, width, channels]; frames that the task does not observe
      are zeros.

    Raises:
      ValueError, OSError: a file is missing or unreadable, or a video has too few frames.
    """
    if source is None:
        source = local_path(config.sample.observed)
        if not source.exists():
            raise FileNotFoundError(
                f"config.sample.observed is {config.sample.observed!r}, and must be a video file, "
                "a .npz file or a folder: it does not exist"
            )
    side = config.data.resolution
    if config.sample.task == "upsample":
        side //= config.upsample.factor
    needed = frames_needed(config)
    videos = load_videos(
        source,
        num_frames=needed,
        resolution=side,
        channels=config.data.channels,
        frame_rate=config.data.frame_rate if isinstance(source, str | os.PathLike) else 0.0,
    )
    # All blocks must have the same shape, or the sampler is compiled again.
    missing = max(0, config.data.frames - needed)
    return np.pad(videos, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))
