"""Reads still images, folders of images, and animated GIF, PNG, WebP and AVIF files with Pillow."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, features

from vdm.video.errors import UnreadableVideoError
from vdm.video.formats.select import select_frames

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".avif"),
)
GIF = ".gif"

# Pillow reads AVIF from 11.3 on, where it is built with libavif.
_AVIF = ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
_FORMATS = ("GIF", "PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", *_AVIF)
_MAY_BE_ANIMATED = (GIF, ".png", ".apng", ".webp", ".avif")
# Browsers show pictures with a delay of at most 10 ms for 100 ms.
_MAX_IGNORED_DELAY, _BROWSER_DELAY = 10, 100
_MAX_REPEATS = 1000  # per picture; a GIF could require 65,535


@dataclasses.dataclass(frozen=True)
class AnimatedImage:
    """An animated GIF, PNG, WebP or AVIF file, or a still image as a video of one frame.

    Attributes:
      path: path of the file.
      height: height in pixels.
      width: width in pixels.
      pictures: index of the stored picture that each frame shows. A picture is repeated as often as
        the file's shortest delay fits into its own delay, rounded.
      delays: duration of each stored picture in milliseconds, empty for a still image.
      note: a predicate of the path that users should know, or ''.
    """

    path: Path
    height: int
    width: int
    pictures: tuple[int, ...]
    delays: tuple[float, ...]
    note: str = ""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.pictures)

    @property
    def frame_rate(self) -> float | None:
        """Mean frames per second, None for a still image."""
        return 1000 * self.num_frames / sum(self.delays) if self.delays else None

    @property
    def times(self) -> np.ndarray | None:
        """Presentation times in seconds, float64 [num_frames], None for a still image.

        The repeats of a picture divide its delay evenly.
        """
        if not self.delays:
            return None
        repeats = np.bincount(np.asarray(self.pictures) - self.pictures[0])
        ends = np.cumsum(np.repeat(np.asarray(self.delays) / repeats, repeats))
        return np.concatenate([[0.0], ends[:-1]]) / 1000

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`."""
        return select_frames(self, indices, resolution, self._read)

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        frames = iter(wanted)
        frame = next(frames, None)
        with _opened(self.path) as picture:
            # Pictures are drawn over each other, so all earlier ones must be decoded.
            for number in range(self.pictures[wanted[-1]] + 1):
                if not _seek(picture, self.path, number):
                    raise UnreadableVideoError(
                        self.path, f"has changed: it has no picture {number}"
                    )
                if frame is None or self.pictures[frame] != number:
                    continue
                pixels = _pixels(picture, self.path, f"picture {number}: ")
                if pixels.shape[:2] != (self.height, self.width):
                    raise UnreadableVideoError(self.path, "has changed its size")
                while frame is not None and self.pictures[frame] == number:
                    yield pixels
                    frame = next(frames, None)


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images of a folder as the frames of one video, in natural order of their names.

    Attributes:
      path: path of the folder.
      height: height of all images in pixels.
      width: width of all images in pixels.
      names: file names of the images.
    """

    path: Path
    height: int
    width: int
    names: tuple[str, ...]
    frame_rate = None
    times = None
    note = ""

    @property
    def num_frames(self) -> int:
        """Number of images."""
        return len(self.names)

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`."""
        return select_frames(self, indices, resolution, self._read)

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        for index in wanted:
            image = read_image(self.path / self.names[index])
            _check_size(self.path, self.names[index], image, (self.height, self.width))
            yield image


def open_animated(path: Path) -> AnimatedImage:
    """Opens an image file, and decodes all its pictures once.

    Raises:
      UnreadableVideoError: the file is damaged, of another type, or has over 8 bits per channel.
    """
    delays: list[float] = []
    height = width = 0
    with _opened(path) as picture:
        # The default image of an animated PNG is not a frame of the animation.
        first = int(bool(picture.info.get("default_image")))
        while _seek(picture, path, first + len(delays)):
            height, width, _ = _pixels(picture, path, f"picture {first + len(delays)}: ").shape
            # Pillow sets the delay of a WebP picture only when it decodes the pixels.
            delays.append(float(picture.info.get("duration") or 0))
            if _num_pictures(picture, path) == 1:
                break
    animated = [_BROWSER_DELAY if delay <= _MAX_IGNORED_DELAY else delay for delay in delays]
    repeats = [max(1, round(delay / min(animated))) for delay in animated]
    note = ""
    if max(repeats) > _MAX_REPEATS:
        number = int(np.argmax(repeats))
        note = (
            f"shows picture {first + number} for {animated[number] / 1000:.1f} s, of which "
            f"{_MAX_REPEATS} frames are kept"
        )
        repeats = [min(count, _MAX_REPEATS) for count in repeats]
    pictures = np.repeat(np.arange(first, first + len(repeats)), repeats).tolist()
    shown = tuple(animated) if len(delays) > 1 else ()
    return AnimatedImage(path, height, width, tuple(pictures), shown, note)


