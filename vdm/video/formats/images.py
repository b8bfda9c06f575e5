"""Still images, folders of them, and animated GIF, PNG and WebP files, by Pillow."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vdm.video.errors import UnreadableVideoError

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
GIF = ".gif"

_FORMATS = ("GIF", "PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MAY_BE_ANIMATED = (GIF, ".png", ".apng", ".webp")
# Browsers show a picture whose delay is 10 ms or less for 100 ms.
_SHORTEST_DELAY, _BROWSERS_DELAY = 10, 100
_MAX_REPEATS = 1000  # of one picture: a GIF may ask for 65,535 delays


@dataclasses.dataclass(frozen=True)
class AnimatedImage:
    """A GIF, or an animated PNG or WebP file, or a still image as a video of one frame.

    Attributes:
      path: the file.
      height: in pixels.
      width: in pixels.
      pictures: the number of the stored picture that each frame shows: a picture is repeated for
        each time that the shortest delay in the file fits into its own, rounded.
      delays: how long each stored picture is shown, in milliseconds, none of a still image.
      note: '' or a sentence that a user should know.
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
        """Mean frames per second, None of a still image."""
        return 1000 * self.num_frames / sum(self.delays) if self.delays else None

    @property
    def times(self) -> np.ndarray | None:
        """Presentation times in seconds, float64 [num_frames], None of a still image.

        A picture's first frame is shown when the file says; its repeats divide its delay evenly.
        """
        if not self.delays:
            return None
        repeats = np.bincount(np.asarray(self.pictures) - self.pictures[0])
        ends = np.cumsum(np.repeat(np.asarray(self.delays) / repeats, repeats))
        return np.concatenate([[0.0], ends[:-1]]) / 1000

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, in any order, uint8 [n, height, width, 3].

        Raises:
          IndexError: a number out of range.
          UnreadableVideoError: the file is damaged or has changed since it was opened.
        """
        wanted = [self.pictures[_in_range(self, index)] for index in indices]
        stored = sorted(set(wanted))
        out = np.empty((len(stored), self.height, self.width, 3), np.uint8)
        with _opened(self.path) as picture:
            # Each is drawn over the one before.
            for number in range(stored[-1] + 1 if stored else 0):
                if not _seek(picture, self.path, number):
                    raise UnreadableVideoError(self.path, f"has no picture {number} any more")
                if number in stored:
                    pixels = _pixels(picture, self.path, f"picture {number}: ")
                    if pixels.shape[:2] != (self.height, self.width):
                        raise UnreadableVideoError(self.path, "has changed its size")
                    out[stored.index(number)] = pixels
        return out[np.searchsorted(stored, np.asarray(wanted, int))]


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images in a folder as the frames of one video, in natural order of their names.

    Attributes:
      path: the folder.
      height: of each image, in pixels.
      width: of each image, in pixels.
      names: of the images.
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

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, in any order, uint8 [n, height, width, 3].

        Raises:
          IndexError: a number out of range.
          UnreadableVideoError: an image is damaged, gone, or of another size.
        """
        images = [read_image(self.path / self.names[_in_range(self, i)]) for i in indices]
        for index, image in zip(indices, images, strict=True):
            _check_size(self.path, self.names[index], image, (self.height, self.width))
        empty = np.empty((0, self.height, self.width, 3), np.uint8)
        return np.stack(images) if images else empty


def open_animated(path: Path) -> AnimatedImage:
    """Reads the delays and all pictures of an image file.

    Raises:
      UnreadableVideoError: the file is damaged, of another type, or has over 8 bits a channel.
    """
    delays, size = [], None
    with _opened(path) as picture:
        # The default image of a PNG is for programs that cannot show the animation.
        first = int(bool(picture.info.get("default_image")))
        while _seek(picture, path, first + len(delays)):
            size = _pixels(picture, path, f"picture {first + len(delays)}: ").shape[:2]
            # Of WebP files Pillow knows the delay when the pixels are decoded.
            delays.append(float(picture.info.get("duration") or 0))
            if not _has_pages(picture, path):
                break
    animated = [_BROWSERS_DELAY if delay <= _SHORTEST_DELAY else delay for delay in delays]
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
    return AnimatedImage(
        path, *size, tuple(pictures), tuple(animated) if len(delays) > 1 else (), note
    )


def open_image_folder(path: Path) -> ImageFolder:
    """Reads all images of a folder.

    Raises:
      UnreadableVideoError: there is none, or one is damaged, animated or of another size.
    """
    names = image_names(path)
    if not names:
        raise UnreadableVideoError(path, "has no images")
    size = None
    for name in names:
        image = read_image(path / name)
        size = size or image.shape[:2]
        _check_size(path, name, image, size)
    return ImageFolder(path, *size, tuple(names))


