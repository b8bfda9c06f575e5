"""Videos in NumPy arrays in memory."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vdm.video.formats.select import select_frames
from vdm.video.pixels import with_channels

_LAYOUT = "uint8 [n, frames, height, width, channels] with 1 or 3 channels"


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryVideo:
    """One video in memory, a `vdm.video.read.Video`.

    Attributes:
      path: the video's name in error messages.
      array: uint8 [frames, height, width, 1 or 3].
    """

    path: Path
    array: np.ndarray
    frame_rate = None
    times = None
    note = ""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.array.shape[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.array.shape[1]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.array.shape[2]

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`."""
        return select_frames(self, indices, resolution, self._read)

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        yield from with_channels(self.array[wanted], 3)


def videos_in_memory(
    videos: np.ndarray | Sequence[np.ndarray], name: str
) -> dict[str, MemoryVideo]:
    """Returns the videos of an array, or of a list of arrays of any sizes.

    Args:
      videos: uint8 [n, frames, height, width, channels], or a list of [frames, height, width,
        channels], with 1 or 3 channels.
      name: name of the argument; video i is 'NAME[i]' in error messages.

    Raises:
      ValueError: the dtype or a shape is wrong, or there are no videos.
    """
    if isinstance(videos, np.ndarray) and videos.ndim != 5:
        raise ValueError(
            f"{name} is {videos.dtype} {list(videos.shape)}, and must be {_LAYOUT}"
            + (_hint(name, videos.shape) if videos.ndim == 4 else "")
        )
    if not isinstance(videos, Iterable):
        raise ValueError(
            f"{name} is {videos!r}, and must be a path, {_LAYOUT}, or a list of videos"
        )
    result = {}
    for index, item in enumerate(videos):
        video = _array(f"{name}[{index}]", item)
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] not in (1, 3):
            of_list = "" if isinstance(videos, np.ndarray) else ", or a list of videos"
            hint = (
                "; vdm.video.pixels.to_uint8 converts floats from -1 to 1"
                if np.issubdtype(video.dtype, np.floating)
                else ""
            )
            raise ValueError(
                f"{name}[{index}] is {video.dtype} {list(video.shape)}, and {name} must be "
                f"{_LAYOUT}{of_list}{hint}"
            )
        if 0 in video.shape:
            raise ValueError(f"{name}[{index}] has no frames: its shape is {list(video.shape)}")
        result[f"{name}[{index}]"] = MemoryVideo(Path(f"{name}[{index}]"), video)
    if not result:
        raise ValueError(f"{name} has no videos, and must have at least one")
    return result


def _hint(name: str, shape: tuple[int, ...]) -> str:
    if shape[-1] in (1, 3):
        return f"; {name}[None] is a set of one video"
    return f"; {name}[..., None] has a channel"


def _array(name: str, item: object) -> np.ndarray:
    if isinstance(item, str | os.PathLike):
        raise ValueError(
            f"{name} is {str(item)!r}, and must be an array: paths are not read from a list, but a "
            "folder is read"
        )
    try:
        return np.asarray(item)
    except ValueError as error:
        raise ValueError(f"{name} cannot be an array: {error}") from error
