"""Block-shape metric of PushT: whether the block keeps its shape. Needs no feature network.

A frame is separated by colour into block, disc and background. The data set's T is then fitted to
the block for maximum overlap. A deformed, blurred, missing or second block overlaps less. It is a
check for one data set, not a published metric.
"""

import numpy as np
from jaxtyping import Float

# Lengths are in pixels of a frame of 64x64, angles in radians.
_BACKGROUND, _BLOCK, _DISC = (255, 255, 255), (143, 163, 184), (77, 125, 255)
_BORDER = 1  # width of the drawn walls at the frame's edge
# Centre and half size of the T's two bars, relative to the middle of its upper edge; the drawing
# adds an outline.
_OUTLINE = 0.4
_BARS = np.array([(0.0, 3.0, 12.0, 3.0), (0.0, 15.0, 3.0, 9.0)], np.float32)
_CENTRE_OF_MASS = 8.143  # distance from the upper edge
_WINDOW = 24  # half the side of the window, around the centre of mass, in which the T is drawn
_ANGLES = 24  # angles of the coarse search
_PRECISION = 0.02  # pixels and radians at which the fine search stops

SHARE_OF_OVERLAP = 0.8  # min overlap of a block that keeps its shape


def block_shape(videos: np.ndarray) -> np.ndarray:
    """Returns the share of frames in which the block is a T (`block_overlap` >= 0.8), [n].

    Raises:
      ValueError: videos are not uint8 [n, frames, 64, 64, 3].
    """
    return (block_overlap(videos) >= SHARE_OF_OVERLAP).mean(axis=1)


def block_overlap(videos: np.ndarray) -> np.ndarray:
    """Returns the overlap of the block with the best-fitting T, [n, frames].

    The overlap is the intersection over union of the two pixel coverages, in [0, 1]; 0 without a
    block.

    Raises:
      ValueError: videos are not uint8 [n, frames, 64, 64, 3].
    """
    coverage = _coverage(videos)[..., 0]
    overlaps = [_best_overlap(frame) for frame in coverage.reshape(-1, *coverage.shape[2:])]
    return np.array(overlaps).reshape(coverage.shape[:2])


def disc_positions(videos: np.ndarray) -> np.ndarray:
    """Returns the centre of mass (x, y) of the disc's colour, in pixels, [n, frames, 2].

    NaN where there is no disc.

    Raises:
      ValueError: videos are not uint8 [n, frames, 64, 64, 3].
    """
    disc = _coverage(videos)[..., 1]
    disc = np.where(disc > 0.5, disc, 0)  # ignores traces of the colour elsewhere
    y, x = np.indices(disc.shape[2:])
    with np.errstate(invalid="ignore"):
        centres = [(disc * axis).sum((2, 3)) / disc.sum((2, 3)) for axis in (x, y)]
    return np.stack(centres, axis=-1) + 0.5


def _coverage(videos: np.ndarray) -> Float[np.ndarray, "n frames 64 64 2"]:
    """Returns the fraction of each pixel covered by the block and by the disc, in [0, 1]."""
    if videos.ndim != 5 or videos.shape[2:] != (64, 64, 3) or videos.dtype != np.uint8:
        raise ValueError(
            f"expected uint8 [n, frames, 64, 64, 3] of PushT, not {videos.dtype} {videos.shape}"
        )
    background = np.array(_BACKGROUND, np.float32)
    colours = np.array([_BLOCK, _DISC], np.float32) - background
    coverage = np.clip((videos - background) @ np.linalg.pinv(colours), 0, 1)
    inside = np.zeros(videos.shape[2:4], bool)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    return np.where(inside[..., None], coverage, 0)


def _best_overlap(block: Float[np.ndarray, "64 64"]) -> float:
    """Returns the overlap of one frame's block with the best-fitting T."""
    from scipy.optimize import minimize  # here, because the import takes a third of a second

    if block.sum() < 1:
        return 0.0
    mass = block.sum()
    y, x = np.indices(block.shape, np.float32) + 0.5
    centre = [float((block * axis).sum() / mass) for axis in (x, y)]
    left, top = (max(0, int(value) - _WINDOW) for value in centre)
    window = np.s_[top : top + 2 * _WINDOW, left : left + 2 * _WINDOW]
    near, pixels = block[window], np.stack([x[window], y[window]], axis=-1)

    def loss(pose: np.ndarray) -> float:
        tee = _tee(pixels, pose)
        both = np.minimum(near, tee).sum()
        return -float(both / (mass + tee.sum() - both))

    starts = [np.array([*centre, a]) for a in np.arange(_ANGLES) * 2 * np.pi / _ANGLES]
    start = min(starts, key=loss)
    simplex = start + np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.15]])
    options = {"initial_simplex": simplex, "xatol": _PRECISION, "fatol": 1e-3}
    return -minimize(loss, start, method="Nelder-Mead", options=options).fun


def _tee(
    pixels: Float[np.ndarray, "height width 2"], pose: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "height width"]:
    """Returns the fraction of each pixel covered by a T with pose (x, y of the centre, angle)."""
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    x, y = np.moveaxis(pixels - pose[:2].astype(np.float32), -1, 0)
    local_x, local_y = cos * x + sin * y, cos * y - sin * x + _CENTRE_OF_MASS
    distances = [
        np.maximum(abs(local_x - x) - half_width, abs(local_y - y) - half_height)
        for x, y, half_width, half_height in _BARS
    ]
    return np.clip(_OUTLINE + 0.5 - np.minimum(*distances), 0, 1)
