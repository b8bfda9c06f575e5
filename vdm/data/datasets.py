"""From a configuration to a data set."""

import dataclasses
from pathlib import Path

import ml_collections

from vdm.data.captions.encoded import WORDS, make_encode
from vdm.data.clips import ClipSource, VideoReader
from vdm.data.folder.videos import FolderVideos, open_folder
from vdm.data.moving_digits import MovingDigits
from vdm.data.tfds.registry import PREPARED, open_prepared

# Data sets are addressed by configurations alone, so that a new one is one more entry here.
SOURCES = ("moving_digits", "folder", *PREPARED)

Source = MovingDigits | ClipSource


def make_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """The data set that config.data asks for.

    Args:
      config: the whole configuration.
      split: 'train', in an order of chance and without end; or 'test', the held-out videos in a
        fixed order, each from one window.

    Raises:
      ValueError: the data set is unknown, is not there, or cannot give what config.data asks for.
    """
    check_name(config)
    if config.data.name == "moving_digits":
        return _moving_digits(config, split)
    data, is_training = config.data, split == "train"
    reader = open_reader(config, split)
    return ClipSource(
        reader,
        seed=config.seed,
        frames=data.frames,
        resolution=data.resolution,
        channels=data.channels,
        frameskip=data.frameskip,
        start=data.start if is_training else _held_out_start(data.name),
        shuffle=is_training,
        augment_flip=data.augment_flip and is_training,
        num_images=data.num_images,
        condition=data.condition,
        encode=make_encode(config, reader.folder) if data.condition == "text" else None,
    )


def held_out_videos(config: ml_collections.ConfigDict, frames: int, split: str = "test") -> Source:
    """Real videos in a fixed order, without images or conditions, of any number of frames.

    Those of 'test' have the frames that `make_source` gives of them, if they have as many.

    Args:
      config: the whole configuration.
      frames: of each video.
      split: 'test', or 'train', whose videos are in a fixed order and not mirrored here.

    Raises:
      ValueError: as of `make_source`.
    """
    config = config.copy_and_resolve_references()
    config.data.update(frames=frames, num_images=0, condition="none", augment_flip=False)
    source = make_source(config, split)
    if isinstance(source, MovingDigits):
        return source
    return dataclasses.replace(source, shuffle=False)


def split_name(config: ml_collections.ConfigDict, split: str) -> str:
    """What the data set itself calls its 'train' or 'test', for instance 'train+test'."""
    prepared = PREPARED.get(config.data.name)
    return prepared.splits[split] if prepared else split


def held_out_clips(config: ml_collections.ConfigDict) -> str:
    """Which frames of a held-out video are taken, in words."""
    is_random = _held_out_start(config.data.name) == "random"
    return "one random window of each video" if is_random else "first frames"


def number_of_videos(source: Source) -> int:
    """How many videos there are, or 0 where there is no end of them."""
    return 0 if isinstance(source, MovingDigits) else len(source)


def open_reader(config: ml_collections.ConfigDict, split: str) -> VideoReader:
    """The videos of a split of a data set of videos.

    Raises:
      ValueError: as of `make_source`.
    """
    return _folder(config, split) if config.data.name == "folder" else open_prepared(config, split)


def check_name(config: ml_collections.ConfigDict) -> None:
    """Checks config.data.name, and that the data set has the times that a frame rate needs.

    Raises:
      ValueError: the name is none of `SOURCES`, or config.data.frame_rate is not 0 for another data
        set than 'folder'.
    """
    if config.data.name not in SOURCES:
        raise ValueError(
            f"config.data.name is {config.data.name!r}, and this version can load "
            f"{', '.join(map(repr, SOURCES))}"
        )
    if config.data.name != "folder" and config.data.frame_rate != 0:
        raise ValueError(
            f"config.data.frame_rate is {config.data.frame_rate}, and must be 0 for "
            f"{config.data.name!r}, whose frames have no times"
        )


def _held_out_start(name: str) -> str:
    return PREPARED[name].held_out_start if name in PREPARED else "first"


def _folder(config: ml_collections.ConfigDict, split: str) -> FolderVideos:
    data = config.data
    if not data.path:
        raise ValueError("config.data.path is empty, and must be a folder of videos")
    videos = open_folder(
        Path(data.path).expanduser(),
        needed_frames=(data.frames - 1) * data.frameskip + 1,
        frame_rate=data.frame_rate,
        condition=data.condition,
        test_share=data.test_share,
    )[split]
    if not len(videos):
        raise ValueError(
            f"no video of {data.path} is in the split {split!r}: a manifest says the splits, or "
            f"config.data.test_share, {data.test_share}"
        )
    if data.condition == "label" and config.model.num_classes != len(videos.classes):
        raise ValueError(
            f"config.model.num_classes is {config.model.num_classes}, and the videos of "
            f"{data.path} have {len(videos.classes)} classes"
        )
    return videos


def _moving_digits(config: ml_collections.ConfigDict, split: str) -> MovingDigits:
    data = config.data
    for field, only in (("channels", 1), ("augment_flip", False), ("text_encoder", WORDS)):
        if data[field] != only:
            raise ValueError(
                f"config.data.{field} is {data[field]!r}, and must be {only!r} for {data.name!r}"
            )
    if data.condition == "label" and config.model.num_classes != 10:
        raise ValueError(
            f"config.model.num_classes is {config.model.num_classes}, and must be 10 "
            f"for {data.name!r}"
        )
    return MovingDigits(
        split=split,
        seed=config.seed,
        frames=data.frames,
        resolution=data.resolution,
        motion=data.motion,
        speed=data.speed,
        frameskip=data.frameskip,
        downsample=data.downsample,
        num_images=data.num_images,
        condition=data.condition,
        text_tokens=data.text_tokens,
        text_width=config.model.text_width,
    )
