"""The distance of videos to their nearest training video, to detect memorisation."""

from collections.abc import Iterable

import numpy as np


def nearest(queries: np.ndarray, references: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distance of each query to its nearest reference, and the reference's index.

    The distance is the root-mean-square difference of pixels, in [0, 255].

    Args:
      queries: uint8 videos [n, frames, height, width, channels].
      references: uint8 videos [frames, height, width, channels], read one after another.

    Returns:
      (distances float64 [n], indices int64 [n]).

    Raises:
      ValueError: there are no references.
    """
    flat = queries.reshape(len(queries), -1).astype(np.float32)
    best = np.full(len(queries), np.inf)
    index = np.zeros(len(queries), np.int64)
    found = False
    for number, reference in enumerate(references):
        found = True
        error = np.square(flat - reference.reshape(-1).astype(np.float32)).mean(1)
        index = np.where(error < best, number, index)
        best = np.minimum(best, error)
    if not found:
        raise ValueError("there are no videos to compare with")
    return np.sqrt(best), index
