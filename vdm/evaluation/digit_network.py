"""Feature-based metrics of moving digits with a small network: digit_fvd, digit_fid, digit_is.

    python -m vdm.evaluation.digit_network

trains a perceptron to classify digits in frames of the embedded training split, and writes its
weights to vdm/evaluation/digit_network.npz. This file is committed, so that every machine uses the
same features. The metrics are FVD, FID and the Inception Score with this network in place of I3D
and Inception; their values are not comparable with the paper's.
"""

import argparse
import dataclasses
import functools
import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from vdm.data.moving_digits import MovingDigits
from vdm.evaluation.digit_persistence import (
    digit_classifier,
    digit_persistence,
    share_as_asked,
)
from vdm.files import replacing
from vdm.interruptible import interruptible
from vdm.metrics.frechet import frechet_distance
from vdm.metrics.inception_score import inception_score
from vdm.video.pixels import to_uint8

RESOLUTION = 12  # height and width of the frames in pixels
WEIGHTS = Path(__file__).with_name("digit_network.npz")
_HIDDEN = (128, 16)  # the second layer's activations are the features
_VIDEOS = 6_000  # training videos, four frames each
_FRAMES, _FRAMESKIP = 4, 5
_EPOCHS = 15


@dataclasses.dataclass(frozen=True)
class DigitNetwork:
    """A perceptron of two hidden layers (ReLU) on single frames of 12x12 pixels.

    Attributes:
      weights: kernels [144, 128], [128, 16] and [16, 10], float32.
      biases: biases [128], [16] and [10], float32.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    def __call__(self, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns features [n, frames, 16] and logits [n, frames, 10] of each frame, float64.

        Args:
          videos: uint8 [n, frames, 12, 12, 1].

        Raises:
          ValueError: the videos have another shape or dtype.
        """
        if videos.dtype != np.uint8 or videos.shape[2:] != (RESOLUTION, RESOLUTION, 1):
            raise ValueError(
                f"videos are {videos.dtype} {videos.shape}, and must be uint8 "
                f"[n, frames, {RESOLUTION}, {RESOLUTION}, 1]"
            )
        hidden = videos.reshape(*videos.shape[:2], -1) / 255.0
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, 0)
        return hidden, hidden @ self.weights[-1] + self.biases[-1]

    def digest(self) -> str:
        """Returns 8 hexadecimal digits of the weights, which results record."""
        digest = hashlib.sha256()
        for array in (*self.weights, *self.biases):
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()[:8]

    def save(self, path: Path) -> None:
        """Writes the weights to a .npz file; raises OSError, with its path, if it cannot."""
        arrays: dict[str, Any] = {f"weight_{i}": weight for i, weight in enumerate(self.weights)}
        arrays |= {f"bias_{i}": bias for i, bias in enumerate(self.biases)}
        # NumPy would append .npz to the name of the temporary file.
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)


