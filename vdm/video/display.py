"""Displays videos as GIFs, MP4s, contact sheets and grids."""

import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image, ImageDraw

from vdm.video.pixels import with_channels

_MIN_SIDE = 128  # min side of an enlarged video, pixels
_TILE_SIDE = 48  # min side of an enlarged frame in a contact sheet, pixels
_LEFT_MARGIN, _TOP_MARGIN = 96, 20  # pixels, for the labels of rows and columns
_CAPTION_HEIGHT = 16  # pixels, of the caption of a grid
_CRF = "10"  # x264: visually lossless, and smaller than a GIF
_BT_709 = 1  # code of matrix, primaries and transfer function in ITU-T H.273
_SEPARATOR = np.array([64, 96, 160], np.uint8)  # blue, as frames are often grey


def gif_bytes(
    video: np.ndarray, *, frames_per_second: float = 8, scale: int | None = None
) -> bytes:
    """Encodes a video as a looping GIF: lossless for grey, otherwise 256 colours per frame.

    Pillow merges equal consecutive frames into one of longer duration.

    Args:
      video: uint8 [frames, height, width, channels], 1 or 3 channels.
      frames_per_second: frame rate, default 8. Frame durations are rounded to 10 ms, the unit of
        the format, and are at least 20 ms, because browsers play shorter frames slowly.
      scale: enlargement factor; default: the smallest with 128 pixels on the shorter side.

    Raises:
      ValueError: the video has another shape or dtype.
    """
    _check(video, "[frames, height, width, channels]")
    scale = scale or _scale_to(video.shape[1:3], _MIN_SIDE)
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


