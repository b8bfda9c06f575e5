"""Videos in NumPy files: .npz with an array `video`, and .npy."""

import contextlib
import dataclasses
import math
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.formats.select import select_frames
from vdm.video.pixels import with_channels

SUFFIXES = (".npz", ".npy")
KEY = "video"

_LAYOUT = (
    "uint8 [n, frames, height, width, channels] or [frames, height, width, channels] with 1 or 3 "
    "channels is needed"
)
_CHUNK = 2**20

# Serialises header parsing: NumPy uses `ast`, whose recursion counter is shared by all threads, so
# that concurrent parsing raises a SystemError (CPython 3.11).
reading_arrays = threading.Lock()


class OtherArrayError(UnreadableVideoError):
    """An intact file whose arrays have another layout than videos.

    Attributes:
      path: path of the file.
      reason: the cause, as in `UnreadableVideoError`.
      max_axes: number of axes of the array with the most; videos have 4 or 5.
    """

    def __init__(self, path: Path, reason: str, max_axes: int):
        super().__init__(path, reason)
        self.max_axes = max_axes


class ArrayFile:
    """The videos of one file, which reads only the requested frames.

    A compressed .npz can only be read sequentially. It stays open, so that reading videos in order
    decompresses it once; reading backwards starts over.

    Attributes:
      path: path of the file.
      shape: (videos, frames, height, width, channels).

    Raises:
      OtherArrayError: the file has another layout.
      UnreadableVideoError: the file is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None
        self._member: IO[bytes] | None = None
        self._position = 0
        with self._as_unreadable():
            self._state = self._stored_state()
            self._header = _read_header(path)
        shape, dtype = self._header.shape, self._header.dtype
        if dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] not in (1, 3):
            raise OtherArrayError(path, f"holds {dtype} {shape}, and {_LAYOUT}", len(shape))
        if min(shape) < 1:
            raise UnreadableVideoError(path, f"holds no frames, its shape is {shape}")
        if self._header.fortran and not self._header.memory_mapped:
            raise UnreadableVideoError(
                path, "is compressed in Fortran order: save np.ascontiguousarray(video)"
            )
        self.shape = shape if len(shape) == 5 else (1, *shape)
        size = math.prod(self.shape[1:])
        if self._header.num_bytes < size * len(self):
            raise UnreadableVideoError(
                path, f"ends in video {self._header.num_bytes // size} of {len(self)}"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, video: int, frames: Sequence[int]) -> np.ndarray:
        """Reads frames at ascending indices of a video, uint8 [n, height, width, channels].

        Raises:
          UnreadableVideoError: the file is damaged, or has changed since it was opened.
        """
        with self._as_unreadable(), self._lock:
            if self._stored_state() != self._state:  # the data may begin elsewhere
                raise UnreadableVideoError(self.path, "has changed since it was opened")
            if not self._header.memory_mapped:
                return self._read_compressed(video, frames)
            order: Literal["F", "C"] = "F" if self._header.fortran else "C"
            shape = self._header.shape
            array = np.memmap(self.path, np.uint8, "r", self._header.start, shape, order)
            return np.array((array if len(shape) == 5 else array[None])[video, list(frames)])

    def _stored_state(self) -> tuple[int, int]:
        """Returns the size and the modification time of the file."""
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def _read_compressed(self, video: int, frames: Sequence[int]) -> np.ndarray:
        size = math.prod(self.shape[2:])
        out = np.empty((len(frames), *self.shape[2:]), np.uint8)
        for index, frame in enumerate(frames):
            member = self._seek(self._header.start + (video * self.shape[1] + frame) * size)
            data = member.read(size)
            self._position += len(data)
            if len(data) < size:
                raise UnreadableVideoError(
                    self.path, f"ends in video {video} of {len(self)}, at frame {frame}"
                )
            out[index] = np.frombuffer(data, np.uint8).reshape(self.shape[2:])
        return out

    def _close(self) -> None:
        if self._member is not None:
            self._member.close()
        if self._archive is not None:
            self._archive.close()
        self._member = self._archive = None

    def __del__(self):
        self._close()

    def _seek(self, position: int) -> IO[bytes]:
        if self._member is None or position < self._position:
            self._close()
            self._archive = zipfile.ZipFile(self.path)
            self._member = self._archive.open(f"{KEY}.npy")
            self._position = 0
        while self._position < position:
            skipped = len(self._member.read(min(_CHUNK, position - self._position)))
            if not skipped:
                break
            self._position += skipped
        return self._member

    @contextlib.contextmanager
    def _as_unreadable(self) -> Iterator[None]:
        try:
            yield
        except UnreadableVideoError:
            self._close()
            raise
        except Exception as error:  # NumPy, zipfile and zlib raise many types
            self._close()
            reason = f"cannot be read, it is damaged or of another type: {error}"
            raise UnreadableVideoError(self.path, reason) from error


@dataclasses.dataclass(frozen=True)
class ArrayVideo:
    """One video of an array file.

    Attributes:
      file: the array file.
      index: index of the video in the file.
    """

    file: ArrayFile
    index: int
    frame_rate = None
    times = None
    note = ""

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.file.shape[1]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.file.shape[2]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.file.shape[3]

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`."""
        return select_frames(self, indices, resolution, self._read)

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        yield from with_channels(self.file.read(self.index, wanted), 3)


class _Header(NamedTuple):
    """The layout of an array.

    Attributes:
      memory_mapped: whether the array can be memory-mapped.
      start: offset of the data, in the file if memory-mapped, otherwise in the decompressed member.
      num_bytes: number of bytes of data in the file.
      shape: shape of the array.
      dtype: dtype of the array.
      fortran: whether the array is in Fortran order.
    """

    memory_mapped: bool
    start: int
    num_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


def _read_header(path: Path) -> _Header:
    if path.suffix.lower() == ".npy":
        with path.open("rb") as opened:
            header = _npy_header(opened)
        return header._replace(memory_mapped=True, num_bytes=path.stat().st_size - header.start)
    with zipfile.ZipFile(path) as archive:
        if f"{KEY}.npy" not in archive.namelist():
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            reason = f"has the arrays {names}, and `{KEY}` is needed"
            raise OtherArrayError(path, reason, max(_axes_of_members(archive), default=0))
        member = archive.getinfo(f"{KEY}.npy")
        with archive.open(member) as file:
            header = _npy_header(file)
    header = header._replace(num_bytes=member.file_size - header.start)
    if member.compress_type != zipfile.ZIP_STORED:
        return header
    with path.open("rb") as opened:  # the member's local header may have another length
        opened.seek(member.header_offset + 26)
        name_and_extra = np.frombuffer(opened.read(4), "<u2").sum()
    start = member.header_offset + 30 + int(name_and_extra) + header.start
    return header._replace(memory_mapped=True, start=start)


def _axes_of_members(archive: zipfile.ZipFile) -> Iterator[int]:
    """Yields the number of axes of each array in an .npz file."""
    for name in archive.namelist():
        if name.endswith(".npy"):
            with archive.open(name) as file:
                yield len(_npy_header(file).shape)


def _npy_header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    with reading_arrays:
        shape, fortran, dtype = read(file)
    return _Header(False, file.tell(), 0, shape, dtype, fortran)
