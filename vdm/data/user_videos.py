"""The user's own videos: video, .gif and .npz files and folders of images, to one uint8 array."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from vdm.data.pictures import (
    MODES,
    blamed_on,
    entries_of,
    gif_order,
    image_size,
    is_image,
    read_gif,
    read_image,
)
from vdm.data.video_files import CONTAINERS, first_frames


def load_videos(
    path: Path, *, num_frames: int, height: int, width: int, channels: int
) -> np.ndarray:
    """The user's own videos, uint8 [n, num_frames, height, width, channels].

    The first `num_frames` frames of each are taken, and nothing is resized. Colour becomes grey by
    Pillow's conversion to 'L', grey becomes colour by repetition, and what is transparent is shown
    on black.

    A GIF has a frame for each time the shortest duration in it fits into a duration, rounded
    (`vdm.data.pictures.gif_order`). A video that repeats every one of its frames cannot be told
    from a slower one, and has fewer frames here.

    Args:
      path: an .npz file with `video`, uint8 [n, frames, height, width, channels]; or a video file;
        or a folder of the frames of one video, .png, .jpg or .jpeg; or a folder whose entries are
        any of these three. Entries are in the natural order of their names, frame_10 after
        frame_9, and hidden ones are ignored. Video files are .gif and what PyAV reads, .mp4, .avi,
        .mov, .webm, .mkv and .mpg.
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
    if channels not in MODES:
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
    return [path] if any(map(is_image, entries)) else entries


def _load(source: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The videos of one source, uint8 [n, *shape], or ValueError."""
    if source.is_dir():
        return _from_images(source, shape)[None]
    if source.suffix.lower() == ".gif":
        return _from_gif(source, shape)[None]
    if source.suffix.lower() == ".npz":
        return _from_npz(source, shape)
    if source.suffix.lower() in CONTAINERS:
        return _from_container(source, shape)[None]
    raise _other_type(source)


def _from_images(folder: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The images in a folder as one video, uint8 [*shape], or ValueError."""
    entries = entries_of(folder)
    for entry in entries:
        if is_image(entry):
            continue
        if not entry.is_dir() and entry.suffix.lower() not in (".gif", ".npz", *CONTAINERS):
            raise _other_type(entry)
        raise ValueError(
            f"{entry} is not an image, and {folder} is read as the frames of one video, "
            ".png, .jpg or .jpeg files alone"
        )
    _check_length(folder, len(entries), shape)
    frames = []
    for entry in entries[: shape[0]]:
        _check_size(str(entry), image_size(entry), shape)
        frames.append(read_image(entry, shape[-1]))
    return np.stack(frames)


def _from_gif(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The frames of a GIF, each as often as its duration says, uint8 [*shape], or ValueError."""
    _check_size(f"frame 0 of {path}", image_size(path), shape)
    order = gif_order(path, most=shape[0])
    _check_length(path, len(order), shape)
    order = order[: shape[0]]
    return read_gif(path, range(order[-1] + 1), shape[-1])[order]


def _from_container(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The first frames of a video file, uint8 [*shape], or ValueError."""
    frames = []
    for frame in first_frames(path, shape[0]):
        _check_size(f"frame {len(frames)} of {path}", frame.shape[:2], shape)
        frames.append(frame)
    _check_length(path, len(frames), shape)
    return with_channels(np.stack(frames), shape[-1])


def _from_npz(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The array `video` of an .npz file, uint8 [n, *shape], or ValueError."""
    with blamed_on(path):
        # np.load takes whatever is no archive for a pickle, and says so, which misleads.
        zipfile.ZipFile(path).close()
        with np.load(path) as archive:
            names = archive.files
            videos = np.asarray(archive["video"]) if "video" in names else None
    if videos is None:
        raise ValueError(f"{path} holds the arrays {sorted(names)}, and `video` is needed")
    if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] not in MODES:
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
        f"(.png, .jpg, .jpeg), and with PyAV {', '.join(CONTAINERS)}"
    )
