"""Reads clips from a set of videos, for metrics and for the user's observed videos."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vdm.files import local_path
from vdm.video.formats.memory import videos_in_memory
from vdm.video.index import index_folder
from vdm.video.read import Video
from vdm.video.splits import split_names
from vdm.video.timing import at_rate, describe_length

# A path for `vdm.video.folders.find_videos`, an array, or a list of arrays of any sizes
# (`vdm.video.formats.memory.videos_in_memory`).
Videos: TypeAlias = str | os.PathLike[str] | np.ndarray | Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class VideoSet:
    """An iterable of clips of equal shape, read lazily.

    Attributes:
      path: folder, video or array file, or the name of an array in memory.
      videos: all videos by name, at `frame_rate`.
      frames: number of frames per clip.
      size: height and width of a clip in pixels.
      frameskip: distance between consecutive frames of a clip.
      clips_per_video: number of evenly spaced clips per video; 1: the first frames.
      resolution: height and width to which the central square is resized; 0: no resize.
      frame_rate: frames per second at which videos are sampled; 0: frames as stored.
      left_out: {name: reason} of the other files of a folder.
    """

    path: Path
    videos: Mapping[str, Video]
    frames: int
    size: tuple[int, int]
    frameskip: int = 1
    clips_per_video: int = 1
    resolution: int = 0
    frame_rate: float = 0.0
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.videos) * self.clips_per_video

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields clips uint8 [frames, height, width, 3].

        Raises:
          ValueError: a video has changed since it was opened; the message names it.
        """
        length = _length(self.frames, self.frameskip)
        for video in self.videos.values():
            starts = np.linspace(0, video.num_frames - length, self.clips_per_video)
            for start in starts.round().astype(int).tolist():
                indices = range(start, start + length, self.frameskip)
                yield video.frames(indices, self.resolution)

    def describe_left_out(self) -> str:
        """Describes the files that are left out, by number and the first two; '' if none."""
        if not self.left_out:
            return ""
        some = [f"{name} {why}" for name, why in itertools.islice(self.left_out.items(), 2)]
        count, more = len(self.left_out), ["..."] if len(self.left_out) > len(some) else []
        subject = "1 other file is" if count == 1 else f"{count} other files are"
        return f"{subject} left out: {'; '.join(some + more)}"

    @property
    def warnings(self) -> list[str]:
        """Warnings about mixed splits, frames in no clip, equal clips, and notes of videos."""
        lengths = {name: video.num_frames for name, video in self.videos.items()}
        longest, shortest = (extreme(lengths, key=lengths.__getitem__) for extreme in (max, min))
        used = _length(self.frames, self.frameskip)
        found, different = lengths[longest], lengths[shortest] - used + 1
        result = []
        if splits := sorted(set(split_names(self.videos)[1].values()) - {""}):
            result.append(
                f"{self.path} has the splits {', '.join(splits)}, and the videos of all are "
                "measured: give the path of one of them to measure it alone"
            )
        if noted := [f"{name} {video.note}" for name, video in self.videos.items() if video.note]:
            more = [f"and {len(noted) - 2} more have notes"] if len(noted) > 2 else []
            result.append(f"of {self.path}, {'; '.join(noted[:2] + more)}")
        if different < self.clips_per_video:
            result.append(
                f"clips_per_video is {self.clips_per_video}, and {shortest} of {self.path} has "
                f"{different} different clips of {self.frames} frames: some are measured repeatedly"
            )
        if found > used:
            result.append(
                f"videos of {self.path} have up to {found} frames ({longest}), and only the first "
                f"{used} frames of each video are measured, as clips of {self.frames}"
                if self.clips_per_video == 1
                else f"videos of {self.path} have up to {found} frames ({longest}), and only "
                f"{self.clips_per_video} clips of {self.frames} frames are measured"
            )
        return result


def open_videos(
    source: Videos,
    frames: int,
    *,
    frameskip: int = 1,
    clips_per_video: int = 1,
    resolution: int = 0,
    frame_rate: float = 0.0,
    name: str = "videos",
) -> VideoSet:
    """Opens all videos under a path or in memory; decodes each file once to count its frames.

    Args:
      source: path of a video file, an .npz file or a folder; array uint8 [n, frames, height, width,
        channels]; or list of arrays [frames, height, width, channels].
      frames: number of frames per clip; 0: as many as the first video has.
      frameskip: distance between consecutive frames of a clip.
      clips_per_video: number of evenly spaced clips per video.
      resolution: height and width to which the central square is resized; 0: no resize.
      frame_rate: frames per second at which videos are sampled; 0: frames as stored.
      name: name of an array in error messages.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: there are no videos; or a video is unreadable or too short, differs in size from
        the first, or lacks the timestamps that a frame rate requires.
    """
    path, videos, left_out = _opened(source, name, frame_rate)
    first = next(iter(videos.values()))
    frames = frames or (first.num_frames - 1) // frameskip + 1
    needed = _length(frames, frameskip)
    for key, video in videos.items():
        where = key
        if isinstance(source, str | os.PathLike):
            where = str(path / key if path.is_dir() else path)
        if video.num_frames < needed:
            raise ValueError(f"{where} has {describe_length(video)}, and {needed} are needed")
        if not resolution and (video.height, video.width) != (first.height, first.width):
            raise ValueError(
                f"{where} is {video.height} x {video.width} pixels (height x width), and the first "
                f"video is {first.height} x {first.width}: resolution=N (--resolution=N) crops and "
                "resizes all"
            )
    size = (resolution, resolution) if resolution else (first.height, first.width)
    clips = (frames, size, frameskip, clips_per_video, resolution, frame_rate)
    return VideoSet(path, videos, *clips, left_out)


def _opened(
    source: Videos, name: str, frame_rate: float
) -> tuple[Path, Mapping[str, Video], Mapping[str, str]]:
    """Returns the path, or the name of an array; all videos by name; and reasons of other files."""
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise ValueError(f"{name} is '', and must be the path of videos")
        path = local_path(source)
        index = index_folder(path, save=False, frame_rate=frame_rate)
        index.check_readable()
        return path, index.videos, index.left_out
    videos = videos_in_memory(source, name)
    return Path(name), {key: at_rate(video, frame_rate) for key, video in videos.items()}, {}


def _length(frames: int, frameskip: int) -> int:
    """Returns the number of frames that a clip spans in its video."""
    return (frames - 1) * frameskip + 1
