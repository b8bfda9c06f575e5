"""Video files through PyAV: exactly the frames that are asked for, as FFmpeg decodes them.

Pixels are those of `ffmpeg -pix_fmt rgb24`, turned upright where the file says that it lies on its
side. A frame's number counts the frames in the order in which they are shown.
"""

import bisect
import contextlib
import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

CONTAINERS = (".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".mpg", ".mpeg")

# A file that lacks more of its length than this many seconds, and this share, is called cut off:
# containers round durations, and some count the last frame's and some do not.
_CUT_OFF = (0.5, 0.05)


class UnreadableVideoError(ValueError):
    """A video file that cannot be used.

    Attributes:
      reason: why, without the file's name.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is in a video file, found by decoding all of it.

    Attributes:
      height: of a frame shown upright, in pixels.
      width: likewise.
      timestamps: of all frames, in the units of the file's video stream.
      keyframes: numbers of the frames that decoding can start from; none where frames cannot be
        found by their timestamps, and are counted from the beginning, as in AVI files that do not
        say when a frame is shown.
    """

    height: int
    width: int
    timestamps: tuple[int, ...]
    keyframes: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.timestamps)


def examine(path: Path) -> Contents:
    """Decodes a whole file, and tries whether what is found by seeking is the same.

    Raises:
      UnreadableVideoError: no video in it, damaged, cut off, or of changing size.
      ValueError: PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        shown = [_Shown.of(frame) for frame in _decoded(container, stream)]
        _check_sound(path, shown)
        timestamps = [frame.timestamp for frame in shown]
        ordered = None not in timestamps and bool((np.diff(timestamps) > 0).all())
        if ordered:
            _check_whole(path, container, stream, shown)
    if not ordered:
        return Contents(*shown[0].size, tuple(range(len(shown))), keyframes=())
    keyframes = tuple(number for number, frame in enumerate(shown) if frame.is_keyframe)
    contents = Contents(*shown[0].size, tuple(timestamps), keyframes or (0,))
    if _finds_the_same(path, contents, shown):
        return contents
    return dataclasses.replace(contents, keyframes=())


def read_frames(path: Path, contents: Contents, numbers: Sequence[int]) -> np.ndarray:
    """Frames of a file by their numbers, in any order, uint8 [n, height, width, 3].

    Args:
      path: the file.
      contents: what `examine` found in it.
      numbers: 0 to contents.num_frames - 1.

    Raises:
      IndexError: a number out of range.
      UnreadableVideoError: the file has changed since, or is gone.
    """
    wanted = sorted(set(numbers))
    if not wanted or wanted[0] < 0 or wanted[-1] >= contents.num_frames:
        raise IndexError(f"{path} has {contents.num_frames} frames, and {list(numbers)} are wanted")
    out = np.empty((len(wanted), contents.height, contents.width, 3), np.uint8)
    to_rgb = _Rgb()
    for place, frame in enumerate(_frames(path, contents, wanted)):
        if _size(frame) != (contents.height, contents.width):
            raise UnreadableVideoError(path, "has changed since its frames were counted")
        out[place] = to_rgb(frame)
    places = {number: place for place, number in enumerate(wanted)}
    return out if wanted == list(numbers) else out[[places[number] for number in numbers]]


def first_frames(path: Path, most: int | None = None) -> Iterator[np.ndarray]:
    """The first frames of a file, or all, each uint8 [height, width, 3].

    Raises:
      UnreadableVideoError: no video in it, or damaged before the last of the frames.
      ValueError: PyAV is not installed.
    """
    found = 0
    to_rgb = _Rgb()
    with _opened(path) as (container, stream):
        for frame in _decoded(container, stream):
            if found == most:
                return
            if frame.is_corrupt:
                raise UnreadableVideoError(path, f"is damaged at frame {found}")
            yield to_rgb(frame)
            found += 1
    if not found:
        raise UnreadableVideoError(path, "has no video frames")


def _frames(path: Path, contents: Contents, wanted: list[int]) -> Iterator:
    """PyAV's frames of ascending numbers."""
    if not contents.keyframes:
        yield from _counted(path, wanted)
        return
    times = contents.timestamps
    # A file may be searched by the order of decoding, and the place found lie behind: aim earlier.
    start, back = bisect.bisect_right(contents.keyframes, wanted[0]) - 1, 1
    while True:
        with _opened(path) as (container, stream):
            if start > 0:
                container.seek(times[contents.keyframes[start]], stream=stream)
            frames = _decoded(container, stream, needed_from=times[wanted[0]])
            frame = next(frames, None)
            if start > 0 and (frame is None or frame.pts > times[wanted[0]]):
                start, back = start - back, 2 * back
                continue
            for number in wanted:
                while frame is not None and frame.pts < times[number]:
                    frame = next(frames, None)
                if frame is None or frame.pts != times[number]:
                    raise UnreadableVideoError(
                        path, f"has no frame {number} where it was when its frames were counted"
                    )
                yield frame
            return


