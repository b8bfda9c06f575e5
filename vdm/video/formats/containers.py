"""Decodes video containers in display order with PyAV.

Pixels equal those of `ffmpeg -pix_fmt rgb24`, because the same filter graph converts frames. For
8-bit progressive 4:2:0 with even sizes, PyAV's own conversion gives the same pixels and is used
instead. Frames are rotated and flipped by the file's display matrix.
"""

import contextlib
import functools
import itertools
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter

from vdm.video.errors import UnreadableVideoError
from vdm.video.formats.endings import ends_within_unit

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".mpg", ".mpeg", ".wmv", ".asf", ".flv"),
    *(".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".ogm", ".vob", ".qt", ".f4v", ".divx"),
    *(".mxf", ".dv", ".y4m", ".mpe", ".m1v", ".m2v", ".mjpeg", ".mjpg", ".ivf"),
    *(".h264", ".264", ".hevc", ".h265", ".265", ".m2t", ".nut"),
)

# A file is truncated if it lacks more than these seconds and this fraction of its duration:
# containers round durations, and only some include the last frame.
_TRUNCATED = (0.5, 0.05)
# PyAV 19 replaces bytes of metadata that are not UTF-8; earlier versions do if asked.
_LENIENT = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
# Identifies the object with the size of an ASF file, as of WMV videos.
_ASF_PROPERTIES = uuid.UUID("8cabdca1-a947-11cf-8ee4-00c00c205365").bytes_le


class Decoded(NamedTuple):
    """Metadata of one decoded frame.

    Attributes:
      timestamp: presentation time in units of the stream's time base, None if unknown.
      duration: duration in the same units, 0 if unknown.
      is_keyframe: whether decoding can start at this frame.
      checksum: CRC-32 of all decoded planes, with the palette.
    """

    timestamp: int | None
    duration: int
    is_keyframe: bool
    checksum: int


