"""The common part of `frames` in all formats: order, range and size of the frames."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vdm.video.pixels import central_square


def select_frames(
    video,
    indices: Sequence[int],
    resolution: int,
    read: Callable[[list[int]], Iterator[np.ndarray]],
) -> np.ndarray:
    """Implements `vdm.video.read.Video.frames` for videos that read in ascending order.

    Each frame is resized before the next is read, so that readers need not hold all frames at full
    size.

    Args:
      video: the video, whose path and length error messages name.
      indices: indices of frames, in any order.
      resolution: side of the resized central square in pixels; 0: frames as stored.
      read: yields the frames uint8 [height, width, 3] at ascending, distinct indices.

    Returns:
      uint8 [n, height, width, 3], in the order of `indices`.

    Raises:
      IndexError: an index is out of range.
    """
    order = [int(index) for index in indices]
    if order and not 0 <= min(order) <= max(order) < video.num_frames:
        raise IndexError(f"{video.path} has {video.num_frames} frames, and {order} are requested")
    wanted = sorted(set(order))
    size = (resolution, resolution) if resolution else (video.height, video.width)
    out = np.empty((len(wanted), *size, 3), np.uint8)
    for position, frame in enumerate(read(wanted) if wanted else ()):
        out[position] = central_square(frame, resolution)
    if wanted == order:
        return out  # no copy, which might not fit in memory
    return out[np.searchsorted(wanted, order)]
