"""Random access to container frames, by seeks that are verified when the file is opened.

Indexes in files can be wrong, timestamps after a seek are guesses in MPEG program streams, and
frames may depend on frames before a keyframe. So a file is decoded twice when it is opened: once
sequentially and once from its keyframes. If the results differ, every read decodes from the first
frame, which is slower but exact for every file.

Two shortcuts are verified as well: in H.264 streams, non-reference pictures before the requested
frame are not decoded, because no other picture is predicted from them; and files are not probed
again when they are read.
"""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.formats.containers import (
    UPRIGHT,
    Decoded,
    Orientation,
    RgbConverter,
    ascending,
    check_complete,
    checksum,
    decode,
    frames_of,
    opened,
    orientation_note,
    orientation_of,
    packets,
    upright_size,
)
from vdm.video.formats.select import select_frames

# Max groups of pictures per file whose seek is verified. A file with only keyframes would otherwise
# be opened once per frame.
_MAX_SEEKS_VERIFIED = 32
_SKIPPED = "NONREF"  # FFmpeg's name for the frames to discard


@dataclasses.dataclass(frozen=True)
class ContainerVideo:
    """The default video stream of a container.

    Attributes:
      path: path of the file.
      height: height of an upright frame in pixels.
      width: width of an upright frame in pixels.
      timestamps: timestamps of all frames in display order, in units of `time_base`; 0, 1, 2, ...
        if the file has none.
      time_base: seconds per unit as (numerator, denominator).
      keyframes: indices of the frames at which decoding may start; empty if every read decodes from
        the first frame.
      orientation: how to make stored frames upright.
    """

    path: Path
    height: int
    width: int
    timestamps: tuple[int, ...]
    time_base: tuple[int, int]
    keyframes: tuple[int, ...]
    orientation: Orientation = UPRIGHT

    @property
    def note(self) -> str:
        """A predicate of the path that users should know, or ''."""
        return orientation_note(self.orientation)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.timestamps)

    @property
    def times(self) -> np.ndarray:
        """Presentation times in seconds, float64 [num_frames]."""
        return np.asarray(self.timestamps) * float(Fraction(*self.time_base))

    @property
    def frame_rate(self) -> float | None:
        """Mean frames per second, None for a single frame."""
        seconds = self.times[-1] - self.times[0]
        return (self.num_frames - 1) / float(seconds) if seconds > 0 else None

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`."""
        return select_frames(self, indices, resolution, self._read)

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        to_rgb = RgbConverter(self.orientation)
        for frame in map(to_rgb, _frames(self, wanted)):
            if frame.shape[:2] != (self.height, self.width):
                raise UnreadableVideoError(self.path, "has changed since it was opened")
            yield frame


def open_container(path: Path) -> ContainerVideo:
    """Opens a container: decodes it sequentially, and again from its keyframes.

    Raises:
      UnreadableVideoError: the file has no video, is damaged or truncated, or changes frame size.
    """
    decoded: list[Decoded] = []
    first = None
    with opened(path) as (container, stream):
        for frame in decode(path, container, stream):
            first = first or frame
            decoded.append(
                Decoded(frame.pts, frame.duration or 0, frame.key_frame, checksum(frame))
            )
        if first is None:
            raise UnreadableVideoError(path, "has no video frames")
        timestamps = ascending([frame.timestamp for frame in decoded])
        ordered = bool(timestamps)
        if ordered:
            check_complete(path, container, stream, timestamps, decoded[-1].duration)
            unit = Fraction(stream.time_base)
        else:  # indices replace timestamps, at the declared frame rate
            timestamps = list(range(len(decoded)))
            unit = 1 / Fraction(stream.average_rate or 25)
        skips = _skips(stream)
    orientation = orientation_of(first)
    height, width = upright_size(first, orientation)
    sequential = ContainerVideo(
        path,
        height,
        width,
        tuple(timestamps),
        (unit.numerator, unit.denominator),
        keyframes=(),
        orientation=orientation,
    )
    if not ordered:
        return sequential
    keyframes = tuple(index for index, frame in enumerate(decoded) if frame.is_keyframe)
    seekable = dataclasses.replace(sequential, keyframes=keyframes or (0,))
    exact = _seeks_exactly(seekable, decoded)
    if exact and skips:
        # `_seeks_exactly` reads the last frame of each group on its own, which depends on all of
        # the group's reference pictures, except for the last group.
        exact = _are_equal(seekable, [seekable.num_frames - 1], decoded)
    return seekable if exact else sequential


def _seeks_exactly(video: ContainerVideo, decoded: list[Decoded]) -> bool:
    """Returns whether all frames of the verified groups equal sequential decoding."""
    ends = (*video.keyframes[1:], video.num_frames)
    for keyframe, end in _groups_to_verify(list(zip(video.keyframes, ends, strict=True))):
        # Includes the frame before each group, decoded from the previous group, and the next
        # keyframe, around which frames are reordered.
        for wanted in ([keyframe - 1], list(range(keyframe, min(end + 1, video.num_frames)))):
            if wanted[0] >= 0 and not _are_equal(video, wanted, decoded):
                return False
    return True


def _are_equal(video: ContainerVideo, wanted: list[int], decoded: list[Decoded]) -> bool:
    """Returns whether frames at ascending indices equal sequential decoding."""
    try:
        found = [checksum(frame) for frame in _frames(video, wanted)]
    except UnreadableVideoError:
        return False
    return found == [decoded[index].checksum for index in wanted]


def _groups_to_verify(groups: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns all groups; if many, the first, one of each length and an even selection."""
    if len(groups) <= _MAX_SEEKS_VERIFIED:
        return groups
    by_length = {end - start: (start, end) for start, end in reversed(groups)}
    spread = np.linspace(0, len(groups) - 1, _MAX_SEEKS_VERIFIED).round().astype(int)
    return sorted({*by_length.values(), *(groups[index] for index in spread)})


def _frames(video: ContainerVideo, wanted: list[int]) -> Iterator:
    """Yields PyAV's frames at ascending indices."""
    if not video.keyframes:
        yield from _sequential_frames(video.path, wanted)
        return
    times = video.timestamps
    # A demuxer may seek by decoding order and land after the frame: then try earlier keyframes.
    start, back = bisect.bisect_right(video.keyframes, wanted[0]) - 1, 1
    while True:
        with opened(video.path, probes=False) as (container, stream):
            aim = times[video.keyframes[start]]
            if start > 0:
                container.seek(aim, stream=stream)
            frames = _decoded_from(container, stream, times[wanted[0]])
            frame = next(frames, None)
            # Compares with the keyframe, not the requested frame, so that all frames of a group use
            # the verified seek.
            if start > 0 and (frame is None or frame.pts is None or frame.pts > aim):
                start, back = start - back, 2 * back
                continue
            for index in wanted:
                while frame is not None and frame.pts is not None and frame.pts < times[index]:
                    frame = next(frames, None)
                if frame is None or frame.pts != times[index]:
                    raise UnreadableVideoError(
                        video.path, f"has no frame {index} at {times[index]}: the file has changed"
                    )
                yield frame
            return


def _decoded_from(container, stream, first: int) -> Iterator:
    """Yields PyAV's frames from the container's position; may skip some before time `first`."""
    skips = _skips(stream)
    for packet in packets(container, stream):
        if skips:
            is_before = packet.pts is not None and packet.pts < first
            stream.codec_context.skip_frame = _SKIPPED if is_before else "DEFAULT"
        yield from packet.decode()


def _skips(stream) -> bool:
    """Returns whether a stream may have non-reference pictures, which can be skipped."""
    return stream.codec_context.name == "h264" and bool(stream.codec_context.has_b_frames)


def _sequential_frames(path: Path, wanted: list[int]) -> Iterator:
    """Yields PyAV's frames at ascending indices, decoding from the first frame."""
    with opened(path) as (container, stream):
        frames = enumerate(frames_of(container, stream))
        for index in wanted:
            for found, frame in frames:
                if found == index:
                    yield frame
                    break
            else:
                raise UnreadableVideoError(path, f"has no frame {index}: the file has changed")
