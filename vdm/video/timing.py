"""Resamples videos to a constant frame rate by their presentation times."""

import dataclasses
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.read import Video

# Many containers store timestamps in milliseconds.
MAX_FRAME_RATE = 1000.0
# Seconds. Matroska, FLV and ASF round timestamps to milliseconds; the rest is for float rounding.
_ROUNDING = 1.001e-3
_MAX_REPEATS = 1000  # of one frame without a note


def frames_at_rate(times: np.ndarray, duration: float, frame_rate: float) -> np.ndarray:
    """Returns the index of the frame shown at each time 0, 1 / R, 2 / R, ... after the first frame.

    This is the last frame whose presentation time is not later: frames of a video with a higher
    rate are dropped, and frames of a video with a lower rate are repeated. Sampling times end
    before `duration`, so that D seconds have ceil(D * R) samples, as with
    `ffmpeg -vf fps=R:round=up`. To tolerate rounded timestamps, frames up to 1 ms late count as on
    time, and the end is 2 ms early (less at high rates). Resampling a video to its own constant
    rate changes nothing.

    Args:
      times: ascending presentation times in seconds, [n], n >= 1.
      duration: seconds from the first frame to the end of the last frame.
      frame_rate: R in frames per second, above 0 and at most `MAX_FRAME_RATE`.

    Returns:
      Ascending indices int64 [m], m >= 1, in 0 to n - 1.
    """
    since_first = np.asarray(times, np.float64) - times[0]
    tolerance = min(_ROUNDING, duration / len(since_first) / 4, 1 / frame_rate / 4)
    count = max(1, math.ceil((duration - 2 * tolerance) * frame_rate))
    at = np.arange(count) / frame_rate
    return np.searchsorted(since_first, at + tolerance, side="right") - 1


@dataclasses.dataclass(frozen=True, eq=False)
class VideoAtRate:
    """A video resampled to a constant frame rate, a `vdm.video.read.Video`.

    Attributes:
      video: the stored video.
      frame_rate: frames per second.
      stored_indices: index of the stored frame that each frame shows, int64 [num_frames].
      start: presentation time of the first frame in seconds.
    """

    video: Video
    frame_rate: float
    stored_indices: np.ndarray
    start: float

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.video.path

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.stored_indices)

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
        return self.start + np.arange(self.num_frames) / self.frame_rate

    @property
    def note(self) -> str:
        """The stored video's note, and one about a frame that is shown very long."""
        shown = np.bincount(self.stored_indices)
        longest = int(shown.argmax())
        if shown[longest] <= _MAX_REPEATS:
            return self.video.note
        # Timestamps of damaged recordings can jump by hours.
        note = (
            f"shows frame {longest} for {shown[longest] / self.frame_rate:.1f} s, "
            f"{shown[longest]} of its {describe_length(self)}"
        )
        return f"{self.video.note}; and {note}" if self.video.note else note

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`, with the same errors."""
        wanted = [int(index) for index in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(f"{self.path} has {describe_length(self)}, and {wanted} are requested")
        return self.video.frames(self.stored_indices[wanted].tolist(), resolution)


def at_rate(video: Video, frame_rate: float) -> Video:
    """Resamples a video to a frame rate in frames per second; 0 returns the stored video.

    Raises:
      UnreadableVideoError: the video has no presentation times.
      ValueError: as in `check_frame_rate`.
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
    # A single frame has no rate; it becomes one sample.
    duration = len(times) / video.frame_rate if video.frame_rate else 0.0
    return VideoAtRate(video, frame_rate, frames_at_rate(times, duration, frame_rate), times[0])


def check_frame_rate(frame_rate: float) -> None:
    """Raises ValueError unless a frame rate is in [0, `MAX_FRAME_RATE`]."""
    if not isinstance(frame_rate, Real) or not 0 <= frame_rate <= MAX_FRAME_RATE:
        raise ValueError(
            f"frame_rate is {frame_rate!r}, and must be 0 for frames as stored, or positive and at "
            f"most {MAX_FRAME_RATE:g} frames per second"
        )


def describe_length(video: Video) -> str:
    """Describes the length of a video: '1 frame', or '12 frames at 8 frames per second'."""
    words = f"{video.num_frames} frame{'' if video.num_frames == 1 else 's'}"
    if isinstance(video, VideoAtRate):
        words += f" at {video.frame_rate:g} frames per second"
    return words
