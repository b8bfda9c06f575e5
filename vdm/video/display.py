"""Videos for people to look at: GIF, MP4, contact sheet and grid."""

import io

import numpy as np
from PIL import Image

_GIF_SIDE = 128  # pixels at least, for a video to be seen
_TILE_SIDE = 48
_SEPARATOR = np.array([64, 96, 160], np.uint8)  # neither black, white nor grey, as frames are


def gif_bytes(
    video: np.ndarray, *, frames_per_second: float = 8, scale: int | None = None
) -> bytes:
    """A GIF that loops for ever: exact for grey, the nearest of 256 colours a frame otherwise.

    A frame that repeats the one before is stored as a longer duration of it.

    Args:
      video: uint8 [frames, height, width, channels], 1 or 3 channels.
      frames_per_second: rounded to a duration that is a multiple of 10 ms, the unit of the
        format, and of at least 20 ms, below which browsers slow down.
      scale: each pixel becomes scale x scale; by default the least with which the shorter side
        has 128 pixels.

    Raises:
      ValueError: another shape or dtype.
    """
    _check(video, "[frames, height, width, channels]")
    scale = scale or _scale_to(video.shape[1:3], _GIF_SIDE)
    frames = [_picture(frame) for frame in _enlarge(video, scale)]
    if video.shape[-1] == 3:
        frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    out = io.BytesIO()
    frames[0].save(
        out,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=10 * max(2, round(100 / frames_per_second)),
        loop=0,
        optimize=False,
    )
    return out.getvalue()


def contact_sheet(videos: np.ndarray, *, scale: int | None = None) -> Image.Image:
    """A picture with a row for each video and a column for each frame, separated by thin lines.

    Args:
      videos: uint8 [n, frames, height, width, channels], 1 or 3 channels.
      scale: each pixel becomes scale x scale; by default the least with which the shorter side
        of a tile has 48 pixels. Lines are 1 pixel wide, around and between the tiles.

    Raises:
      ValueError: another shape or dtype.
    """
    _check(videos, "[n, frames, height, width, channels]")
    return _picture(_tile(_enlarge(videos, scale or _scale_to(videos.shape[2:4], _TILE_SIDE))))


def video_grid(videos: np.ndarray) -> np.ndarray:
    """Videos side by side in a grid as square as can be, row after row; places left over are black.

    Args:
      videos: uint8 [n, frames, height, width, channels], 1 or 3 channels.

    Returns:
      uint8 [frames, H, W, channels], with lines of 1 pixel around and between the videos.

    Raises:
      ValueError: another shape or dtype.
    """
    _check(videos, "[n, frames, height, width, channels]")
    count, frames = videos.shape[:2]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    places = np.zeros((rows * columns, *videos.shape[1:]), np.uint8)
    places[:count] = videos
    places = places.reshape(rows, columns, *videos.shape[1:])
    return np.stack([_tile(places[:, :, frame]) for frame in range(frames)])


def _tile(tiles: np.ndarray) -> np.ndarray:
    """Tiles uint8 [rows, columns, h, w, c] as one picture [H, W, c], lines around and between."""
    rows, columns, height, width, channels = tiles.shape
    colour = _SEPARATOR if channels == 3 else _SEPARATOR[1:2]
    out = np.empty((rows, columns, height + 1, width + 1, channels), np.uint8)
    out[:] = colour
    out[:, :, 1:, 1:] = tiles
    out = out.swapaxes(1, 2).reshape(rows * (height + 1), columns * (width + 1), channels)
    out = np.concatenate([out, np.broadcast_to(colour, (1, *out.shape[1:]))], axis=0)
    return np.concatenate([out, np.broadcast_to(colour, (out.shape[0], 1, channels))], axis=1)


def _enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """[..., height, width, channels] with every pixel repeated scale x scale times."""
    return pixels.repeat(scale, axis=-3).repeat(scale, axis=-2)


def _scale_to(size: tuple[int, int], side: int) -> int:
    return -(-side // min(size))


def _picture(pixels: np.ndarray) -> Image.Image:
    """uint8 [height, width, 1 or 3] as a picture."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _check(videos: np.ndarray, layout: str) -> None:
    good = videos.ndim == layout.count(",") + 1 and videos.shape[-1] in (1, 3)
    if not good or videos.dtype != np.uint8 or not videos.size:
        raise ValueError(
            f"expected uint8 {layout} with 1 or 3 channels, not {videos.dtype} {videos.shape}"
        )
