"""Loads the user's observed videos (config.sample.observed), preprocessed like training data."""

import numpy as np

from vdm.video.pixels import with_channels
from vdm.video.video_sets import Videos, open_videos


def load_videos(
    source: Videos, *, num_frames: int, resolution: int, channels: int, frame_rate: float = 0.0
) -> np.ndarray:
    """Returns the first frames of each video, cropped and resized as `VideoSet` does.

    Pillow's mode 'L' converts colour to grey.

    Returns:
      uint8 [n, num_frames, resolution, resolution, channels], ordered by name.

    Raises:
      FileNotFoundError, ValueError: as in `open_videos`; or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, and must be 1 or 3")
    videos = open_videos(source, num_frames, resolution=resolution, frame_rate=frame_rate)
    return np.stack([with_channels(video, channels) for video in videos])