def image_names(folder: Path) -> list[str]:
    """The names of the images directly in a folder, in natural order, hidden files left out."""
    names = [entry.name for entry in folder.iterdir() if is_image(entry)]
    return sorted((name for name in names if not name.startswith(".")), key=natural_order)


def is_image(path: Path) -> bool:
    """Whether a path is a file whose name ends as an image's."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def is_animated(path: Path) -> bool:
    """Whether an image file has several pictures; its header alone is read."""
    if path.suffix.lower() not in _MAY_BE_ANIMATED:
        return False
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return getattr(picture, "is_animated", False)
    except Exception:  # A damaged file is named where it is read.
        return False


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A sorting key that puts frame_10 after frame_9."""
    # Text and numbers alternate, text first, so that like is compared with like.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def read_image(path: Path) -> np.ndarray:
    """A still image upright (EXIF orientation applied), uint8 [height, width, 3].

    Raises:
      UnreadableVideoError: the file is damaged, animated, or has over 8 bits a channel.
    """
    with _opened(path) as picture:
        if _has_pages(picture, path):
            raise UnreadableVideoError(
                path, f"has {picture.n_frames} pictures, and one frame is needed"
            )
        return _pixels(picture, path, "")


def decode_image(encoded: bytes, name: str) -> np.ndarray:
    """An encoded PNG or JPEG as uint8 [height, width, 1 or 3]: grey stays grey.

    Raises:
      ValueError: it is damaged; `name` says which it is.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as picture:
            if picture.mode == "L":
                return np.asarray(picture)[..., None]
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{name} is damaged: {error}") from error


def encode_image(pixels: np.ndarray, encoding: str) -> bytes:
    """A picture uint8 [height, width, 3] as 'png', which is exact, or as 'jpeg' of high quality."""
    out = io.BytesIO()
    quality = {"quality": 95, "subsampling": 0} if encoding == "jpeg" else {}
    Image.fromarray(pixels).save(out, encoding, **quality)
    return out.getvalue()


def _pixels(picture: Image.Image, path: Path, where: str) -> np.ndarray:
    """The picture that a file is at, uint8 [height, width, 3]; what is transparent is black."""
    # Pillow clips 16 bits of grey to 255 instead of scaling, and drops 8 of 16 bits of colour.
    stored = {str(tile.args) for tile in picture.tile}
    if picture.mode.startswith(("I", "F")) or any(";16" in args for args in stored):
        kind = f"{picture.mode}, 16 bits" if picture.mode == "RGB" else picture.mode
        raise UnreadableVideoError(
            path, f"{where}has pixels of Pillow's mode {kind}, and 8 bits a channel are needed"
        )
    with _blamed_on(path):
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            black = Image.new("RGBA", upright.size, "black")
            upright = Image.alpha_composite(black, upright.convert("RGBA"))
        return np.asarray(upright.convert("RGB"))


def _has_pages(picture: Image.Image, path: Path) -> bool:
    """Whether a file holds several pictures; those beside a photograph (MPO) do not count."""
    with _blamed_on(path):  # Pillow parses all of a GIF to count its pictures.
        return getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO"


def _check_size(folder: Path, name: str, image: np.ndarray, size: tuple[int, int]) -> None:
    if image.shape[:2] != size:
        raise UnreadableVideoError(
            folder,
            f"has images of different sizes: {name} is {image.shape[0]} x {image.shape[1]} pixels "
            f"(height x width), and the first is {size[0]} x {size[1]}",
        )


def _in_range(video: AnimatedImage | ImageFolder, index: int) -> int:
    if not 0 <= index < video.num_frames:
        raise IndexError(f"{video.path} has {video.num_frames} frames, and {index} is requested")
    return int(index)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _blamed_on(path):
        picture = Image.open(path, formats=_FORMATS)
    with picture:
        yield picture


def _seek(picture: Image.Image, path: Path, number: int) -> bool:
    """Goes to a picture; False after the last one."""
    with _blamed_on(path):
        try:
            picture.seek(number)
        except EOFError:
            return False
        return True


@contextlib.contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Turns any exception into an UnreadableVideoError, as Pillow raises a dozen types."""
    try:
        yield
    except UnreadableVideoError:
        raise
    except Exception as error:
        reason = f"cannot be read, it is damaged or of another type: {error}"
        raise UnreadableVideoError(path, reason) from error
