"""Checks whether samples are copies of training videos, by their nearest training clips."""

import itertools
from collections.abc import Iterable

import numpy as np

from vdm.data.datasets import DataSet, number_of_videos
from vdm.evaluation.baselines import pixels_of
from vdm.files import AnyPath, replacing
from vdm.metrics.pairwise.nearest import nearest
from vdm.video.display import labelled_contact_sheet

_MAX_CLIPS = 10_000  # training clips to compare with
_CLIPS_PER_VIDEO = 64  # max clips per video of a small data set
_PAIRS = 8  # pairs in the picture


def memorisation(
    samples: Iterable[np.ndarray],
    held_out: Iterable[np.ndarray],
    training: DataSet,
    *,
    mirrored: bool,
    figure: AnyPath | None,
) -> dict[str, float]:
    """Returns the median distance of samples, and of held-out videos, to the nearest training clip.

    Distances are root-mean-square differences of pixels, in [0, 255]. A ratio far below 1 means
    that samples repeat training videos.

    Args:
      samples: uint8 [frames, height, width, 3].
      held_out: as many held-out videos of the same shape.
      training: the training videos; at most 64 clips of each and 10,000 in total are compared.
      mirrored: whether training used horizontal flips; flipped clips are then compared, too.
      figure: PNG file to write, with the samples of smallest distance, each above its nearest
        training clip; None writes nothing.
    """
    stored = number_of_videos(training)
    count = min(stored * _CLIPS_PER_VIDEO or _MAX_CLIPS, _MAX_CLIPS)
    samples = np.stack(list(samples))
    queries = np.concatenate([samples, np.stack(list(held_out))])
    clips = list(itertools.product(range(count), (False, True) if mirrored else (False,)))
    distances, indices = nearest(queries, (_clip(training, *clip) for clip in clips))
    ours, theirs = np.split(distances, 2)
    if figure is not None:
        closest = np.argsort(ours)[:_PAIRS]
        copied = np.stack([_clip(training, *clips[indices[index]]) for index in closest])
        _draw_pairs(figure, samples[closest], copied, [f"sample {index}" for index in closest])
    return {
        "nearest": float(np.median(ours)),
        "nearest_of_held_out": float(np.median(theirs)),
        "nearest_ratio": float(np.median(ours) / max(np.median(theirs), 1e-12)),
    }


def _clip(training: DataSet, index: int, is_mirrored: bool) -> np.ndarray:
    clip = pixels_of(training, index)
    return clip[:, :, ::-1] if is_mirrored else clip


def _draw_pairs(
    path: AnyPath, samples: np.ndarray, clips: np.ndarray, names: Iterable[str]
) -> None:
    """Writes a picture of each sample above its nearest training clip."""
    sheet = labelled_contact_sheet(
        np.stack([samples, clips], axis=1).reshape(-1, *samples.shape[1:]),
        rows=list(itertools.chain.from_iterable((name, "nearest clip") for name in names)),
        columns=[str(frame) for frame in range(samples.shape[1])],
        corner="frame",
    )
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")
    print(f"samples and their nearest training clips: {path}", flush=True)
