"""Videos of a file or a folder, one after another, for the metrics."""

import contextlib
import dataclasses
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vdm.data.pictures import entries_of
from vdm.data.user_videos import load_videos, sources_of, with_channels
from vdm.data.video_files import CONTAINERS, first_frames


@dataclasses.dataclass(frozen=True)
class VideoSet:
    """Videos of one shape under a path, read as they are asked for.

    Attributes:
      path: a .npz with `video` uint8 [n, frames, height, width, channels], a video file, a folder
        of the images of one video, or a folder whose entries are any of these.
      frames: of each video; later frames are left out.
      size: height and width of all of them.
      counts: videos in each source.
    """

    path: Path
    frames: int
    size: tuple[int, int]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Videos uint8 [frames, height, width, 3].

        Raises:
          ValueError: with the file's name, a video that is damaged, too short or of another size.
        """
        for source in sources_of(self.path):
            yield from _videos_of(source, self.frames, self.size)


def open_videos(path: Path, frames: int) -> VideoSet:
    """Looks at what is under a path, reading the first video and headers alone.

    Args:
      path: as of VideoSet.
      frames: of each video, or 0 for those of the first one.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: an empty folder, or a file that cannot be read or does not fit.
    """
    sources = sources_of(path)
    # Of other files than .npz the header does not say enough.
    probed = {
        source: _probe(source)
        for source in sources
        if source == sources[0] or source.suffix.lower() == ".npz"
    }
    first, *size = probed[sources[0]][0]
    frames, size = frames or first, tuple(size)
    for source, ((found, *found_size), _) in probed.items():
        _check(source, found, found_size, frames, size)
    counts = tuple(probed[source][1] if source in probed else 1 for source in sources)
    return VideoSet(path, frames, size, counts)


def _probe(source: Path) -> tuple[tuple[int, int, int], int]:
    """Frames, height and width of the first video of a source, and the number of videos."""
    if source.suffix.lower() == ".npz":
        with _npz_member(source) as (_, shape):
            return shape[1:4], shape[0]
    if source.suffix.lower() in CONTAINERS:
        decoded = list(first_frames(source))
        return (len(decoded), *decoded[0].shape[:2]), 1
    try:
        if source.is_dir():
            images = entries_of(source)
            with Image.open(images[0]) as picture:
                return (len(images), picture.height, picture.width), 1
        with Image.open(source) as picture:
            return (getattr(picture, "n_frames", 1), picture.height, picture.width), 1
    except OSError as error:
        raise ValueError(f"{source} cannot be read, it is damaged or of another type") from error


def _videos_of(source: Path, frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    if source.suffix.lower() == ".npz":
        yield from _of_npz(source, frames, size)
    elif source.suffix.lower() in CONTAINERS:
        yield _of_container(source, frames, size)
    else:
        yield load_videos(source, num_frames=frames, height=size[0], width=size[1], channels=3)[0]


def _of_npz(path: Path, frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Reads one video after another, so that an archive need not fit in memory."""
    with _npz_member(path) as (file, shape):
        _check(path, shape[1], shape[2:4], frames, size)
        bytes_each = int(np.prod(shape[1:]))
        for index in range(shape[0]):
            try:
                data = file.read(bytes_each)
            except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                raise ValueError(f"{path} is damaged in video {index} of {shape[0]}") from error
            if len(data) < bytes_each:
                raise ValueError(f"{path} ends in video {index} of {shape[0]}")
            video = np.frombuffer(data, np.uint8).reshape(shape[1:])[:frames]
            yield with_channels(video, 3)


@contextlib.contextmanager
def _npz_member(path: Path) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """The array `video` of an .npz file, opened behind its header, and its shape."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read, it is damaged or no .npz: {error}") from error
    with archive:
        if "video.npy" not in archive.namelist():
            raise ValueError(f"{path} has no array `video`, and one is needed")
        with archive.open("video.npy") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file)
            if dtype != np.uint8 or len(shape) != 5 or shape[-1] not in (1, 3) or fortran:
                raise ValueError(
                    f"`video` of {path} is {dtype} {shape}, and uint8 [n, frames, height, width, "
                    "channels] with 1 or 3 channels is needed"
                )
            yield file, shape


def _of_container(path: Path, frames: int, size: tuple[int, int]) -> np.ndarray:
    decoded = list(first_frames(path, frames))
    _check(path, len(decoded), decoded[0].shape[:2], frames, size)
    return np.stack(decoded)


def _check(
    path: Path, found: int, found_size: Sequence[int], frames: int, size: tuple[int, int]
) -> None:
    if found < frames:
        raise ValueError(f"{path} has {found} frames, and {frames} are needed")
    if tuple(found_size) != tuple(size):
        raise ValueError(
            f"{path} is {found_size[0]} x {found_size[1]} pixels (height x width), and the first "
            f"video is {size[0]} x {size[1]}"
        )