def mp4_bytes(
    video: np.ndarray, *, frames_per_second: float | Fraction = 8, scale: int | None = None
) -> bytes:
    """Encodes a video as an MP4 for browsers: H.264, 4:2:0, high quality, faststart.

    Deterministic: equal videos give equal bytes. An odd height or width, which 4:2:0 does not
    allow, is padded with the last row or column of the enlarged frame.

    Args:
      video: uint8 [frames, height, width, channels], 1 or 3 channels.
      frames_per_second: frame rate, default 8, as a fraction with a denominator of at most 1001.
      scale: enlargement factor; default: the smallest with 128 pixels on the shorter side.

    Raises:
      ValueError: the video has another shape or dtype, or the frame rate is not positive.
    """
    _check(video, "[frames, height, width, channels]")
    scale = scale or _scale_to(video.shape[1:3], _MIN_SIDE)
    rate = Fraction(frames_per_second).limit_denominator(1001)
    if rate <= 0:
        raise ValueError(f"frames_per_second is {frames_per_second}, and must be positive")
    height, width = (-(-scale * side // 2) * 2 for side in video.shape[1:3])
    # A file, not memory: FFmpeg opens it a second time to move the index to the front.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": _CRF})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            context = stream.codec_context
            context.thread_count = 1  # x264's output depends on the number of threads.
            context.flags |= Flags.bitexact
            # Without tags, players guess the colour matrix from the size.
            context.colorspace = context.color_primaries = context.color_trc = _BT_709
            context.color_range = ColorRange.MPEG
            to_yuv = VideoReformatter()
            for index, frame in enumerate(video):
                frame = _enlarge(with_channels(frame, 3), scale)
                margins = (height - frame.shape[0], width - frame.shape[1])
                frame = np.pad(frame, ((0, margins[0]), (0, margins[1]), (0, 0)), "edge")
                encoded = to_yuv.reformat(
                    av.VideoFrame.from_ndarray(frame),
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    threads=1,
                )
                encoded.pts, encoded.time_base = index, 1 / rate
                container.mux(stream.encode(encoded))
            container.mux(stream.encode())
        return path.read_bytes()


def contact_sheet(videos: np.ndarray, *, scale: int | None = None) -> Image.Image:
    """Draws a contact sheet: one row per video, one column per frame, separated by 1-pixel lines.

    Args:
      videos: uint8 [n, frames, height, width, channels], 1 or 3 channels.
      scale: enlargement factor; default: the smallest with 48 pixels on a frame's shorter side.

    Raises:
      ValueError: the videos have another shape or dtype.
    """
    _check(videos, "[n, frames, height, width, channels]")
    return _picture(_tile(_enlarge(videos, scale or _scale_to(videos.shape[2:4], _TILE_SIDE))))


def labelled_contact_sheet(
    videos: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    corner: str,
    scale: int | None = None,
) -> Image.Image:
    """Draws a contact sheet with labels of its rows and columns.

    Args:
      videos: uint8 [n, frames, height, width, channels], 1 or 3 channels.
      rows: one label per video, up to 15 letters, left of its row.
      columns: one label per frame, above its column.
      corner: title of the column labels, in the top left corner.
      scale: enlargement factor, as in `contact_sheet`.

    Raises:
      ValueError: the videos have another shape or dtype, or another number of labels.
    """
    sheet = contact_sheet(videos, scale=scale)
    if (len(rows), len(columns)) != videos.shape[:2]:
        raise ValueError(
            f"{len(rows)} labels of rows and {len(columns)} of columns do not fit "
            f"{videos.shape[0]} videos of {videos.shape[1]} frames"
        )
    out = Image.new("RGB", (sheet.width + _LEFT_MARGIN, sheet.height + _TOP_MARGIN), "white")
    out.paste(sheet, (_LEFT_MARGIN, _TOP_MARGIN))
    draw = ImageDraw.Draw(out)
    for row, label in enumerate(rows):
        middle = _TOP_MARGIN + (row + 0.5) * sheet.height / len(rows)
        draw.text((_LEFT_MARGIN - 6, middle), label, fill="black", anchor="rm")
    draw.text((_LEFT_MARGIN - 6, _TOP_MARGIN / 2), corner, fill="black", anchor="rm")
    for column, label in enumerate(columns):
        middle = _LEFT_MARGIN + (column + 0.5) * sheet.width / len(columns)
        draw.text((middle, _TOP_MARGIN / 2), label, fill="black", anchor="mm")
    return out


def captioned_grids(groups: Mapping[str, np.ndarray], *, scale: int) -> np.ndarray:
    """Stacks grids of videos vertically, each below its caption.

    Args:
      groups: {caption: videos}, uint8 [n, frames, height, width, channels] with 1 or 3 channels; n
        may differ between the groups. The largest group has a nearly square grid, and the others
        have as many columns.
      scale: enlargement factor of the videos.

    Returns:
      uint8 [frames, H, W, channels].

    Raises:
      ValueError: the videos have another shape or dtype.
    """
    columns = _square(max(map(len, groups.values())))
    parts = []
    for caption, videos in groups.items():
        grid = _enlarge(video_grid(videos, columns=columns), scale)
        frames, _, width, channels = grid.shape
        band = Image.new("L", (width, _CAPTION_HEIGHT))
        ImageDraw.Draw(band).text((4, _CAPTION_HEIGHT / 2), caption, fill=255, anchor="lm")
        pixels = with_channels(np.asarray(band)[..., None], channels)
        parts += [np.broadcast_to(pixels, (frames, *pixels.shape)), grid]
    return np.concatenate(parts, axis=1)


def video_grid(videos: np.ndarray, *, columns: int | None = None) -> np.ndarray:
    """Arranges videos in a grid, row by row; unused cells are black.

    Args:
      videos: uint8 [n, frames, height, width, channels], 1 or 3 channels.
      columns: number of columns; default: a nearly square grid.

    Returns:
      uint8 [frames, H, W, channels], with 1-pixel lines around and between the videos.

    Raises:
      ValueError: the videos have another shape or dtype.
    """
    _check(videos, "[n, frames, height, width, channels]")
    count, frames = videos.shape[:2]
    columns = columns or _square(count)
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, *videos.shape[1:]), np.uint8)
    cells[:count] = videos
    cells = cells.reshape(rows, columns, *videos.shape[1:])
    return np.stack([_tile(cells[:, :, frame]) for frame in range(frames)])


def _square(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _tile(tiles: np.ndarray) -> np.ndarray:
    """Joins tiles, uint8 [rows, columns, h, w, c], to an image [H, W, c] with separating lines."""
    rows, columns, height, width, channels = tiles.shape
    colour = _SEPARATOR if channels == 3 else _SEPARATOR[1:2]
    out = np.empty((rows, columns, height + 1, width + 1, channels), np.uint8)
    out[:] = colour
    out[:, :, 1:, 1:] = tiles
    out = out.swapaxes(1, 2).reshape(rows * (height + 1), columns * (width + 1), channels)
    out = np.concatenate([out, np.broadcast_to(colour, (1, *out.shape[1:]))], axis=0)
    return np.concatenate([out, np.broadcast_to(colour, (out.shape[0], 1, channels))], axis=1)


def _enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel of [..., height, width, channels] scale x scale times."""
    return pixels.repeat(scale, axis=-3).repeat(scale, axis=-2)


def _scale_to(size: tuple[int, int], side: int) -> int:
    return -(-side // min(size))


def _picture(pixels: np.ndarray) -> Image.Image:
    """Converts uint8 [height, width, 1 or 3] to a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _check(videos: np.ndarray, layout: str) -> None:
    good = videos.ndim == layout.count(",") + 1 and videos.shape[-1] in (1, 3)
    if not good or videos.dtype != np.uint8 or not videos.size:
        raise ValueError(
            f"expected uint8 {layout} with 1 or 3 channels, not {videos.dtype} {videos.shape}"
        )
