"""Preprocessing of the feature networks, as in their reference implementations.

Bilinear resize without antialiasing. Three conventions for the source position of pixel i:

- 'reference', TensorFlow 1: i * size / out_size, which shifts the image.
- 'half_pixel', TensorFlow 2 and PyTorch: (i + 1/2) * size / out_size - 1/2.
- 'aligned_corners', Chainer: i * (size - 1) / (out_size - 1).

On real videos, 'half_pixel' changes the FVD by 5 % relative to 'reference'.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vdm.metrics.networks import c3d, i3d, inception

CONVENTIONS = ("reference", "half_pixel", "aligned_corners")

MEAN_CROP = slice(8, 8 + c3d.RESOLUTION)  # crop of the height and width of C3D's mean volume


def resize_bilinear(
    images: Float[Array, "*batch height width channels"],
    height: int,
    width: int,
    convention: str = "reference",
) -> Float[Array, "*batch out_height out_width channels"]:
    """Resizes images to height x width pixels, by bilinear interpolation without antialiasing.

    Args:
      images: images, or videos with frames among the first axes.
      height: height of the result in pixels.
      width: width of the result in pixels.
      convention: one of CONVENTIONS, the source positions of pixels.

    Raises:
      ValueError: the convention is unknown.
    """
    images = _resize_axis(images, images.ndim - 2, width, convention)
    return _resize_axis(images, images.ndim - 3, height, convention)


def i3d_input(
    videos: UInt8[Array, "batch frames height width 3"], convention: str = "reference"
) -> Float[Array, "batch frames 224 224 3"]:
    """Returns I3D's input: 224x224 pixels in [-1, 1]."""
    resized = resize_bilinear(
        videos.astype(jnp.float32), i3d.RESOLUTION, i3d.RESOLUTION, convention
    )
    return 2 * resized / 255 - 1


def inception_input(
    images: UInt8[Array, "batch height width 3"], convention: str = "reference"
) -> Float[Array, "batch 299 299 3"]:
    """Returns Inception's input: 299x299 pixels in [-1, 127/128]."""
    resized = resize_bilinear(
        images.astype(jnp.float32), inception.RESOLUTION, inception.RESOLUTION, convention
    )
    return (resized - 128) / 128


def c3d_input(
    videos: UInt8[Array, "batch frames height width 3"],
    mean: Float[Array, "frames_of_mean 112 112 3"],
    convention: str = "aligned_corners",
) -> Float[Array, "batch frames 112 112 3"]:
    """Returns C3D's input: 112x112 pixels, BGR in 0..255 minus the mean volume.

    The mean volume is BGR, cropped by `MEAN_CROP`.

    Raises:
      ValueError: the number of frames differs from that of the mean.
    """
    if videos.shape[1] != mean.shape[0]:
        raise ValueError(f"C3D needs {mean.shape[0]} frames, not {videos.shape[1]}")
    resized = resize_bilinear(
        videos[..., ::-1].astype(jnp.float32), c3d.RESOLUTION, c3d.RESOLUTION, convention
    )
    return resized - mean


def _resize_axis(images: jax.Array, axis: int, out_size: int, convention: str) -> jax.Array:
    below, above, fraction = _neighbours(images.shape[axis], out_size, convention)
    low, high = (jnp.take(images, side, axis=axis, mode="clip") for side in (below, above))
    return low + (high - low) * fraction.reshape(-1, *(1,) * (images.ndim - 1 - axis))


def _neighbours(
    size: int, out_size: int, convention: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two input pixels around each output position, and its offset from the first.

    Positions are float32, as in TensorFlow, because rounding near integers selects the pixels.
    """
    index = np.arange(out_size, dtype=np.float32)
    scale = np.float32(size) / np.float32(out_size)
    match convention:
        case "reference":
            position = index * scale
        case "half_pixel":
            position = (index + np.float32(0.5)) * scale - np.float32(0.5)
        case "aligned_corners":
            position = index * np.float32((size - 1) / max(out_size - 1, 1))
        case _:
            raise ValueError(
                f"resize is {convention!r}, and must be one of {', '.join(CONVENTIONS)}"
            )
    floor = np.floor(position)
    below = np.clip(floor.astype(np.int32), 0, size - 1)
    above = np.clip(np.ceil(position).astype(np.int32), 0, size - 1)
    return below, above, (position - floor).astype(np.float32)
