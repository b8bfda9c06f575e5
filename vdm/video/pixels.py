"""Ranges, channels, crop and resize of uint8 frames."""

import numpy as np
from PIL import Image


def to_uint8(video: np.ndarray) -> np.ndarray:
    """From [-1, 1] to 0..255, of any shape: rounded, and what is out of range clipped."""
    return np.clip(np.round((np.asarray(video, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(video: np.ndarray) -> np.ndarray:
    """From uint8 0..255 to float32 in [-1, 1], of any shape; `to_uint8` is its inverse."""
    return np.asarray(video).astype(np.float32) / 127.5 - 1


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


def centre_crop(frames: np.ndarray) -> np.ndarray:
    """The square in the middle of frames [..., height, width, channels], of the shorter side.

    Where the margin is odd, the part at the top or at the left is the smaller one.
    """
    height, width = frames.shape[-3:-1]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[..., top : top + side, left : left + side, :]


def resize_by_area(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames uint8 [n, height, width, channels], 1 or 3 channels, as [n, side, side, channels].

    Each pixel is the mean, rounded, of the rectangle of the frame that it covers, and what it
    covers in part counts in part. Frames of that size already are returned as they are.

    Raises:
      ValueError: opencv is needed and not installed.
    """
    if frames.shape[1:3] == (side, side):
        return frames
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            'resizing videos needs OpenCV: pip install "vdm[data]", or opencv-python-headless'
        ) from error
    out = np.empty((len(frames), side, side, frames.shape[-1]), np.uint8)
    for frame, small in zip(frames, out, strict=True):
        resized = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
        small[:] = resized.reshape(small.shape)
    return out