@functools.cache
def load_digit_network(path: Path = WEIGHTS) -> DigitNetwork:
    """Loads a network from the committed weights, or from another file of `DigitNetwork.save`."""
    with np.load(path) as saved:
        layers = range(len(saved.files) // 2)
        return DigitNetwork(
            tuple(saved[f"weight_{i}"] for i in layers), tuple(saved[f"bias_{i}"] for i in layers)
        )


def train_digit_network(videos: int = _VIDEOS, epochs: int = _EPOCHS) -> DigitNetwork:
    """Trains on frames of the training split; a deterministic function of the arguments."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    pixels, labels = _frames("train", videos)
    network = MLPClassifier(
        _HIDDEN,
        alpha=1e-3,
        batch_size=min(128, len(pixels)),
        learning_rate_init=2e-3,
        max_iter=epochs,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed
        network.fit(pixels.reshape(len(pixels), -1) / 255.0, labels)
    return DigitNetwork(
        tuple(weight.astype(np.float32) for weight in network.coefs_),
        tuple(bias.astype(np.float32) for bias in network.intercepts_),
    )


def accuracy(network: DigitNetwork, videos: int = 1_000) -> float:
    """Returns the accuracy on frames of the test split, which has other writers."""
    pixels, labels = _frames("test", videos)
    _, logits = network(pixels[:, None])
    return float(np.mean(logits[:, 0].argmax(1) == labels))


def video_features(network: DigitNetwork, videos: np.ndarray) -> np.ndarray:
    """Returns features of whole videos for digit_fvd, float64 [n, 32].

    The first half is the mean of each activation over frames, and describes appearance; the second
    half is the mean absolute difference between consecutive frames, and describes motion and
    discontinuities. `videos` are as in `DigitNetwork`, with at least 2 frames.
    """
    features, _ = network(videos)
    return np.concatenate([features.mean(1), np.abs(np.diff(features, axis=1)).mean(1)], axis=1)


def digit_metrics(
    samples: np.ndarray,
    real: np.ndarray,
    labels: np.ndarray | None = None,
    network: DigitNetwork | None = None,
) -> dict[str, float]:
    """Computes digit_fvd, digit_fid, digit_is and digit persistence of samples.

    Args:
      samples: uint8 [n, frames, 12, 12, 1].
      real: any number of held-out videos, with the same number of frames.
      labels: digits [n] that the samples are conditioned on; default: none.
      network: default: the committed one.

    Returns:
      digit_fvd, from `video_features`; digit_fid, from activations averaged over frames; digit_is,
      from the softmax of logits averaged over frames, with one split; persistence, from
      `digit_persistence`; and, with labels, as_asked, from `share_as_asked`.
    """
    network = network or load_digit_network()
    _, logits = network(samples)
    digits = digit_classifier().digits_seen(samples)
    metrics = {
        "digit_fvd": _distance(video_features(network, samples), video_features(network, real)),
        "digit_fid": _distance(network(samples)[0].mean(1), network(real)[0].mean(1)),
        "digit_is": inception_score(softmax(logits.mean(1), axis=1), 1)[0],
        "persistence": digit_persistence(digits),
    }
    if labels is not None:
        metrics["as_asked"] = share_as_asked(digits, labels)
    return metrics


def change_at_seams(videos: np.ndarray, seams: list[int]) -> float:
    """Returns the ratio of frame-to-frame change at block boundaries to that inside; 1 is seamless.

    Args:
      videos: uint8 [n, frames, ...].
      seams: indices of the frames that begin a new block.
    """
    change = np.abs(np.diff(videos.astype(np.float32), axis=1)).mean((0, *range(2, videos.ndim)))
    is_seam = np.isin(np.arange(1, videos.shape[1]), seams)
    return float(change[is_seam].mean() / change[~is_seam].mean())


def _frames(split: str, videos: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns frames uint8 [videos * 4, 12, 12, 1] of real videos, and their digits."""
    source = MovingDigits(
        split,
        frames=_FRAMES,
        frameskip=_FRAMESKIP,
        resolution=RESOLUTION,
        motion="horizontal",
        condition="label",
    )
    batch = source.batch(0, videos)
    pixels = to_uint8(batch["video"]).reshape(-1, RESOLUTION, RESOLUTION, 1)
    return pixels, np.repeat(batch["label"], _FRAMES)


def _distance(samples: np.ndarray, real: np.ndarray) -> float:
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (samples, real)]
    return frechet_distance(*moments[0], *moments[1])


@interruptible()
def main(argv: list[str] | None = None) -> None:
    """Trains the network, writes it and prints its accuracy; one line and status 1 on errors."""
    argparse.ArgumentParser(
        prog="python -m vdm.evaluation.digit_network",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    try:
        network = train_digit_network()
        network.save(WEIGHTS)
        print(f"{WEIGHTS}: digest {network.digest()}, held-out accuracy {accuracy(network):.3f}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
