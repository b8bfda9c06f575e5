"""Videos that are pictures: GIF files, and folders with a file for each frame, through Pillow."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = {1: "L", 3: "RGB"}  # Pillow's name for 8 bits a channel, by the number of channels

_IMAGE_FORMATS = ("PNG", "JPEG")


def entries_of(folder: Path) -> list[Path]:
    """What is in a folder, hidden entries aside, in natural order of names, or ValueError."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if not entries:
        raise ValueError(f"{folder} is empty, and videos or the frames of one are needed")
    return sorted(entries, key=natural_order)


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A key to sort by, with which frame_10 comes after frame_9."""
    # Text and numbers alternate, text first, so that like is compared with like.
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def is_image(path: Path) -> bool:
    """Whether a path has the name of an image, and is no folder."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def gif_order(path: Path, most: int | None = None) -> list[int]:
    """The numbers of the pictures of a GIF in the order of its frames.

    A GIF has a frame for each time the shortest duration in it fits into a duration, rounded, since
    `vdm.data.media.gif_bytes` stores a repeated frame as a longer duration of it.

    Args:
      path: the file.
      most: times that one picture is repeated; a file can ask for 65535.

    Raises:
      ValueError: the file is damaged or no GIF.
    """
    durations = []
    with open_picture(path, ("GIF",)) as picture:
        while _go_to(picture, path, len(durations)):
            durations.append(picture.info.get("duration", 0))
    # A duration of 0 is in many GIFs, and leaves the speed to the viewer.
    shortest = min(filter(None, durations), default=1)
    counts = [max(1, round(duration / shortest)) for duration in durations]
    counts = counts if most is None else [min(count, most) for count in counts]
    return np.repeat(np.arange(len(counts)), counts).tolist()


def read_gif(path: Path, pictures: Sequence[int], channels: int) -> np.ndarray:
    """Pictures of a GIF by their ascending numbers, uint8 [n, height, width, channels].

    Raises:
      ValueError: the file is damaged, or has no such picture any more.
    """
    read = {}
    with open_picture(path, ("GIF",)) as file:
        # Each is drawn over the one before.
        for number in range(max(pictures) + 1):
            if not _go_to(file, path, number):
                raise ValueError(f"{path} has no picture {number} any more")
            if number in pictures:
                read[number] = pixels_of(file, f"frame {number} of {path}", path, channels)
    return np.stack([read[number] for number in pictures])


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image file as uint8 [height, width, channels].

    Raises:
      ValueError: the file is damaged or of another type, or has more than 8 bits a channel.
    """
    with open_picture(path, _IMAGE_FORMATS) as picture:
        return pixels_of(picture, str(path), path, channels)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file or a GIF, whose header alone is read.

    Raises:
      ValueError: the file is damaged or of another type.
    """
    with open_picture(path, (*_IMAGE_FORMATS, "GIF")) as picture:
        return picture.height, picture.width


def pixels_of(picture: Image.Image, name: str, path: Path, channels: int) -> np.ndarray:
    """The picture's present frame as uint8 [height, width, channels].

    Colour becomes grey by Pillow's conversion to 'L', grey becomes colour by repetition, and what
    is transparent is shown on black.

    Raises:
      ValueError: more than 8 bits a channel, said of `name`; or the file `path` is damaged.
    """
    if picture.mode.startswith(("I", "F")):  # which Pillow would clip to 255, not scale
        raise ValueError(
            f"{name} has pixels of Pillow's mode {picture.mode}, and 8 bits a channel are needed"
        )
    with blamed_on(path):
        if picture.has_transparency_data:
            black = Image.new("RGBA", picture.size, "black")
            picture = Image.alpha_composite(black, picture.convert("RGBA"))
        pixels = np.asarray(picture.convert(MODES[channels]))
        return pixels.reshape(picture.height, picture.width, channels)


@contextlib.contextmanager
def open_picture(path: Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The picture in a file, not decoded yet, or ValueError."""
    with blamed_on(path):
        picture = Image.open(path, formats=formats)
    with picture:
        yield picture


def _go_to(picture: Image.Image, path: Path, frame: int) -> bool:
    """Goes to a frame; False where there is none, ValueError where it is damaged."""
    with blamed_on(path):
        try:
            picture.seek(frame)
        except EOFError:
            return False
        return True


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Whatever is raised inside becomes a ValueError that names the file.

    Whatever, since Pillow, numpy and zipfile raise more than a dozen types on damaged files.
    """
    try:
        yield
    except Exception as error:
        sentence = f"{path} cannot be read, it is damaged or of another type: {error}"
        raise ValueError(sentence) from error
