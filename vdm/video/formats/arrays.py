"""Videos in NumPy's files: .npz with an array `video`, and .npy."""

import contextlib
import dataclasses
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.pixels import with_channels

SUFFIXES = (".npz", ".npy")
KEY = "video"

_LAYOUT = (
    "uint8 [n, frames, height, width, channels] or [frames, height, width, channels] with 1 or 3 "
    "channels is needed"
)
_CHUNK = 2**20


class ArrayFile:
    """The videos of one file, of which those frames are read that are asked for.

    A compressed .npz can be read forwards alone: it stays open, so that reading one video after
    the other decompresses it once, and reading backwards starts again.

    Attributes:
      path: the file.
      shape: (videos, frames, height, width, channels).

    Raises:
      UnreadableVideoError: the file is damaged, or has another layout.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None
        self._member: BinaryIO | None = None
        self._position = 0
        with self._blamed():
            header = _read_header(path)
        self._memory_mapped, self._start, available, shape, dtype, self._fortran = header
        if dtype != np.uint8 or len(shape) not in (4, 5) or shape[-1] not in (1, 3):
            raise UnreadableVideoError(path, f"holds {dtype} {shape}, and {_LAYOUT}")
        if 0 in shape:
            raise UnreadableVideoError(path, f"holds no frames, its shape is {shape}")
        if self._fortran and not self._memory_mapped:
            raise UnreadableVideoError(
                path, "is compressed in Fortran order: save np.ascontiguousarray(video)"
            )
        self._stored_shape = shape
        self.shape = shape if len(shape) == 5 else (1, *shape)
        bytes_each = int(np.prod(self.shape[1:]))
        if available < bytes_each * len(self):
            raise UnreadableVideoError(
                path, f"ends in video {available // bytes_each} of {len(self)}"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, video: int, frames: Sequence[int]) -> np.ndarray:
        """Frames of a video, uint8 [n, height, width, channels]."""
        with self._blamed(), self._lock:
            if self._memory_mapped:
                order = "F" if self._fortran else "C"
                shape = self._stored_shape
                array = np.memmap(self.path, np.uint8, "r", self._start, shape, order)
                return np.array((array if len(shape) == 5 else array[None])[video, list(frames)])
            return self._read_compressed(video, frames)

    def _read_compressed(self, video: int, frames: Sequence[int]) -> np.ndarray:
        size = int(np.prod(self.shape[2:]))
        wanted = sorted(set(frames))
        out = np.empty((len(wanted), *self.shape[2:]), np.uint8)
        for index, frame in enumerate(wanted):
            self._go_to(self._start + (video * self.shape[1] + frame) * size)
            data = self._member.read(size)
            self._position += len(data)
            if len(data) < size:
                raise UnreadableVideoError(
                    self.path, f"ends in video {video} of {len(self)}, at frame {frame}"
                )
            out[index] = np.frombuffer(data, np.uint8).reshape(self.shape[2:])
        return out[np.searchsorted(wanted, np.asarray(frames, int))]

    def _close(self) -> None:
        for opened in filter(None, (self._member, self._archive)):
            opened.close()
        self._member = self._archive = None

    def __del__(self):
        self._close()

    def _go_to(self, position: int) -> None:
        if self._member is None or position < self._position:
            self._close()
            self._archive = zipfile.ZipFile(self.path)
            self._member = self._archive.open(f"{KEY}.npy")
            self._position = 0
        while self._position < position:
            skipped = len(self._member.read(min(_CHUNK, position - self._position)))
            if not skipped:
                return
            self._position += skipped

    @contextlib.contextmanager
    def _blamed(self):
        try:
            yield
        except UnreadableVideoError:
            self._close()
            raise
        except Exception as error:  # NumPy, zipfile and zlib raise many types.
            self._close()
            reason = f"cannot be read, it is damaged or of another type: {error}"
            raise UnreadableVideoError(self.path, reason) from error


@dataclasses.dataclass(frozen=True)
class ArrayVideo:
    """One video of an array file.

    Attributes:
      file: the file.
      index: of the video in it.
    """

    file: ArrayFile
    index: int
    frame_rate = None
    times = None
    note = ""

    @property
    def path(self) -> Path:
        """The file's path."""
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

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, in any order, uint8 [n, height, width, 3].

        Raises:
          IndexError: a number out of range.
          UnreadableVideoError: the file is damaged.
        """
        wanted = [int(index) for index in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(
                f"{self.path} has {self.num_frames} frames, and {wanted} are requested"
            )
        if not wanted:
            return np.empty((0, self.height, self.width, 3), np.uint8)
        return with_channels(self.file.read(self.index, wanted), 3)


def _read_header(path: Path) -> tuple[bool, int, int, tuple[int, ...], np.dtype, bool]:
    """Whether data can be memory-mapped, its start and bytes, shape, dtype, and Fortran order.

    It starts in the file if it can be memory-mapped, else in the decompressed member.
    """
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            start, *rest = _npy_header(file)
        return True, start, path.stat().st_size - start, *rest
    with zipfile.ZipFile(path) as archive:
        if f"{KEY}.npy" not in archive.namelist():
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            raise UnreadableVideoError(path, f"has the arrays {names}, and `{KEY}` is needed")
        member = archive.getinfo(f"{KEY}.npy")
        with archive.open(member) as file:
            start, *rest = _npy_header(file)
    if member.compress_type != zipfile.ZIP_STORED:
        return False, start, member.file_size - start, *rest
    with path.open("rb") as file:  # The member's own header has its own length.
        file.seek(member.header_offset + 26)
        name_and_extra = np.frombuffer(file.read(4), "<u2").sum()
    mapped = member.header_offset + 30 + int(name_and_extra) + start
    return True, mapped, member.file_size - start, *rest


def _npy_header(file: BinaryIO) -> tuple[int, tuple[int, ...], np.dtype, bool]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    return file.tell(), shape, dtype, fortran