@contextlib.contextmanager
def opened(path: Path, *, probes: bool = True) -> Iterator[tuple]:
    """Yields PyAV's container of a file and its default video stream.

    Args:
      path: path of the file.
      probes: whether FFmpeg decodes some frames to find what the headers lack; default True. False
        opens a file two to ten times faster, but frames of unusual files may come in another order,
        which callers must verify.

    Raises:
      UnreadableVideoError: the file is empty or damaged, or has no video.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not path.stat().st_size:
                raise UnreadableVideoError(path, "is empty")
            container = stack.enter_context(_open(path, stack, probes))
        except (OSError, av.FFmpegError) as error:
            raise UnreadableVideoError(path, f"cannot be opened: {_message(error)}") from error
        stream = _default_stream(path, container)
        # Several files are decoded in parallel, so threads within one only add overhead.
        stream.codec_context.thread_count = 1
        try:
            yield container, stream
        except (OSError, av.FFmpegError) as error:
            raise UnreadableVideoError(path, f"cannot be decoded: {_message(error)}") from error


def packets(container, stream) -> Iterator:
    """Yields PyAV's packets of a stream, except empty ones, for which decoders raise errors.

    Theora has empty packets for repeated frames; like ffmpeg, we do not count them.
    """
    for packet in container.demux(stream):
        if packet.size or packet.dts is None:  # the last packet, without time, flushes decoding
            yield packet


def frames_of(container, stream) -> Iterator:
    """Yields PyAV's frames in display order from the container's position, without checks."""
    for packet in packets(container, stream):
        yield from packet.decode()


def decode(path: Path, container, stream) -> Iterator:
    """Yields PyAV's frames in display order from the container's position, and checks them.

    Raises:
      UnreadableVideoError: a frame is damaged, or differs in size or orientation from the first.
    """
    first = size = None
    whole = _whole_packets(path, container, stream)
    for index, frame in enumerate(frame for packet in whole for frame in packet.decode()):
        if frame.is_corrupt:
            raise UnreadableVideoError(path, f"is damaged at frame {index}")
        first = first or orientation_of(frame)
        # SEI messages of H.264 and HEVC have it in some frames only, and it holds for the next.
        if (_orientation(frame) or first) != first:
            raise UnreadableVideoError(path, f"changes its rotation or mirroring at frame {index}")
        size = size or upright_size(frame, first)
        if (found := upright_size(frame, first)) != size:
            raise UnreadableVideoError(
                path, f"changes from {size} to {found} pixels at frame {index}"
            )
        yield frame


def _whole_packets(path: Path, container, stream) -> Iterator:
    """Yields `packets`; raises UnreadableVideoError for one that the end of the file cuts off."""
    end, name = 0, container.format.name
    for packet in packets(container, stream):
        # MPEG transport streams also mark the packets after a gap, as between joined files.
        is_cut = packet.is_corrupt and name != "mpegts"
        if packet.size and packet.pos is not None:
            end = packet.pos + packet.size
        elif name == "yuv4mpegpipe":  # FFmpeg leaves out the last frame if it is not whole
            is_cut = end < path.stat().st_size
        if is_cut:
            raise UnreadableVideoError(path, "is truncated: it ends within a frame")
        yield packet
    if ends_within_unit(path, name):
        raise UnreadableVideoError(path, "is truncated: it ends within a packet")


def stream_frames(path: Path) -> Iterator[np.ndarray]:
    """Yields all frames of a file in display order, uint8 [height, width, 3].

    Raises:
      UnreadableVideoError: the file is damaged or has no video; or, after the last frame, it is
        truncated.
    """
    to_rgb = frame = None
    timestamps: list[int | None] = []
    with opened(path) as (container, stream):
        for frame in decode(path, container, stream):
            to_rgb = to_rgb or RgbConverter(orientation_of(frame))
            timestamps.append(frame.pts)
            yield to_rgb(frame)
        if frame is None:
            raise UnreadableVideoError(path, "has no video frames")
        if times := ascending(timestamps):
            check_complete(path, container, stream, times, frame.duration or 0)


def ascending(timestamps: list[int | None]) -> list[int]:
    """Returns the timestamps; an empty list if one is unknown, or if they do not ascend."""
    known = [timestamp for timestamp in timestamps if timestamp is not None]
    is_ascending = all(first < second for first, second in itertools.pairwise(known))
    return known if is_ascending and len(known) == len(timestamps) else []


def check_complete(path: Path, container, stream, times: list[int], last_duration: int) -> None:
    """Raises UnreadableVideoError if a file declares a longer duration than its frames have.

    Args:
      path: path of the file.
      container: PyAV's container.
      stream: PyAV's video stream.
      times: ascending timestamps of all frames, in units of the stream's time base.
      last_duration: duration of the last frame in the same units, 0 if unknown.
    """
    if container.format.name == "asf":  # FFmpeg ignores the duration of a truncated file
        size, found_size = _declared_asf_bytes(path), path.stat().st_size
        if found_size < (1 - _TRUNCATED[1]) * size:
            raise UnreadableVideoError(
                path, f"is truncated: it should have {size} bytes, and has {found_size} bytes"
            )
    declared, of_file = _declared_seconds(container, stream)
    last = last_duration or (times[-1] - times[-2] if times[1:] else 0)
    found = float((times[-1] - min(times[0], 0) + last) * stream.time_base)
    if of_file and _is_short(found, declared):
        found = max(found, _end_of_packets(path))  # includes audio, which may be longer
    if _is_short(found, declared):
        raise UnreadableVideoError(
            path, f"is truncated: it should have {declared:.1f} s, and has {found:.1f} s"
        )


def _declared_seconds(container, stream) -> tuple[float, bool]:
    """Returns the declared duration (0: unknown), and whether it may cover all streams."""
    with contextlib.suppress(KeyError, ValueError):  # some programs write other formats
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")  # Matroska's
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds), False
    if container.format.name == "avi" and stream.average_rate:
        # FFmpeg reduces the duration of a truncated AVI file, but not its number of frames.
        return float(stream.frames / stream.average_rate), False
    of_file = (container.duration or 0) / av.time_base
    if stream.duration is None:
        return (of_file if len(container.streams) == 1 else 0.0), False
    # FFmpeg sets unknown stream durations to the duration of the file.
    declared = float(stream.duration * stream.time_base)
    return declared, abs(declared - of_file) < _TRUNCATED[0]


def _declared_asf_bytes(path: Path) -> int:
    """Returns the size of an ASF file by its header, 0 if unknown."""
    with path.open("rb") as file:
        header = file.read(2**16)
    start = header.find(_ASF_PROPERTIES)
    # Fields of the object: the size at byte 40, and flags at 88, of which bit 0 is for broadcasts.
    if start < 0 or header[start + 88 : start + 89] not in (b"\0", b"\2"):
        return 0
    return int.from_bytes(header[start + 40 : start + 48], "little")


def _is_short(found: float, declared: float) -> bool:
    return declared - found > max(_TRUNCATED[0], _TRUNCATED[1] * declared)


def _end_of_packets(path: Path) -> float:
    """Returns the end of the last packet of all streams in seconds."""
    with opened(path) as (container, _):
        packets = (packet for packet in container.demux() if packet.pts is not None)
        ends = (float((p.pts + (p.duration or 0)) * p.time_base) for p in packets)
        return max(ends, default=0.0)


class Orientation(NamedTuple):
    """Operations that make a stored frame upright: transpose, then flip rows and columns.

    Attributes:
      transposed: whether to transpose rows and columns.
      flipped_rows: whether to flip top and bottom.
      flipped_columns: whether to flip left and right.
      degrees: a rotation that is not applied because it is not a multiple of 90 degrees; else 0.
    """

    transposed: bool = False
    flipped_rows: bool = False
    flipped_columns: bool = False
    degrees: int = 0


UPRIGHT = Orientation()


class RgbConverter:
    """Converts PyAV's frames of one video to upright uint8 [height, width, 3]."""

    def __init__(self, orientation: Orientation):
        self._orientation = orientation
        self._graph: Any = None
        self._layout: tuple[str, int, int] | None = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame) -> np.ndarray:
        rgb = self._rgb(frame)
        transposed, flipped_rows, flipped_columns, _ = self._orientation
        if transposed:
            rgb = rgb.swapaxes(0, 1)
        return rgb[:: -1 if flipped_rows else 1, :: -1 if flipped_columns else 1]

    def _rgb(self, frame) -> np.ndarray:
        # PyAV's own conversion blocks other threads for less time than a graph. Its pixels are the
        # same here: with even sizes, no chroma is interpolated.
        is_even = frame.height % 2 == frame.width % 2 == 0
        if frame.format.name == "yuv420p" and is_even and not frame.interlaced_frame:
            return self._reformatter.reformat(
                frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
            ).to_ndarray()
        layout = (frame.format.name, frame.width, frame.height)
        if layout != self._layout:
            self._graph, self._layout = _rgb_graph(frame), layout
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()


