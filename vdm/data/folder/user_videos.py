"""The user's own videos to observe (`config.sample.observed`), as training data is made of them."""

from pathlib import Path

import numpy as np

from vdm.video.index import index_folder
from vdm.video.pixels import centre_crop, resize_by_area, with_channels
from vdm.video.timing import describe_length


def load_videos(
    path: Path, *, num_frames: int, resolution: int, channels: int, frame_rate: float = 0.0
) -> np.ndarray:
    """The first frames of each video below a path, cropped and resized as training data.

    Args:
      path: a video, an array file, or a folder, as `vdm.video.folders.find_videos` reads it; a
        folder of images is one video.
      num_frames: frames taken of each video.
      resolution: height and width, in pixels, to which the square in the middle of a frame is
        resized by area.
      channels: 1 or 3; colour becomes grey by Pillow's conversion to 'L'.
      frame_rate: frames per second at which videos are sampled, 0 for frames as stored.

    Returns:
      uint8 [n, num_frames, resolution, resolution, channels], in the order of the names.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: no videos; one that cannot be read, has too few frames, or lacks the timestamps
        that a frame rate needs; or a number of channels other than 1 and 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    return np.stack(
        [
            with_channels(
                resize_by_area(centre_crop(video.frames(range(num_frames))), resolution), channels
            )
            for video in _long_enough(path, num_frames, frame_rate)
        ]
    )


def _long_enough(path: Path, num_frames: int, frame_rate: float) -> list:
    """The videos below a path, or ValueError where one is unreadable or too short."""
    index = index_folder(path, save=False, frame_rate=frame_rate)
    index.check_readable()
    for name, video in index.videos.items():
        if video.num_frames < num_frames:
            where = Path(path) / name if Path(path).is_dir() else path
            raise ValueError(f"{where} has {describe_length(video)}, and {num_frames} are needed")
    return list(index.videos.values())
