"""The user's own videos: .gif and .npz files and folders of images, to one uint8 array."""

import contextlib
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_IMAGE_FORMATS = ("PNG", "JPEG")
_MODES = {1: "L", 3: "RGB"}  # Pillow's name for 8 bits a channel, by the number of channels


def load_videos(
    path: Path, *, num_frames: int, height: int, width: int, channels: int
) -> np.ndarray:
    """The user's own videos, uint8 [n, num_frames, height, width, channels].

    The first `num_frames` frames of each are taken, and nothing is resized. Colour becomes grey by
    Pillow's conversion to 'L', grey becomes colour by repetition, and what is transparent is shown
    on black.

    A GIF has a frame for each time the shortest duration in it fits into a duration, rounded, since
    `vdm.data.media.gif_bytes` stores a repeated frame as a longer duration of it. A video that
    repeats every one of its frames cannot be told from a slower one, and has fewer frames here.

    Args:
      path: an .npz file with `video`, uint8 [n, frames, height, width, channels]; or a .gif file;
        or a folder of the frames of one video, .png, .jpg or .jpeg; or a folder whose entries are
        any of these three. Entries are in the natural order of their names, frame_10 after
        frame_9, and hidden ones are ignored.
      num_frames: frames that a video must have at least.
      height: height that every frame must have.
      width: width that every frame must have.
      channels: 1 or 3.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: a folder without entries; a file of another type, or that cannot be read; too few
        frames; a frame of another size or with more than 8 bits a channel; an .npz file with
        another layout or without videos; a number of channels other than 1 and 3.
    """
    if channels not in _MODES:
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    shape = (num_frames, height, width, channels)
    return np.concatenate([_load(source, shape) for source in sources_of(Path(path))])


def sources_of(path: Path) -> list[Path]:
    """The files, and folders of images, that the videos under a path are in, in natural order.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: an empty folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, and videos are to be read from it")
    if not path.is_dir():
        return [path]
    entries = entries_of(path)
    return [path] if any(map(_is_image, entries)) else entries


def _load(source: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The videos of one source, uint8 [n, *shape], or ValueError."""
    if source.is_dir():
        return _from_images(source, shape)[None]
    if source.suffix.lower() == ".gif":
        return _from_gif(source, shape)[None]
    if source.suffix.lower() == ".npz":
        return _from_npz(source, shape)
    raise _other_type(source)


