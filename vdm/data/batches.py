"""Batch `step` of a data set: which of its examples it holds, and how they are put together."""

from collections.abc import Sequence

import numpy as np


def examples_of_batch(step: int, batch_size: int, rows: slice | range | None = None) -> list[int]:
    """The indices of the examples of batch `step`: step * batch_size and up.

    Args:
      step: training step, so that the batch is a function of (seed, step) alone.
      batch_size: of the whole batch, over all hosts.
      rows: the rows of the batch that are wanted, all of them by default.

    Raises:
      ValueError: `rows` holds no row of the batch, or one outside it.
    """
    chosen = slice(None) if rows is None else rows
    if isinstance(chosen, slice):
        chosen = range(batch_size)[chosen]
    if not chosen or min(chosen) < 0 or max(chosen) >= batch_size:
        raise ValueError(f"rows {rows} is not a part of a batch of {batch_size}")
    return [step * batch_size + row for row in chosen]


def stack_examples(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of each name stacked along a new first axis."""
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
