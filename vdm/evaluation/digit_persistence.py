"""Digit persistence: a metric of generated moving digits that needs no feature network.

A classifier trained on real handwriting recognises the digit, or none, in each frame separately. A
video is persistent if nearly all of its frames show the same digit: noise shows none, and a model
without temporal consistency shows several. It checks the smallest data set, and is not a published
metric.
"""

import dataclasses
import functools
import math

import numpy as np
from scipy.ndimage import gaussian_filter, shift
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from vdm.data.moving_digits import DIGIT_SIZE, MovingDigits, handwriting
from vdm.video.pixels import to_uint8

NO_DIGIT = -1
_CLASSES = 10
_CHUNK = 2048  # frames per call of the classifier, to bound memory

# Chosen on the last three writers of the training split, not on the test split.
_PENALTY, _GAMMA = 3.0, 0.3
_BLUR = 0.7  # pixels: standard deviation of the strongest blur to be recognised
_REACH = 5.0  # pixels: half width of the parabola that finds the window
_FAINT = 0.25  # ink below this value is ignored outside the window


@dataclasses.dataclass(frozen=True)
class DigitClassifier:
    """Classifies frames as a digit 0 to 9, at any position, or none.

    One-vs-rest support vector machines with Gaussian kernels. A frame unlike any handwriting is far
    from all support vectors, so no decision is positive: none.
    """

    model: OneVsRestClassifier

    @classmethod
    def fit(cls, images: np.ndarray, labels: np.ndarray) -> "DigitClassifier":
        """Trains on handwriting: crisp, slightly blurred, and shifted by half a pixel.

        Args:
          images: uint8 [n, height, width], one digit each, as 8x8 pixels or in a larger frame.
          labels: integers [n], 0 to 9, each at least once.

        Raises:
          ValueError: a digit is missing in `labels`, or `images` has another shape or dtype.
        """
        if set(np.unique(labels)) != set(range(_CLASSES)):
            raise ValueError("labels must contain every digit 0 to 9 and nothing else")
        if images.ndim != 3 or images.dtype != np.uint8:
            raise ValueError(f"expected uint8 [n, height, width], not {images.shape}")
        crisp = np.pad(_ink(images), ((0, 0), (4, 4), (4, 4)))  # margins for the blur
        soft = gaussian_filter(crisp, (0, _BLUR, _BLUR), mode="constant")
        off_grid = [shift(crisp, (0, y, x), order=1) for y, x in ((0.5, 0), (0, 0.5), (0.5, 0.5))]
        renderings = [crisp, soft, *off_grid]
        features = np.concatenate([_features(rendering) for rendering in renderings])
        model = OneVsRestClassifier(SVC(C=_PENALTY, gamma=_GAMMA))
        return cls(model.fit(features, np.tile(labels, len(renderings))))

    def digits_seen(self, videos: np.ndarray) -> np.ndarray:
        """Returns the digit 0 to 9 in each frame, or -1 for none, int [n, frames].

        Videos are uint8 [n, frames, height, width, 1]; another shape or dtype raises ValueError.
        """
        _check(videos)
        frames = videos.reshape(-1, *videos.shape[2:4])
        seen = []
        for first in range(0, len(frames), _CHUNK):
            decisions = self.model.decision_function(
                _features(_ink(frames[first : first + _CHUNK]))
            )
            seen.append(np.where(decisions.max(1) > 0, decisions.argmax(1), NO_DIGIT))
        return np.concatenate(seen).reshape(videos.shape[:2])


@functools.cache
def digit_classifier() -> DigitClassifier:
    """Returns the classifier trained on the handwriting of the training split."""
    images, labels = handwriting("train")
    return DigitClassifier.fit(to_uint8(images), labels)


def digit_persistence(digits: np.ndarray, share_of_frames: float = 14 / 16) -> float:
    """Returns the share of videos that show the same digit in most of their frames.

    Args:
      digits: int [n, frames] of `digits_seen`, -1 for a frame without a digit.
      share_of_frames: minimum share of the frames, in (1/2, 1]; their number is rounded up.

    Raises:
      ValueError: `share_of_frames` is not in (1/2, 1].
    """
    return float(np.mean(_persistent_digit(digits, share_of_frames) != NO_DIGIT))


def digit_histogram(digits: np.ndarray, share_of_frames: float = 14 / 16) -> list[int]:
    """Returns the number of persistent videos per digit 0 to 9, which reveals mode collapse.

    For arguments and errors, see `digit_persistence`.
    """
    kept = _persistent_digit(digits, share_of_frames)
    return np.bincount(kept[kept != NO_DIGIT], minlength=_CLASSES).tolist()


def share_as_asked(
    digits: np.ndarray, labels: np.ndarray, share_of_frames: float = 14 / 16
) -> float:
    """Returns the share of videos that keep the digit of their label; labels are [n].

    For the other arguments and errors, see `digit_persistence`.
    """
    return float(np.mean(_persistent_digit(digits, share_of_frames) == labels))


def mean_displacement(videos: np.ndarray) -> float:
    """Returns the mean motion of the ink's centre of mass, in pixels per frame.

    Videos are uint8 [n, frames, height, width, 1]; another shape or dtype raises ValueError. The
    centre of mass of a frame without ink is its middle; the motion of a video of one frame is 0.
    """
    _check(videos)
    if videos.shape[1] == 1:
        return 0.0
    # Without the threshold, a faint background would pull the centre of mass to the frame's middle.
    ink = _ink(videos[..., 0])
    ink = np.where(ink > _FAINT, ink, 0)
    mass = ink.sum((2, 3))
    centres = []
    for other_axis, length in ((3, videos.shape[2]), (2, videos.shape[3])):
        offset = np.arange(length) - (length - 1) / 2
        centres.append(ink.sum(other_axis) @ offset / np.maximum(mass, _FAINT))
    return float(np.hypot(*np.diff(np.stack(centres), axis=2)).mean())


