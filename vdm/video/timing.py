"""Sampling by time: which frame a video shows at every 1 / frame_rate seconds."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.read import Video

# Many containers have timestamps in milliseconds, below which times cannot be told apart.
MAX_FRAME_RATE = 1000.0
# Matroska, FLV and ASF round timestamps to milliseconds, the first too; with slack for floats.
_ROUNDING = 1.001e-3


def frames_at_rate(times: np.ndarray, duration: float, frame_rate: float) -> np.ndarray:
    """The number of the frame that is shown at each time 0, 1 / R, 2 / R, ... after the first.

    That is the last frame whose presentation time is not later: of a video of a higher rate some
    frames are left out, and of a lower one frames repeat. Sampling times end before `duration`, so
    that D seconds have ceil(D * R) samples, as with `ffmpeg -vf fps=R:round=up`. Timestamps may be
    rounded: those up to 1 ms late count as in time, and the end is 2 ms early; less for rates that
    this would not tell apart. So a video at its own constant rate is unchanged.

    Args:
      times: ascending presentation times in seconds, [n] with n >= 1.
      duration: seconds from the first frame to the end of the last one.
      frame_rate: R, in frames per second, positive and at most `MAX_FRAME_RATE`.

    Returns:
      int64 [m], m >= 1, ascending numbers from 0 to at most n - 1.
    """
    since_first = np.asarray(times, np.float64) - times[0]
    tolerance = min(_ROUNDING, duration / len(since_first) / 4, 1 / frame_rate / 4)
    count = max(1, math.ceil((duration - 2 * tolerance) * frame_rate))
    at = np.arange(count) / frame_rate
    return np.searchsorted(since_first, at + tolerance, side="right") - 1


@dataclasses.dataclass(frozen=True, eq=False)
class VideoAtRate:
    """A view of a video, sampled by time: a `vdm.video.read.Video` of constant frame rate.

    Attributes:
      video: the video as stored.
      frame_rate: frames per second.
      numbers: the stored frame that each frame shows, int64 [num_frames].
    """

    video: Video
    frame_rate: float
    numbers: np.ndarray

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.video.path

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.numbers)

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.video.height

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.video.width

    @property
    def times(self) -> np.ndarray:
        """Presentation times in seconds, float64 [num_frames]."""
        return self.video.times[0] + np.arange(self.num_frames) / self.frame_rate

    @property
    def note(self) -> str:
        """'' or a sentence that a user should know."""
        return self.video.note

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, in any order, uint8 [n, height, width, 3].

        Raises:
          IndexError: a number out of range.
          UnreadableVideoError: the video is damaged, or has changed since it was opened.
        """
        wanted = [int(index) for index in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(f"{self.path} has {describe_length(self)}, and {wanted} are requested")
        return self.video.frames(self.numbers[wanted].tolist())


def at_rate(video: Video, frame_rate: float) -> Video:
    """The video sampled by time at a frame rate; for 0 the video as stored.

    Raises:
      UnreadableVideoError: it has no presentation times.
      ValueError: as of `check_frame_rate`.
    """
    check_frame_rate(frame_rate)
    if frame_rate == 0:
        return video
    times = video.times
    if times is None:
        raise UnreadableVideoError(
            video.path,
            f"has no timestamps, which sampling at {frame_rate:g} frames per second needs",
        )
    # A single frame has no rate, and is one sample.
    duration = len(times) / video.frame_rate if video.frame_rate else 0.0
    return VideoAtRate(video, frame_rate, frames_at_rate(times, duration, frame_rate))


def check_frame_rate(frame_rate: float) -> None:
    """Raises ValueError where a frame rate is not 0 to `MAX_FRAME_RATE`, as NaN."""
    if not 0 <= frame_rate <= MAX_FRAME_RATE:
        raise ValueError(
            f"frame_rate is {frame_rate}, and must be 0 for frames as stored, or positive and at "
            f"most {MAX_FRAME_RATE:g} frames per second"
        )


def describe_length(video: Video) -> str:
    """The number of frames in words: '1 frame', or '12 frames at 8 frames per second'."""
    words = f"{video.num_frames} frame{'' if video.num_frames == 1 else 's'}"
    if isinstance(video, VideoAtRate):
        words += f" at {video.frame_rate:g} frames per second"
    return words
