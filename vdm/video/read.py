"""Opens videos of all formats, choosing the reader by path."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from vdm.files import local_path
from vdm.video.errors import UnreadableVideoError
from vdm.video.formats import arrays, containers, images
from vdm.video.formats.random_access import open_container

# Files that `open_video` opens, besides images.
VIDEO_SUFFIXES = (*containers.SUFFIXES, images.GIF, *arrays.SUFFIXES)


@runtime_checkable
class Video(Protocol):
    """An opened video with random access to its frames."""

    @property
    def path(self) -> Path:
        """Path of the file, or of the folder of images."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    @property
    def height(self) -> int:
        """Height of upright frames in pixels."""

    @property
    def width(self) -> int:
        """Width of upright frames in pixels."""

    @property
    def frame_rate(self) -> float | None:
        """Mean frames per second, None if unknown."""

    @property
    def times(self) -> np.ndarray | None:
        """Presentation times in seconds, float64 [num_frames], None if unknown."""

    @property
    def note(self) -> str:
        """A remark for users, phrased to follow the path ('is rotated by ...'), or ''."""

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames by index, in any order, uint8 [n, height, width, 3].

        With a resolution, returns the central square of each frame, resized by area averaging to
        [n, resolution, resolution, 3]. Memory is proportional to n.

        Raises:
          IndexError: an index is out of range.
          UnreadableVideoError: the video is damaged, or has changed since it was opened.
        """


def open_video(path: str | Path, index: int | None = None) -> Video:
    """Opens a container, an animated or still image, a folder of images, or an array file.

    Containers are decoded completely, to count their frames and to detect damage.

    Args:
      path: a file with a suffix in `VIDEO_SUFFIXES`, an image file, or a folder of images, which
        are the frames of one video in natural order of their names.
      index: index of the video in an .npz or .npy file of several videos, default None.

    Raises:
      FileNotFoundError: the path does not exist.
      UnreadableVideoError: the file is not a video, or is damaged.
      ValueError: `index` is missing or out of range.
    """
    path = local_path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if index is not None and (path.is_dir() or suffix not in arrays.SUFFIXES):
        raise ValueError(f"index is {index}, and must be None for {path}, which is one video")
    if path.is_dir():
        return images.open_image_folder(path)
    if suffix in arrays.SUFFIXES:
        return _open_array(arrays.ArrayFile(path), index)
    if suffix == images.GIF or suffix in images.SUFFIXES:
        return images.open_animated(path)
    if suffix in containers.SUFFIXES:
        return open_container(path)
    raise UnreadableVideoError(path, f"must end with one of {', '.join(VIDEO_SUFFIXES)}")


def stream_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Yields all frames of a video in order, uint8 [height, width, 3]; decodes containers once.

    Raises:
      FileNotFoundError, UnreadableVideoError, ValueError: as in `open_video`.
    """
    path = local_path(path)
    if path.is_file() and path.suffix.lower() in containers.SUFFIXES:
        yield from containers.stream_frames(path)
        return
    video = open_video(path)
    for index in range(video.num_frames):
        yield video.frames([index])[0]


def _open_array(file: arrays.ArrayFile, index: int | None) -> arrays.ArrayVideo:
    if index is None and len(file) > 1:
        raise ValueError(
            f"index is None, and must select one of the {len(file)} videos of {file.path}"
        )
    index = index or 0
    if not 0 <= index < len(file):
        raise ValueError(f"index is {index}, and must be 0 to {len(file) - 1} for {file.path}")
    return arrays.ArrayVideo(file, index)
