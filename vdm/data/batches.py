"""Data sets of indexed examples, and batches per training step, prefetched by threads."""

import abc
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

CONDITIONS = ("none", "label", "text", "action")


class DataSet(abc.ABC):
    """Base class of data sets: examples by index. Thread-safe."""

    @abc.abstractmethod
    def example(self, index: int) -> dict[str, np.ndarray]:
        """Returns example `index`, any non-negative integer, as a dict of arrays.

        Returns:
          video: float32 [frames, height, width, channels].
          images: float32 [num_images, height, width, channels], if num_images > 0.
          label: int32 [], and image_label [num_images], with condition 'label'.
          text: float32 [text_tokens, text_width] and text_mask bool [text_tokens], and image_text
            and image_text_mask with a leading [num_images], with condition 'text'.
          action: float32 [frames, action_width], each applied between its frame and the next, and
            action_mask bool [frames], with condition 'action'. Images have no actions.
        """

    @abc.abstractmethod
    def caption(self, index: int) -> str:
        """Returns the caption of example `index`."""

    @abc.abstractmethod
    def label(self, index: int) -> int:
        """Returns the class of example `index`."""

    def batch(
        self, step: int, batch_size: int, *, rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns batch `step`: examples step * batch_size and up, stacked along a new first axis.

        Args:
          step: number of the batch, from 0.
          batch_size: number of examples of the batch, on all hosts together.
          rows: rows of the batch to build, each from 0 to batch_size - 1; default: all.

        Returns:
          The arrays of `example`, with a first axis of len(rows).

        Raises:
          ValueError: `rows` is empty, a row is out of range, or `example` raises it.
        """
        indices = _example_indices(step, batch_size, rows)
        return _stack([self.example(index) for index in indices])

    def check_attributes(self, choices: Mapping[str, tuple], minima: Mapping[str, int]) -> None:
        """Raises ValueError if an attribute is not one of its choices or is below its minimum."""
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}, and must be one of {allowed}")
        for name, minimum in minima.items():
            if (value := getattr(self, name)) < minimum:
                raise ValueError(f"{name} is {value}, and must be at least {minimum}")


def example_generator(seed: int, stream: int, index: int) -> np.random.Generator:
    """Returns a random generator that is a function of (seed, stream, index) only.

    Args:
      seed: non-negative seed.
      stream: non-negative number of a purpose, such as 0 for training; streams are independent.
      index: non-negative index of an example.
    """
    # The index is the high word of the counter, so generators overlap only after 2^192 draws.
    key = np.array([seed, stream], np.uint64)
    counter = np.array([0, 0, 0, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def text_arrays(encoded: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the text arrays of an example, from the encoded captions of its clip and images."""
    texts, masks = map(np.stack, zip(*encoded, strict=True))
    out = {"text": texts[0], "text_mask": masks[0]}
    return out | ({"image_text": texts[1:], "image_text_mask": masks[1:]} if len(texts) > 1 else {})


class Batches:
    """Iterates over the batches of consecutive steps, and prefetches them in threads.

    Threads suffice, because decoding, resizing and NumPy release the GIL. A batch is a function of
    (data set, step) only, not of the number of workers. As a context manager, it stops all workers
    on exit.

    Attributes:
      seconds_waited: total seconds that `next` blocked its caller, excluding the `meanwhile` work.
    """

    def __init__(
        self,
        data_set: DataSet,
        steps: range,
        batch_size: int,
        *,
        rows: Sequence[int] | None = None,
        place: Callable[[dict[str, np.ndarray]], Any] = lambda batch: batch,
        num_workers: int,
        prefetch: int,
    ):
        """Starts prefetching.

        Args:
          data_set: the examples.
          steps: numbers of the batches, in order.
          batch_size: as in `DataSet.batch`.
          rows: as in `DataSet.batch`.
          place: applied to each complete batch, for example to move it to the devices.
          num_workers: number of threads that load examples.
          prefetch: number of batches that are loaded ahead of the one that `next` returns.
        """
        self.seconds_waited = 0.0
        self._data_set, self._steps = data_set, iter(steps)
        self._batch_size, self._rows, self._place = batch_size, rows, place
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="vdm-examples")
        # One thread, so that batches finish in order.
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="vdm-batches")
        self._ahead: deque[Future] = deque()
        for _ in range(prefetch):
            self._start_next()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        for executor in (self._workers, self._finisher):
            executor.shutdown(wait=False, cancel_futures=True)
        for executor in (self._workers, self._finisher):
            executor.shutdown(wait=True)

    def next(self, meanwhile: Callable[[], Any] | None = None) -> Any:
        """Returns the next batch.

        Args:
          meanwhile: function that waits for other work, such as a training step on a device. It is
            called if the batch is not ready, so that `seconds_waited` excludes this time.

        Raises:
          StopIteration: no steps remain.
          Exception: the error that occurred while loading this batch.
        """
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.popleft()
        self._start_next()
        if not batch.done():
            if meanwhile is not None:
                meanwhile()
            start = time.monotonic()
            batch.exception()  # waits
            self.seconds_waited += time.monotonic() - start
        return batch.result()

    def _start_next(self) -> None:
        step = next(self._steps, None)
        if step is None:
            return
        indices = _example_indices(step, self._batch_size, self._rows)
        examples = [self._workers.submit(self._data_set.example, index) for index in indices]
        self._ahead.append(self._finisher.submit(self._finish, examples))

    def _finish(self, examples: list[Future]) -> Any:
        return self._place(_stack([example.result() for example in examples]))


def _example_indices(step: int, batch_size: int, rows: Sequence[int] | None) -> list[int]:
    rows = range(batch_size) if rows is None else rows
    if not rows or min(rows) < 0 or max(rows) >= batch_size:
        raise ValueError(f"rows is {rows}, and must be rows of a batch of {batch_size}")
    return [step * batch_size + row for row in rows]


def _stack(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
