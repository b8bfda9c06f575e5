"""Builds the data set of a configuration."""

import dataclasses
import importlib.util

import ml_collections

from vdm.data.batches import DataSet
from vdm.data.captions.encoded import WORDS, Encode, make_encode
from vdm.data.clips import ClipDataSet, VideoReader
from vdm.data.folder.videos import FolderVideos, open_folder
from vdm.data.moving_digits import MovingDigits
from vdm.data.pusht.environment import ACTION_WIDTH
from vdm.data.pusht.videos import open_pusht
from vdm.data.tfds.registry import TFDS_DATA_SETS, open_tfds
from vdm.data.zeros import Zeros
from vdm.files import local_path

# Values of config.data.name.
ZEROS = "zeros"
_WITH_PATHS = ("folder", "pusht", ZEROS)
_ACTION_WIDTHS = {"pusht": ACTION_WIDTH, "bair_robot_pushing_small": 4}
DATA_SETS = ("moving_digits", "folder", "pusht", *TFDS_DATA_SETS, ZEROS)
DRAWN = ("moving_digits", ZEROS)
_MIN_FRAME_RATE = 0.01  # at which samples play; files store no delay of many minutes


def make_data_set(config: ml_collections.ConfigDict, split: str) -> DataSet:
    """Builds the data set of config.data.

    Split 'train': shuffled, endless. Split 'test': held-out videos in a fixed order, one clip each;
    stored videos without config.data.num_images, which only the training loss uses.

    Raises:
      ValueError: the data set is unknown, is missing, or does not fit config.data.
    """
    return _make(config, split, config.data.condition)


def _make(config: ml_collections.ConfigDict, split: str, condition: str) -> DataSet:
    """Builds the data set of the videos of config.data; their examples have `condition`."""
    check_name(config)
    data, is_training = config.data, split == "train"
    if data.name == ZEROS:
        names = ("frames", "resolution", "channels", "num_images", "text_tokens")
        widths = {name: config.model[name] for name in ("text_width", "action_width")}
        return Zeros(condition=condition, **widths, **{name: data[name] for name in names})
    shared = ("frames", "resolution", "frameskip", "num_images")
    fields = {"seed": config.seed, "condition": condition} | {n: data[n] for n in shared}
    if data.name == "moving_digits":
        _check_moving_digits(config)
        return MovingDigits(
            split=split,
            motion=data.motion,
            speed=data.speed,
            downsample=data.downsample,
            text_tokens=data.text_tokens,
            text_width=config.model.text_width,
            **fields,
        )
    reader = open_reader(config, split)
    if not is_training:
        fields["num_images"] = 0
    encode = make_encode(config, reader.folder) if condition == "text" else None
    if encode and isinstance(reader, FolderVideos):
        _check_captions(reader, encode)
    return ClipDataSet(
        reader,
        channels=data.channels,
        start=data.start if is_training else held_out_start(data.name),
        shuffle=is_training,
        augment_flip=data.augment_flip and is_training,
        encode=encode,
        **fields,
    )


def held_out_videos(
    config: ml_collections.ConfigDict, frames: int, split: str = "test", *, start: str = ""
) -> DataSet:
    """Builds a data set of real videos in a fixed order, without flips, images or conditions.

    The videos are those of `make_data_set` for this number of frames: a folder has no videos that
    are too short or lack the condition.

    Args:
      config: the configuration.
      frames: number of frames of a clip.
      split: 'train' or 'test'.
      start: first frame of a clip, `start` of `ClipDataSet`; '': the frame with which clips of
        `make_data_set` start, except that random starts depend on the number of frames. Data sets
        that draw their videos ignore it.

    Raises:
      ValueError: as `make_data_set`.
    """
    config = config.copy_and_resolve_references()
    config.data.update(frames=frames, num_images=0, augment_flip=False)
    data_set = _make(config, split, "none")
    if isinstance(data_set, ClipDataSet):
        return dataclasses.replace(data_set, shuffle=False, start=start or data_set.start)
    return data_set


def split_name(config: ml_collections.ConfigDict, split: str) -> str:
    """Returns the data set's own name for split 'train' or 'test', for example 'train+test'."""
    prepared = TFDS_DATA_SETS.get(config.data.name)
    return prepared.splits[split] if prepared else split


def frame_rate_of(config: ml_collections.ConfigDict) -> float:
    """Returns the frames per second of clips and samples; 8 without config.data.frame_rate."""
    rate = config.data.frame_rate / config.data.frameskip
    return max(rate, _MIN_FRAME_RATE) if rate else 8.0


def number_of_videos(data_set: DataSet) -> int:
    """Returns the number of videos, or 0 for an endless data set."""
    return len(data_set) if isinstance(data_set, ClipDataSet) else 0


def open_reader(config: ml_collections.ConfigDict, split: str) -> VideoReader:
    """Opens the videos of a split of a data set of videos.

    Raises:
      ValueError: as `make_data_set`.
    """
    if config.data.name == "folder":
        return open_folder_of(config, split)
    return open_pusht(config, split) if config.data.name == "pusht" else open_tfds(config, split)


