"""Opens a video of any kind: the one place that decides which reader a path needs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.formats import arrays, containers, images
from vdm.video.formats.random_access import open_container

# What `open_video` opens, beside folders of images.
VIDEO_SUFFIXES = (*containers.SUFFIXES, images.GIF, *arrays.SUFFIXES)


@runtime_checkable
class Video(Protocol):
    """An opened video.

    Attributes:
      path: the file, or the folder of images.
      num_frames: number of frames.
      height: in pixels, of upright frames.
      width: in pixels, of upright frames.
      frame_rate: mean frames per second, None where there is none.
      times: presentation times in seconds, float64 [num_frames], None where there are none.
      note: '' or a sentence that a user should know.
    """

    path: Path
    num_frames: int
    height: int
    width: int
    frame_rate: float | None
    times: np.ndarray | None
    note: str

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, in any order, uint8 [n, height, width, 3].

        The memory that is needed is proportional to n.

        Raises:
          IndexError: a number out of range.
          UnreadableVideoError: the video is damaged, or has changed since it was opened.
        """


def open_video(path: str | Path, index: int | None = None) -> Video:
    """Opens a container, an animated or still image, a folder of images, or an array file.

    A container is decoded completely, so that its frames are counted and its damage is found.

    Args:
      path: a file whose name ends as in `VIDEO_SUFFIXES`, or as an image's; or a folder of images,
        which are the frames of one video in the natural order of their names.
      index: the video of an .npz or .npy file that holds several.

    Raises:
      FileNotFoundError: there is no such path.
      UnreadableVideoError: it is no video, or a damaged one.
      ValueError: `index` is missing or out of range.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, and a video is to be read from it")
    if index is not None and (path.is_dir() or suffix not in arrays.SUFFIXES):
        raise ValueError(f"index is {index}, and {path} is one video")
    if path.is_dir():
        return images.open_image_folder(path)
    if suffix in arrays.SUFFIXES:
        return _open_array(arrays.ArrayFile(path), index)
    if suffix == images.GIF or suffix in images.SUFFIXES:
        return images.open_animated(path)
    if suffix in containers.SUFFIXES:
        return open_container(path)
    raise UnreadableVideoError(
        path, f"is of another type, and {', '.join(VIDEO_SUFFIXES)} are read"
    )


def stream_frames(path: str | Path) -> Iterator[np.ndarray]:
    """All frames of a video in order, each uint8 [height, width, 3]: a container is decoded once.

    Raises:
      FileNotFoundError, UnreadableVideoError, ValueError: as `open_video`.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix.lower() in containers.SUFFIXES:
        yield from containers.stream_frames(path)
        return
    video = open_video(path)
    for number in range(video.num_frames):
        yield video.frames([number])[0]


def _open_array(file: arrays.ArrayFile, index: int | None) -> arrays.ArrayVideo:
    if index is None and len(file) > 1:
        raise ValueError(f"{file.path} holds {len(file)} videos: give the index of one")
    index = index or 0
    if not 0 <= index < len(file):
        raise ValueError(f"index is {index}, and {file.path} holds {len(file)} videos")
    return arrays.ArrayVideo(file, index)