def persistence_report(
    samples: np.ndarray,
    *,
    real: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    share_of_frames: float = 14 / 16,
    classifier: DigitClassifier | None = None,
) -> dict:
    """Reports persistence, displacement and digits of samples, real videos and noise.

    Args:
      samples: uint8 [n, frames, height, width, 1].
      real: the upper bound, uint8 of the same layout; default: n videos of the test split.
      noise: the lower bound; default: uniform noise with the shape of `samples` and a fixed seed.
      labels: digits [n] that the samples are conditioned on; default: none.
      share_of_frames: minimum share of the frames, as in `digit_persistence`.
      classifier: default: `digit_classifier()`.

    Returns:
      JSON: share_of_frames, and for each of 'samples', 'real' and 'noise' a dict of videos (their
      number), persistence, persistence_standard_error (binomial), displacement (pixels per frame)
      and digit_histogram; 'samples' also has as_asked, the share that keeps its label.

    Raises:
      ValueError: an array has another shape or dtype, or `share_of_frames` is not in (1/2, 1].
    """
    _check(samples)
    count, frames, height, width, _ = samples.shape
    if real is None:
        if height != width:
            raise ValueError(f"real is None, and must be videos of {height}x{width} pixels")
        held_out = MovingDigits("test", frames=frames, resolution=height)
        real = to_uint8(held_out.batch(0, count)["video"])
    if noise is None:
        generator = np.random.Generator(np.random.Philox(key=0))
        noise = generator.integers(256, size=samples.shape, dtype=np.uint8)
    classifier = classifier or digit_classifier()

    report: dict = {"share_of_frames": share_of_frames}
    for name, videos in (("samples", samples), ("real", real), ("noise", noise)):
        digits = classifier.digits_seen(videos)
        share = digit_persistence(digits, share_of_frames)
        report[name] = {
            "videos": len(videos),
            "persistence": share,
            "persistence_standard_error": math.sqrt(share * (1 - share) / len(videos)),
            "displacement": mean_displacement(videos),
            "digit_histogram": digit_histogram(digits, share_of_frames),
        }
        if name == "samples" and labels is not None:
            report[name]["as_asked"] = share_as_asked(digits, labels, share_of_frames)
    return report


def _persistent_digit(digits: np.ndarray, share_of_frames: float) -> np.ndarray:
    """Returns the digit that each video keeps, or -1, int [n]."""
    if not 0.5 < share_of_frames <= 1:  # at 1/2 a video could keep two digits
        raise ValueError(f"share_of_frames is {share_of_frames}, and must be in (1/2, 1]")
    min_frames = math.ceil(share_of_frames * digits.shape[1] - 1e-9)
    counts = (digits[:, :, None] == np.arange(_CLASSES)).sum(1)
    return np.where(counts.max(1) >= min_frames, counts.argmax(1), NO_DIGIT)


def _ink(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 pixels as float32 in [0, 1], 0 for blank."""
    return pixels.astype(np.float32) / 255


def _features(ink: np.ndarray) -> np.ndarray:
    """Returns features of frames, float32 [n, 8 * 8 + 1]: a window on the digit, the ink outside.

    The 8x8 window is placed to maximise its ink, weighted by a parabola around the window's middle;
    the middle is then the centre of mass of the nearby ink. Half of the window may lie outside the
    frame. The last feature, the root of the energy outside the window, makes feature distances
    equal to distances between whole aligned frames: ink elsewhere counts as much as ink over the
    digit.
    """
    margin = DIGIT_SIZE // 2
    ink = np.pad(ink, ((0, 0), (margin, margin), (margin, margin)))
    weights = 1 - ((np.arange(DIGIT_SIZE) - (DIGIT_SIZE - 1) / 2) / _REACH) ** 2
    weights = weights.astype(np.float32)
    # Separable correlation: rows, then columns, as sums over the 8 shifts.
    rows, columns = (length - DIGIT_SIZE + 1 for length in ink.shape[1:])
    weight = sum(w * ink[:, i : i + rows] for i, w in enumerate(weights))
    weight = sum(w * weight[:, :, i : i + columns] for i, w in enumerate(weights))
    top, left = np.divmod(weight.reshape(len(ink), -1).argmax(1), columns)

    frame = np.arange(len(ink))[:, None, None]
    y = top[:, None, None] + np.arange(DIGIT_SIZE)[:, None]
    x = left[:, None, None] + np.arange(DIGIT_SIZE)
    outside = np.where(ink > _FAINT, ink, 0)
    window = ink[frame, y, x]
    outside[frame, y, x] = 0
    residue = np.sqrt(np.square(outside).sum((1, 2)))
    return np.concatenate([window.reshape(len(ink), -1), residue[:, None]], axis=1)


def _check(videos: np.ndarray) -> None:
    good = videos.ndim == 5 and videos.shape[-1] == 1 and videos.dtype == np.uint8 and videos.size
    if not good:
        raise ValueError(
            "expected uint8 [n, frames, height, width, 1] and at least one video, "
            f"not {videos.dtype} {videos.shape}"
        )
