"""Loads the user's observed videos (`config.sample.observed`), preprocessed like training data."""

from pathlib import Path

import numpy as np

from vdm.video.index import index_folder
from vdm.video.pixels import with_channels
from vdm.video.read import Video
from vdm.video.timing import describe_length


def load_videos(
    path: Path, *, num_frames: int, resolution: int, channels: int, frame_rate: float = 0.0
) -> np.ndarray:
    """Returns the first frames of each video under a path, cropped and resized.

    Args:
      path: a video, an array file, or a folder, as `vdm.video.folders.find_videos` takes it; a
        folder of images is one video.
      num_frames: number of frames per video.
      resolution: height and width in pixels, to which the central square is resized by area.
      channels: 1 or 3; Pillow's mode 'L' converts colour to grey.
      frame_rate: frames per second at which videos are sampled, 0 for frames as stored.

    Returns:
      uint8 [n, num_frames, resolution, resolution, channels], ordered by name.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: there are no videos; a video is unreadable, has too few frames, or lacks the
        timestamps that a frame rate needs; or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, and must be 1 or 3")
    return np.stack(
        [
            with_channels(video.frames(range(num_frames), resolution), channels)
            for video in _open_videos(path, num_frames, frame_rate)
        ]
    )


def _open_videos(path: Path, num_frames: int, frame_rate: float) -> list[Video]:
    index = index_folder(path, save=False, frame_rate=frame_rate)
    index.check_readable()
    for name, video in index.videos.items():
        if video.num_frames < num_frames:
            where = Path(path) / name if Path(path).is_dir() else path
            raise ValueError(f"{where} has {describe_length(video)}, and {num_frames} are needed")
    return list(index.videos.values())
