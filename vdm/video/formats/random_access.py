"""Single frames of a container, by seeking where that was compared with sequential decoding.

Indexes of files are wrong, timestamps after a seek are guesses in MPEG program streams, and frames
may depend on what came before a keyframe. So a file is decoded twice when it is opened: once from
beginning to end, and once from its keyframes. Where the two differ, frames are counted from the
beginning, which is exact for every file, and slower.

On the way to a frame of H.264, non-reference pictures are not decoded: no other one is predicted
from them. This, too, is compared when a file is opened.
"""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.formats.containers import (
    Decoded,
    RgbConverter,
    check_complete,
    checksum,
    decode,
    opened,
    orientation_note,
    upright_size,
)

# Keyframes that are tried in a file, one of every distance to the next first: all keyframes of a
# file of keyframes alone would cost one opening of the file per frame.
_MAX_KEYFRAMES_TRIED = 32
# Groups of pictures in which skipping is tried, each to its last frame. Fewer: a decoder of H.264
# keeps no picture of nal_ref_idc 0, and so cannot predict from one; no standard says how to seek.
_MAX_SKIPS_TRIED = 2
_SKIPPED = "NONREF"  # of FFmpeg's kinds of frames to discard


@dataclasses.dataclass(frozen=True)
class ContainerVideo:
    """A container's default video stream.

    Attributes:
      path: the file.
      height: of an upright frame, in pixels.
      width: of an upright frame, in pixels.
      timestamps: of all frames in display order, in units of `time_base`; 0, 1, 2, ... where the
        file has none.
      time_base: seconds per unit as (numerator, denominator).
      keyframes: numbers of the frames that decoding may start from; empty where frames are counted
        from the beginning.
      note: '' or a sentence that a user should know.
    """

    path: Path
    height: int
    width: int
    timestamps: tuple[int, ...]
    time_base: tuple[int, int]
    keyframes: tuple[int, ...]
    note: str = ""

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

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, in any order, uint8 [n, height, width, 3].

        Raises:
          IndexError: a number out of range.
          UnreadableVideoError: the file has changed since it was opened, or is gone.
        """
        wanted = sorted({int(index) for index in indices})
        if wanted and (wanted[0] < 0 or wanted[-1] >= self.num_frames):
            raise IndexError(
                f"{self.path} has {self.num_frames} frames, and {list(indices)} are requested"
            )
        out = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        if not wanted:
            return out
        to_rgb, found = RgbConverter(), -1
        for found, frame in enumerate(_frames(self, wanted)):
            if upright_size(frame) != (self.height, self.width):
                raise UnreadableVideoError(self.path, "has changed since its frames were counted")
            out[found] = to_rgb(frame)
        if wanted == [*indices]:
            return out  # as it is: it may be most of what the memory can hold
        return out[np.searchsorted(wanted, np.asarray(indices, int))]


def open_container(path: Path) -> ContainerVideo:
    """Decodes a whole file, and its groups of pictures again from their keyframes.

    Raises:
      UnreadableVideoError: no video, damaged, truncated, or of changing size.
    """
    decoded, first = [], None
    with opened(path) as (container, stream):
        for frame in decode(path, container, stream):
            first = first or (upright_size(frame), orientation_note(frame))
            decoded.append(
                Decoded(frame.pts, frame.duration or 0, frame.key_frame, checksum(frame))
            )
        if first is None:
            raise UnreadableVideoError(path, "has no video frames")
        timestamps = [frame.timestamp for frame in decoded]
        ordered = None not in timestamps and bool((np.diff(timestamps) > 0).all())
        if ordered:
            check_complete(path, container, stream, decoded)
        unit = Fraction(stream.time_base)
        skips = _skips(stream)
        if not ordered:  # Numbers stand for times, at the announced rate.
            unit = 1 / Fraction(stream.average_rate or 25)
    (height, width), note = first
    counted = ContainerVideo(
        path,
        height,
        width,
        tuple(timestamps) if ordered else tuple(range(len(decoded))),
        (unit.numerator, unit.denominator),
        keyframes=(),
        note=note,
    )
    if not ordered:
        return counted
    keyframes = tuple(number for number, frame in enumerate(decoded) if frame.is_keyframe)
    sought = dataclasses.replace(counted, keyframes=keyframes or (0,))
    exact = _seeks_correctly(sought, decoded) and (not skips or _skips_correctly(sought, decoded))
    return sought if exact else counted


def _seeks_correctly(video: ContainerVideo, decoded: list[Decoded]) -> bool:
    """Whether all frames of the groups that are tried equal those of sequential decoding."""
    ends = (*video.keyframes[1:], video.num_frames)
    for keyframe, end in _groups_to_try(list(zip(video.keyframes, ends, strict=True))):
        # From each group also the frame before it, whose decoding starts in the group before, and
        # the next keyframe, around which frames are out of order.
        for wanted in ([keyframe - 1], list(range(keyframe, min(end + 1, video.num_frames)))):
            if wanted[0] >= 0 and not _are_equal(video, wanted, decoded):
                return False
    return True


def _skips_correctly(video: ContainerVideo, decoded: list[Decoded]) -> bool:
    """Whether the last frame of some groups is right, before which non-reference ones are skipped.

    It is predicted from the other reference pictures of its group, through one another.
    """
    ends = (*video.keyframes[1:], video.num_frames)
    spread = np.linspace(0, len(ends) - 1, min(len(ends), _MAX_SKIPS_TRIED)).round().astype(int)
    return all(_are_equal(video, [ends[index] - 1], decoded) for index in spread)


def _are_equal(video: ContainerVideo, wanted: list[int], decoded: list[Decoded]) -> bool:
    """Whether frames that are read singly equal those of sequential decoding."""
    try:
        found = [checksum(frame) for frame in _frames(video, wanted)]
    except UnreadableVideoError:
        return False
    return found == [decoded[number].checksum for number in wanted]


def _groups_to_try(groups: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """All groups but the first, or one of every length and others that are spread evenly.

    Decoding of the first group starts at the beginning anyway.
    """
    groups = groups[1:]
    if len(groups) <= _MAX_KEYFRAMES_TRIED:
        return groups
    of_length = {end - start: (start, end) for start, end in reversed(groups)}
    spread = np.linspace(0, len(groups) - 1, _MAX_KEYFRAMES_TRIED).round().astype(int)
    return sorted({*of_length.values(), *(groups[index] for index in spread)})


def _frames(video: ContainerVideo, wanted: list[int]) -> Iterator:
    """PyAV's frames of ascending numbers."""
    if not video.keyframes:
        yield from _counted(video.path, wanted)
        return
    times = video.timestamps
    # A demuxer may find a position by decoding order, which lies behind the frame: aim earlier.
    start, back = bisect.bisect_right(video.keyframes, wanted[0]) - 1, 1
    while True:
        with opened(video.path) as (container, stream):
            aim = times[video.keyframes[start]]
            if start > 0:
                container.seek(aim, stream=stream)
            frames = _decoded_from(container, stream, times[wanted[0]])
            frame = next(frames, None)
            # Compared with the keyframe, not with the frame that is wanted: so all frames of a
            # group are read by the very seek that was compared with sequential decoding.
            if start > 0 and (frame is None or frame.pts is None or frame.pts > aim):
                start, back = start - back, 2 * back
                continue
            for number in wanted:
                while frame is not None and frame.pts is not None and frame.pts < times[number]:
                    frame = next(frames, None)
                if frame is None or frame.pts != times[number]:
                    raise UnreadableVideoError(
                        video.path,
                        f"has no frame {number} where it was when its frames were counted",
                    )
                yield frame
            return


def _decoded_from(container, stream, first: int) -> Iterator:
    """PyAV's frames from the container's position on; before a time, some may be missing."""
    if not _skips(stream):
        yield from container.decode(stream)
        return
    for packet in container.demux(stream):
        is_before = packet.pts is not None and packet.pts < first
        stream.codec_context.skip_frame = _SKIPPED if is_before else "DEFAULT"
        yield from packet.decode()


def _skips(stream) -> bool:
    """Whether a stream may have non-reference pictures that need not be decoded."""
    return stream.codec_context.name == "h264" and bool(stream.codec_context.has_b_frames)


def _counted(path: Path, wanted: list[int]) -> Iterator:
    """PyAV's frames of ascending numbers, counted from the beginning."""
    with opened(path) as (container, stream):
        frames = enumerate(container.decode(stream))
        for number in wanted:
            for found, frame in frames:
                if found == number:
                    yield frame
                    break
            else:
                raise UnreadableVideoError(path, f"has no frame {number} any more")
