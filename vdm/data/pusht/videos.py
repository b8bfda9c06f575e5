"""Random access to the clips of a prepared PushT data set: config.data.name 'pusht'."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np

from vdm.data.pusht.shards import (
    FORMAT,
    RECORD,
    SHARD_SIZE,
    clip_name,
    default_folder,
    read_description,
    shard_name,
    shards_of,
)
from vdm.files import DamagedFile, local_path
from vdm.metrics.weights.files import sha256_of
from vdm.video.formats.arrays import reading_arrays
from vdm.video.pixels import central_square


class PushtVideos:
    """A split of a prepared PushT data set: a `vdm.data.clips.VideoReader`.

    Attributes:
      folder: folder of the data set.
      split: 'train' or 'test'.
      num_frames: number of frames of each clip.
    """

    def __init__(self, folder: Path, split: str, settings: dict):
        """Reads the actions of all clips, 256 bytes for a clip of 32 frames."""
        self.folder, self.split = folder, split
        self.num_frames = settings["frames"]
        self._actions: list[np.ndarray] = []
        for first in range(0, settings[split], SHARD_SIZE):
            with np.load(folder / shard_name(split, first)) as shard:
                self._actions.extend(shard["action"])

    def __len__(self) -> int:
        return len(self._actions)

    def open(self, index: int) -> "PushtClip":
        path = self.folder / shard_name(self.split, index)
        return PushtClip(path, clip_name(index), self.num_frames)

    def name(self, index: int) -> str:
        return f"{shard_name(self.split, index)}, {clip_name(index)}"

    def actions(self, index: int) -> np.ndarray:
        return self._actions[index]

    def label(self, index: int) -> int:
        raise NotImplementedError("PushT has no labels")

    def caption(self, index: int) -> str:
        raise NotImplementedError("PushT has no captions")


@dataclasses.dataclass(frozen=True)
class PushtClip:
    """A clip of a shard: a `vdm.data.clips.FrameReader`."""

    path: Path
    name: str
    num_frames: int

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`.

        Raises:
          DamagedFile: the shard is damaged or missing.
        """
        try:
            with reading_arrays, self.path.open("rb") as file, np.load(file) as shard:
                frames = shard[self.name][list(indices)]
        except Exception as error:  # NumPy, zipfile and zlib raise many exception types
            raise DamagedFile(f"{self.path} cannot be read: {error}") from error
        return np.stack([central_square(frame, resolution) for frame in frames])


def open_pusht(config: ml_collections.ConfigDict, split: str) -> PushtVideos:
    """Opens the split 'train' or 'test' of the PushT data set in config.data.path.

    Raises:
      ValueError: the data set is not prepared, is damaged, or does not fit config.data.
    """
    data = config.data
    for condition, feature in (("label", "labels"), ("text", "captions")):
        if data.condition == condition:
            raise ValueError(
                f"config.data.condition is {condition!r}, and 'pusht' has no {feature}"
            )
    folder = local_path(data.path or default_folder())
    command = "python -m vdm.data.prepare pusht" + (f" --data_dir={data.path}" if data.path else "")
    try:
        record = read_description(folder)
        complete = record["shards"] and record["settings"]["format"] == FORMAT
    except (FileNotFoundError, NotADirectoryError):
        complete = False
    if not complete:
        raise ValueError(
            f"there is no prepared PushT in {folder}: prepare it with {command} (docs/data.md)"
        )
    videos = _open(folder, split, (folder / RECORD).stat().st_mtime_ns, command)
    needed = (data.frames - 1) * data.frameskip + 1
    if needed > videos.num_frames:
        raise ValueError(
            f"config.data.frames is {data.frames} and config.data.frameskip {data.frameskip}, for "
            f"which videos of {needed} frames are needed, and those in {folder} have "
            f"{videos.num_frames}"
        )
    return videos


# Cached, since opening reads all shards.
@functools.lru_cache(maxsize=8)
def _open(folder: Path, split: str, modified: int, command: str) -> PushtVideos:
    """Verifies a split's shards and opens it; `modified`, of the record, is a cache key."""
    record = read_description(folder)
    for name in shards_of(record["settings"]):
        path = folder / name
        if name.startswith(split) and (
            not path.is_file() or sha256_of(path) != record["shards"][name]
        ):
            raise ValueError(f"{path} is missing or damaged: draw it again with {command}")
    return PushtVideos(folder, split, record["settings"])