def open_image_folder(path: Path) -> ImageFolder:
    """Opens a folder of images, and decodes all of them once.

    Raises:
      UnreadableVideoError: there are no images, or one is damaged, animated or differs in size.
    """
    names = image_names(path)
    if not names:
        raise UnreadableVideoError(path, "has no images")
    height, width, _ = read_image(path / names[0]).shape
    for name in names[1:]:
        _check_size(path, name, read_image(path / name), (height, width))
    return ImageFolder(path, height, width, tuple(names))


def image_names(folder: Path) -> list[str]:
    """Returns the names of a folder's images in natural order, without hidden files."""
    names = [entry.name for entry in folder.iterdir() if is_image(entry)]
    return sorted((name for name in names if not name.startswith(".")), key=natural_order)


def is_image(path: Path) -> bool:
    """Returns whether a path is a file with an image suffix."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def is_animated(path: Path) -> bool:
    """Whether an image file has several pictures; reads only its header."""
    if path.suffix.lower() not in _MAY_BE_ANIMATED:
        return False
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return getattr(picture, "is_animated", False)
    except Exception:  # the reader will raise the error of a damaged file
        return _is_animated_webp(path)


def _is_animated_webp(path: Path) -> bool:
    """Returns whether a (possibly damaged) WebP file has the animation flag in its header."""
    try:
        with path.open("rb") as file:
            header = file.read(21)
    except OSError:
        return False
    return header[8:16] == b"WEBPVP8X" and bool(header[20:] and header[20] & 2)


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorting key that puts frame_10 after frame_9."""
    # Text and numbers alternate, text first, so that equal positions have equal types.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def read_image(path: Path) -> np.ndarray:
    """Reads a still image, uint8 [height, width, 3], with its EXIF orientation applied.

    Raises:
      UnreadableVideoError: the file is damaged, animated, or has over 8 bits per channel.
    """
    with _opened(path) as picture:
        if (count := _num_pictures(picture, path)) > 1:
            raise UnreadableVideoError(path, f"has {count} pictures, and one frame is needed")
        return _pixels(picture, path, "")


def decode_image(encoded: bytes, name: str) -> np.ndarray:
    """Decodes a PNG or JPEG to uint8 [height, width, 3], or [height, width, 1] for greyscale.

    Args:
      encoded: the bytes of the file.
      name: name of the image in error messages.

    Raises:
      ValueError: the image is damaged.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as picture:
            if picture.mode == "L":
                return np.asarray(picture)[..., None]
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # Pillow raises a dozen types
        raise ValueError(f"{name} is damaged: {error}") from error


def encode_image(pixels: np.ndarray, encoding: str) -> bytes:
    """Encodes uint8 [height, width, 3] as 'png' (lossless) or as 'jpeg' (quality 95)."""
    out = io.BytesIO()
    quality = {"quality": 95, "subsampling": 0} if encoding == "jpeg" else {}
    Image.fromarray(pixels).save(out, encoding, **quality)
    return out.getvalue()


def _pixels(picture: ImageFile.ImageFile, path: Path, where: str) -> np.ndarray:
    """Returns the current picture of a file on black, uint8 [height, width, 3]."""
    # Pillow clips 16-bit grey to 255 instead of scaling it, and truncates 16-bit colour.
    # BGR;16, a bitmap mode, has 16 bits per pixel.
    stored = " ".join(str(tile.args) for tile in picture.tile).replace("BGR;16", "")
    if picture.mode.startswith(("I", "F")) or ";16" in stored:
        kind = picture.mode if picture.mode.startswith(("I", "F")) else f"{picture.mode}, 16 bits"
        raise UnreadableVideoError(
            path, f"{where}has pixels of Pillow's mode {kind}, and 8 bits a channel are needed"
        )
    with _as_unreadable(path):
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            black = Image.new("RGBA", upright.size, "black")
            upright = Image.alpha_composite(black, upright.convert("RGBA"))
        return np.asarray(upright.convert("RGB"))


def _num_pictures(picture: ImageFile.ImageFile, path: Path) -> int:
    """Returns the number of pictures in a file; 1 for a photograph with previews (MPO)."""
    with _as_unreadable(path):  # Pillow parses a whole GIF to count its pictures
        count = getattr(picture, "n_frames", 1)
        return 1 if picture.format == "MPO" else count


def _check_size(folder: Path, name: str, image: np.ndarray, size: tuple[int, int]) -> None:
    if image.shape[:2] != size:
        raise UnreadableVideoError(
            folder,
            f"has images of different sizes: {name} is {image.shape[0]} x {image.shape[1]} pixels "
            f"(height x width), and the first is {size[0]} x {size[1]}",
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    with _as_unreadable(path):
        picture = Image.open(path, formats=_FORMATS)
    with picture:
        yield picture


def _seek(picture: ImageFile.ImageFile, path: Path, number: int) -> bool:
    """Seeks to a picture; returns False after the last one."""
    with _as_unreadable(path):
        try:
            picture.seek(number)
        except EOFError:
            return False
        return True


@contextlib.contextmanager
def _as_unreadable(path: Path) -> Iterator[None]:
    """Converts any exception to UnreadableVideoError, because Pillow raises a dozen types."""
    try:
        yield
    except UnreadableVideoError:
        raise
    except Exception as error:
        reason = f"cannot be read, it is damaged or of another type: {error}"
        raise UnreadableVideoError(path, reason) from error
