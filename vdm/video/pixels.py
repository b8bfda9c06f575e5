"""Converts, crops and resizes uint8 frames."""

import numpy as np
from PIL import Image


def to_uint8(video: np.ndarray) -> np.ndarray:
    """Converts values in [-1, 1] of any shape to uint8, rounded and clipped to 0..255."""
    return np.clip(np.round((np.asarray(video, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(video: np.ndarray) -> np.ndarray:
    """Converts uint8 of any shape to float32 in [-1, 1]; inverts `to_uint8` up to rounding."""
    return np.asarray(video).astype(np.float32) / 127.5 - 1


def with_channels(videos: np.ndarray, channels: int) -> np.ndarray:
    """Converts uint8 [..., height, width, 1 or 3] to 1 (grey, ITU-R 601) or 3 channels."""
    if videos.shape[-1] == channels:
        return videos
    if channels == 3:
        return videos.repeat(3, axis=-1)
    out = np.empty((*videos.shape[:-1], 1), np.uint8)
    for index in np.ndindex(videos.shape[:-3]):
        out[index][..., 0] = Image.fromarray(videos[index]).convert("L")
    return out


def centre_crop(frames: np.ndarray) -> np.ndarray:
    """Crops frames [..., height, width, channels] to their largest central square.

    If the margin is odd, the extra row or column is cut at the bottom or right.
    """
    height, width = frames.shape[-3:-1]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[..., top : top + side, left : left + side, :]


def central_square(frame: np.ndarray, side: int) -> np.ndarray:
    """Crops a frame uint8 [height, width, channels] to its central square, resized by area.

    A side of 0 returns the frame.
    """
    return resize_by_area(centre_crop(frame)[None], side)[0] if side else frame


def resize_by_area(frames: np.ndarray, side: int) -> np.ndarray:
    """Resizes uint8 [n, height, width, 1 or 3] to [n, side, side, 1 or 3] by area averaging.

    Each pixel is the rounded mean of the rectangle that it covers, with fractional weights at its
    edges. Frames that already have this size are returned unchanged.

    Raises:
      ValueError: OpenCV is not installed.
    """
    if frames.shape[1:3] == (side, side):
        return frames
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            'resizing videos needs OpenCV: pip install "video-diffusion-jax[data]", or '
            "opencv-python-headless"
        ) from error
    out = np.empty((len(frames), side, side, frames.shape[-1]), np.uint8)
    for frame, small in zip(frames, out, strict=True):
        resized = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
        small[:] = resized.reshape(small.shape)
    return out