def _from_images(folder: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The images in a folder as one video, uint8 [*shape], or ValueError."""
    entries = entries_of(folder)
    for entry in entries:
        if _is_image(entry):
            continue
        if not entry.is_dir() and entry.suffix.lower() not in (".gif", ".npz"):
            raise _other_type(entry)
        raise ValueError(
            f"{entry} is not an image, and {folder} is read as the frames of one video, "
            ".png, .jpg or .jpeg files alone"
        )
    _check_length(folder, len(entries), shape)
    frames = []
    for entry in entries[: shape[0]]:
        with _open(entry, _IMAGE_FORMATS) as picture:
            frames.append(_pixels(picture, entry, str(entry), shape))
    return np.stack(frames)


def _from_gif(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The frames of a GIF, each as often as its duration says, uint8 [*shape], or ValueError."""
    frames, durations = [], []
    with _open(path, ("GIF",)) as picture:
        while _seek(picture, path, len(durations)):
            if len(frames) < shape[0]:
                name = f"frame {len(frames)} of {path}"
                frames.append(_pixels(picture, path, name, shape))
            durations.append(picture.info.get("duration", 0))
    # A duration of 0 is in many GIFs, and leaves the speed to the viewer.
    shortest = min(filter(None, durations), default=1)
    # Beyond num_frames no repetition matters, and a file can ask for 65535 of each frame.
    counts = [min(max(1, round(duration / shortest)), shape[0]) for duration in durations]
    order = np.repeat(np.arange(len(counts)), counts)
    _check_length(path, len(order), shape)
    return np.stack([frames[index] for index in order[: shape[0]]])


def _from_npz(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The array `video` of an .npz file, uint8 [n, *shape], or ValueError."""
    with _blamed_on(path):
        # np.load takes whatever is no archive for a pickle, and says so, which misleads.
        zipfile.ZipFile(path).close()
        with np.load(path) as archive:
            names = archive.files
            videos = np.asarray(archive["video"]) if "video" in names else None
    if videos is None:
        raise ValueError(f"{path} holds the arrays {sorted(names)}, and `video` is needed")
    if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] not in _MODES:
        raise ValueError(
            f"`video` of {path} is {videos.dtype} {videos.shape}, and uint8 "
            "[n, frames, height, width, channels] with 1 or 3 channels is needed"
        )
    if not len(videos):
        raise ValueError(f"`video` of {path} has the shape {videos.shape}, and a video is needed")
    _check_length(path, videos.shape[1], shape)
    _check_size(f"`video` of {path}", videos.shape[2:4], shape)
    return with_channels(videos[:, : shape[0]], shape[-1])


def with_channels(videos: np.ndarray, channels: int) -> np.ndarray:
    """Videos uint8 [..., height, width, 1 or 3] with as many channels, 1 or 3, as are wanted."""
    if videos.shape[-1] == channels:
        return videos
    if channels == 3:
        return videos.repeat(3, axis=-1)
    out = np.empty((*videos.shape[:-1], 1), np.uint8)
    for index in np.ndindex(videos.shape[:-3]):
        out[index][..., 0] = Image.fromarray(videos[index]).convert("L")
    return out


def _pixels(
    picture: Image.Image, path: Path, name: str, shape: tuple[int, int, int, int]
) -> np.ndarray:
    """The picture's present frame as uint8 [height, width, channels], or ValueError with `name`."""
    _check_size(name, (picture.height, picture.width), shape)
    if picture.mode.startswith(("I", "F")):  # which Pillow would clip to 255, not scale
        raise ValueError(
            f"{name} has pixels of Pillow's mode {picture.mode}, and 8 bits a channel are needed"
        )
    with _blamed_on(path):
        if picture.has_transparency_data:
            black = Image.new("RGBA", picture.size, "black")
            picture = Image.alpha_composite(black, picture.convert("RGBA"))
        return np.asarray(picture.convert(_MODES[shape[-1]])).reshape(shape[1:])


@contextlib.contextmanager
def _open(path: Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The picture in a file, not decoded yet, or ValueError."""
    with _blamed_on(path):
        picture = Image.open(path, formats=formats)
    with picture:
        yield picture


def _seek(picture: Image.Image, path: Path, frame: int) -> bool:
    """Goes to a frame; False where there is none, ValueError where it is damaged."""
    with _blamed_on(path):
        try:
            picture.seek(frame)
        except EOFError:
            return False
        return True


@contextlib.contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Whatever is raised inside becomes a ValueError that names the file.

    Whatever, since Pillow, numpy and zipfile raise more than a dozen types on damaged files.
    """
    try:
        yield
    except Exception as error:
        sentence = f"{path} cannot be read, it is damaged or of another type: {error}"
        raise ValueError(sentence) from error


def entries_of(folder: Path) -> list[Path]:
    """What is in a folder, hidden entries aside, in natural order of names, or ValueError."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if not entries:
        raise ValueError(f"{folder} is empty, and videos or the frames of one are needed")
    return sorted(entries, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    # Text and numbers alternate, text first, so that like is compared with like.
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES and not path.is_dir()


def _check_length(path: Path, found: int, shape: tuple[int, int, int, int]) -> None:
    if found < shape[0]:
        frames = "frame" if found == 1 else "frames"
        raise ValueError(f"{path} has {found} {frames}, and {shape[0]} are needed")


def _check_size(name: str, found: tuple[int, int], shape: tuple[int, int, int, int]) -> None:
    if tuple(found) != shape[1:3]:
        raise ValueError(
            f"{name} is {found[0]} x {found[1]} pixels (height x width), "
            f"and {shape[1]} x {shape[2]} is needed"
        )


def _other_type(path: Path) -> ValueError:
    return ValueError(
        f"{path} is of another type: this version reads .gif, .npz and folders of images "
        "(.png, .jpg, .jpeg)"
    )