def orientation_of(frame) -> Orientation:
    """Returns the orientation of the first frame of a video, which holds for all its frames."""
    return _orientation(frame) or UPRIGHT


def upright_size(frame, orientation: Orientation) -> tuple[int, int]:
    """Returns (height, width) of a frame after rotation."""
    size = (frame.height, frame.width)
    return size[::-1] if orientation.transposed else size


def orientation_note(orientation: Orientation) -> str:
    """Returns a note if a rotation is not a multiple of 90 degrees, otherwise ''."""
    degrees = orientation.degrees
    return f"is rotated by {degrees} degrees, and is read as stored" if degrees else ""


def checksum(frame) -> int:
    """Returns the CRC-32 of all decoded planes of a frame; a palette is a plane."""
    total = 0
    for plane in frame.planes:
        total = zlib.crc32(_rows(plane), total)
    return total


def _orientation(frame) -> Orientation | None:
    """Returns the orientation that a frame states, None if it states none."""
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return None
    # The matrix rows are the displayed directions of the stored frame's x and y axes.
    x_step, y_step = np.frombuffer(data, np.int32, 9).reshape(3, 3)[:2, :2] / 2**16
    length = max(np.hypot(*x_step), np.hypot(*y_step)) or 1.0
    # Like FFmpeg, round angles within a degree of a multiple of 90.
    x_near, y_near = np.abs([x_step, y_step]) < np.sin(np.deg2rad(1)) * length
    if x_near[1] and y_near[0]:
        return Orientation(False, bool(y_step[1] < 0), bool(x_step[0] < 0))
    if x_near[0] and y_near[1]:
        return Orientation(True, bool(x_step[1] < 0), bool(y_step[0] < 0))
    return Orientation(degrees=round(np.rad2deg(np.arctan2(-x_step[1], x_step[0]))))


def _rgb_graph(frame):
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    to_rgb, sink = graph.add("format", "rgb24"), graph.add("buffersink")
    source.link_to(to_rgb)
    to_rgb.link_to(sink)
    graph.configure()
    return graph


def _rows(plane) -> bytes:
    stored = np.frombuffer(plane, np.uint8)
    stride = abs(plane.line_size)
    if stride == 0 or len(stored) % stride:
        return stored.tobytes()
    return stored.reshape(-1, stride)[: plane.height].tobytes()


def _open(path: Path, stack: contextlib.ExitStack, probes: bool):
    # This option is for the probing decoder only.
    options = {} if probes else {"skip_frame": "all"}
    open_file = functools.partial(av.open, options=options, **_LENIENT)
    try:
        # With an explicit protocol, FFmpeg does not take '12:' in '12:30.mp4' for one.
        return open_file(f"file:{path}")
    except UnicodeEncodeError:  # the name is not UTF-8
        return open_file(stack.enter_context(path.open("rb")))


def _default_stream(path: Path, container):
    """Returns the video stream that the ffmpeg command selects: the default, else the largest."""
    # FFmpeg reports cover art as a video stream.
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        raise UnreadableVideoError(path, f"has no video, but {' and '.join(kinds) or 'nothing'}")
    streams = [stream for stream in streams if stream.codec_context]
    if not streams:
        raise UnreadableVideoError(path, "has video of a codec that FFmpeg does not decode")
    default = av.stream.Disposition.default
    return max(streams, key=lambda s: (bool(s.disposition & default), s.width * s.height))


def _message(error: Exception) -> str:
    """Returns the message of FFmpeg or the system, without the file name."""
    return getattr(error, "strerror", None) or str(error)
