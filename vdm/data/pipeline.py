"""Batches made ahead of the step that needs them, by threads, in the order of the steps."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from vdm.data.batches import examples_of_batch, stack_examples


class Source(Protocol):
    """Examples at random access, for several threads at once."""

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Example `index` of the stream."""


class Batches:
    """The batches of consecutive steps, of which the next ones are being made meanwhile.

    Examples are made by threads: decoding, resizing and NumPy's arithmetic run outside Python's
    lock. A batch is a function of (source, step) alone, whatever the number of workers.

    Used as a context, so that no worker is left when the steps end, however they end.

    Attributes:
      seconds_waited: for which `next` kept its caller waiting, beyond the caller's own work.
    """

    def __init__(
        self,
        source: Source,
        steps: range,
        batch_size: int,
        *,
        rows: slice | range | None = None,
        place: Callable[[dict[str, np.ndarray]], Any] = lambda batch: batch,
        num_workers: int,
        prefetch: int,
    ):
        """Starts on the first batches.

        Args:
          source: the examples; batch `step` has those from step * batch_size on.
          steps: of which batches are made.
          batch_size: of the whole batch, over all hosts.
          rows: the rows of the batch to make here, all of them by default.
          place: what is done with a batch when it is made, as sending it to the devices.
          num_workers: threads that make examples.
          prefetch: batches that are made, or being made, ahead of the one that was asked for.
        """
        self.seconds_waited = 0.0
        self._source, self._steps = source, iter(steps)
        self._batch_size, self._rows, self._place = batch_size, rows, place
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="vdm-examples")
        # One thread, which finishes batches in order.
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
        """The next batch.

        Args:
          meanwhile: waits for the work that goes on elsewhere, as a training step on a device;
            called where the batch is not there yet, so that only what is waited beyond it counts.

        Raises:
          StopIteration: there are no more steps.
          Exception: whatever went wrong while this batch was made.
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
        indices = examples_of_batch(step, self._batch_size, self._rows)
        examples = [self._workers.submit(self._source.example, index) for index in indices]
        self._ahead.append(self._finisher.submit(self._finish, examples))

    def _finish(self, examples: list[Future]) -> Any:
        return self._place(stack_examples([example.result() for example in examples]))