def _counted(path: Path, wanted: list[int]) -> Iterator:
    """PyAV's frames of ascending numbers, counted from the beginning."""
    with _opened(path) as (container, stream):
        frames = enumerate(_decoded(container, stream))
        for number in wanted:
            for found, frame in frames:
                if found == number:
                    yield frame
                    break
            else:
                raise UnreadableVideoError(path, f"has no frame {number} any more")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple]:
    """PyAV's container of a file and its video stream, or UnreadableVideoError."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f'{path} needs PyAV: pip install "vdm[data]", or av') from error
    try:
        if not path.stat().st_size:
            raise UnreadableVideoError(path, "is empty")
        container = av.open(str(path))
    except (OSError, av.FFmpegError) as error:
        raise UnreadableVideoError(path, f"cannot be opened: {_said(error)}") from error
    with container:
        # A cover of a piece of music is a video stream to FFmpeg.
        pictures = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & pictures]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams} - {"video"})
            raise UnreadableVideoError(
                path, f"has no video, but {' and '.join(kinds) or 'nothing'}"
            )
        stream = streams[0]
        # Files are decoded side by side, so that threads within one only cost.
        stream.codec_context.thread_count = 1
        try:
            yield container, stream
        except (OSError, av.FFmpegError) as error:
            raise UnreadableVideoError(path, f"cannot be decoded: {_said(error)}") from error


def _decoded(container, stream, needed_from: int | None = None) -> Iterator:
    """The frames from where the container is, in the order in which they are shown.

    Args:
      container: PyAV's.
      stream: PyAV's.
      needed_from: of frames before this timestamp only those are decoded that others are made of.
    """
    codec = stream.codec_context
    for packet in container.demux(stream):
        if needed_from is not None:
            early = packet.pts is not None and packet.pts < needed_from
            codec.skip_frame = "NONREF" if early else "DEFAULT"
        yield from packet.decode()


def _said(error: Exception) -> str:
    """What FFmpeg, or else the system, says of an error, without the file's name."""
    return getattr(error, "strerror", None) or str(error)


class _Shown(NamedTuple):
    """What is kept of a frame while a file is examined."""

    timestamp: int | None
    duration: int
    size: tuple[int, int]
    is_keyframe: bool
    is_damaged: bool
    checksum: int

    @classmethod
    def of(cls, frame) -> "_Shown":
        size, checksum = _size(frame), _checksum(frame)
        return cls(
            frame.pts, frame.duration or 0, size, frame.key_frame, frame.is_corrupt, checksum
        )


def _check_sound(path: Path, shown: list[_Shown]) -> None:
    """Raises UnreadableVideoError where there is no frame, or one that does not fit."""
    if not shown:
        raise UnreadableVideoError(path, "has no video frames")
    for number, frame in enumerate(shown):
        if frame.is_damaged:
            raise UnreadableVideoError(path, f"is damaged at frame {number}")
        if frame.size != shown[0].size:
            raise UnreadableVideoError(
                path, f"changes from {shown[0].size} to {frame.size} pixels at frame {number}"
            )


def _check_whole(path: Path, container, stream, shown: list[_Shown]) -> None:
    """Raises UnreadableVideoError where the file says that there was more to come."""
    import av

    if stream.duration is not None:
        said = float(stream.duration * stream.time_base)
    elif "DURATION" in stream.metadata:  # of Matroska, as hours:minutes:seconds
        parts = reversed(stream.metadata["DURATION"].split(":"))
        said = sum(float(part) * 60**place for place, part in enumerate(parts))
    elif container.duration is not None and len(container.streams) == 1:
        said = container.duration / av.time_base
    else:
        return
    times = [frame.timestamp for frame in shown]
    last = shown[-1].duration or (times[-1] - times[-2] if times[1:] else 0)
    found = float((times[-1] - min(times[0], 0) + last) * stream.time_base)
    if said - found > max(_CUT_OFF[0], _CUT_OFF[1] * said):
        raise UnreadableVideoError(
            path, f"is cut off: it should have {said:.1f} s, and has {found:.1f} s"
        )


def _finds_the_same(path: Path, contents: Contents, shown: list[_Shown]) -> bool:
    """Whether frames found by seeking are those that were decoded one after another.

    Seeking goes wrong where a file's index is wrong, or where frames lean on those before a
    keyframe: around the last keyframe both would show.
    """
    if len(contents.keyframes) == 1:
        return True  # decoding starts at the beginning anyway
    last = contents.keyframes[-1]
    try:
        for number in (last - 1, last, len(shown) - 1):
            (frame,) = _frames(path, contents, [number])
            if _checksum(frame) != shown[number].checksum:
                return False
    except UnreadableVideoError:
        return False
    return True


class _Rgb:
    """PyAV's frames to uint8 [height, width, 3], keeping what one has in common with the next."""

    def __init__(self):
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame) -> np.ndarray:
        # FFmpeg interpolates colour by cubics where it does not take its shortest way.
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1)
        return np.rot90(rgb.to_ndarray(), _quarter_turns(frame))


def _quarter_turns(frame) -> int:
    """By how many quarters to turn a frame, to the left, to show it upright."""
    return round(frame.rotation / 90) % 4


def _size(frame) -> tuple[int, int]:
    """Height and width of a frame shown upright."""
    return (frame.width, frame.height) if _quarter_turns(frame) % 2 else (frame.height, frame.width)


def _checksum(frame) -> int:
    """Of the frame's brightness, or of all of it, as the format has it."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))
    return zlib.crc32(np.ascontiguousarray(rows[: plane.height, : plane.width]))
