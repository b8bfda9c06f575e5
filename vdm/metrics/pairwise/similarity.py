"""PSNR and SSIM between a sample and the real video that it predicts; and motion."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MAX_PSNR = 100.0  # dB, for equal frames, whose ratio is infinite
SSIM_WINDOW = 11  # pixels per side
_SIGMA = 1.5  # standard deviation of SSIM's window, in pixels
_C1, _C2 = 0.01**2, 0.03**2


def psnr(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of uint8 videos [n, frames, height, width, channels].

    10 log10(255^2 / mean squared error) of each frame, at most 100 dB, averaged over frames: [n].
    """
    difference = real.astype(np.float32) - generated.astype(np.float32)
    error = np.square(difference).mean(axis=(-3, -2, -1), dtype=np.float64)
    decibel = 10 * np.log10(255.0**2 / np.maximum(error, 255.0**2 * 10 ** (-MAX_PSNR / 10)))
    return decibel.mean(axis=-1)


def ssim(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Returns the structural similarity of uint8 videos [n, frames, height, width, channels].

    Wang et al. 2004, equation 13, with a Gaussian window of 11x11 pixels and standard deviation
    1.5, at positions where it lies inside the frame; averaged over pixels, channels and frames:
    [n].

    Raises:
      ValueError: frames are smaller than the window.
    """
    height, width = real.shape[2:4]
    if min(height, width) < SSIM_WINDOW:
        window = f"{SSIM_WINDOW}x{SSIM_WINDOW}"
        raise ValueError(f"frames have {height}x{width} pixels, and SSIM needs {window}")
    return np.asarray(_ssim(real, generated), np.float64)


@jax.jit
def _ssim(real: Array, generated: Array) -> Float[Array, " n"]:
    # Centring makes the subtraction of squares more accurate, and cancels in the variances.
    x, y = (videos.astype(jnp.float32) / 255 - 0.5 for videos in (real, generated))
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return (luminance * (2 * covariance + _C2) / (var_x + var_y + _C2)).mean(axis=(1, 2, 3, 4))


def _windowed(
    videos: Float[Array, "n frames height width channels"],
) -> Float[Array, "n frames out_height out_width channels"]:
    """Returns Gaussian-weighted means at positions where the window lies inside the frame."""
    distance = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-0.5 * (distance / _SIGMA) ** 2)
    window = (window / window.sum()).astype(np.float32)
    for axis in (2, 3):
        size = videos.shape[axis] - SSIM_WINDOW + 1
        parts = (
            tap * jax.lax.slice_in_dim(videos, i, i + size, axis=axis)
            for i, tap in enumerate(window)
        )
        videos = sum(parts, start=jnp.zeros((), jnp.float32))
    return videos


def motion(videos: np.ndarray) -> np.ndarray:
    """Returns the mean absolute difference of consecutive frames of uint8 videos, in [0, 255].

    Videos are [n, frames, height, width, channels] with at least 2 frames; the result is [n].

    Raises:
      ValueError: videos have one frame.
    """
    if videos.shape[1] < 2:
        raise ValueError(f"videos have {videos.shape[1]} frame, and motion needs 2")
    steps = np.diff(videos.astype(np.int16), axis=1)
    return np.abs(steps).mean(axis=(1, 2, 3, 4), dtype=np.float64)