def open_readers(config: ml_collections.ConfigDict) -> list[VideoReader]:
    """Opens the videos of both splits of a data set of videos; a folder may have only one split.

    Raises:
      ValueError: as `make_data_set`; or the data set draws its videos, and stores none.
    """
    if config.data.name in DRAWN:
        stored = ", ".join(repr(name) for name in DATA_SETS if name not in DRAWN)
        raise ValueError(
            f"config.data.name is {config.data.name!r}, which stores no videos, and must be one of "
            f"{stored}"
        )
    if config.data.name == "folder":
        return [videos for videos in _open_splits(config).values() if len(videos)]
    return [open_reader(config, split) for split in ("train", "test")]


def check_name(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError if the data set is unknown, or has no such path, timestamps or actions."""
    if config.data.name not in DATA_SETS:
        raise ValueError(
            f"config.data.name is {config.data.name!r}, and must be one of "
            f"{', '.join(map(repr, DATA_SETS))}"
        )
    if config.data.path and config.data.name not in _WITH_PATHS:
        raise ValueError(
            f"config.data.path is {config.data.path!r}, and must be empty for "
            f"{config.data.name!r}: --config=folder trains on the videos of a folder"
        )
    if config.data.name != "folder" and config.data.frame_rate != 0:
        raise ValueError(
            f"config.data.frame_rate is {config.data.frame_rate}, and must be 0 for "
            f"{config.data.name!r}, whose frames have no timestamps"
        )
    if config.data.condition == "action" and config.data.name != ZEROS:
        if config.data.name not in _ACTION_WIDTHS:
            raise ValueError(
                f"config.data.condition is 'action', and {config.data.name!r} has no actions"
            )
        if config.model.action_width != (width := _ACTION_WIDTHS[config.data.name]):
            raise ValueError(
                f"config.model.action_width is {config.model.action_width}, and must be {width} "
                f"for the actions of {config.data.name!r}"
            )


def held_out_start(name: str) -> str:
    """Returns `start` of `ClipDataSet` for held-out videos of a data set."""
    return TFDS_DATA_SETS[name].held_out_start if name in TFDS_DATA_SETS else "first"


def open_folder_of(config: ml_collections.ConfigDict, split: str) -> FolderVideos:
    """Opens a split of the folder config.data.path; raises the errors of `make_data_set`."""
    data, videos = config.data, _open_splits(config)[split]
    if not len(videos):
        raise ValueError(
            f"no video of {data.path} is in the split {split!r}: assign splits in a manifest, or "
            f"change config.data.test_share, {data.test_share}"
        )
    if data.condition == "label" and config.model.num_classes != len(videos.classes):
        raise ValueError(
            f"config.model.num_classes is {config.model.num_classes}, and the videos of "
            f"{data.path} have {len(videos.classes)} classes: set it to {len(videos.classes)}"
        )
    if importlib.util.find_spec("cv2") is None:
        _check_no_resizing(videos, data.resolution)
    return videos


def _check_no_resizing(videos: FolderVideos, resolution: int) -> None:
    """Raises ValueError if a video has another size, before the training step is compiled."""
    for index in range(len(videos)):
        try:
            videos.open(index).frames([0], resolution)
        except ValueError as error:
            raise ValueError(f"{videos.folder / videos.name(index)}: {error}") from error


def _open_splits(config: ml_collections.ConfigDict) -> dict[str, FolderVideos]:
    data = config.data
    if not data.path:
        raise ValueError("config.data.path is empty, and must be a folder of videos")
    path = local_path(data.path)
    if not path.exists():
        raise FileNotFoundError(
            f"config.data.path is {data.path!r}, and must be a folder of videos: it does not exist"
        )
    return open_folder(
        path,
        needed_frames=(data.frames - 1) * data.frameskip + 1,
        frame_rate=data.frame_rate,
        condition=data.condition,
        classes=tuple(data.classes),
        test_share=data.test_share,
    )


def with_classes(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the configuration, with the names of a folder's classes in config.data.classes.

    Raises:
      ValueError: as `make_data_set`.
    """
    data = config.data
    if data.name != "folder" or data.condition != "label" or data.classes:
        return config
    config = config.copy_and_resolve_references()
    config.data.classes = open_folder_of(config, "train").classes
    return config


def _check_captions(videos: FolderVideos, encode: Encode) -> None:
    """Raises ValueError, before training does, if the caption of a video cannot be encoded."""
    for name, caption in videos.captions.items():
        try:
            encode(caption)
        except ValueError as error:
            raise ValueError(f"{videos.folder / name}: {error}") from error


def _check_moving_digits(config: ml_collections.ConfigDict) -> None:
    required = {"data.channels": 1, "data.augment_flip": False, "data.text_encoder": WORDS}
    if config.data.condition == "label":
        required["model.num_classes"] = 10
    for field, value in required.items():
        section, name = field.split(".")
        if config[section][name] != value:
            raise ValueError(
                f"config.{field} is {config[section][name]!r}, and must be {value!r} for "
                f"{config.data.name!r}"
            )
