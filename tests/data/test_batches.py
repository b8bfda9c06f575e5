"""Prefetched batches equal those built directly, and no thread keeps running."""

import threading
import time

import numpy as np
import pytest

from vdm.data.batches import Batches
from vdm.data.moving_digits import MovingDigits


def _workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("vdm-")]


@pytest.mark.parametrize(("num_workers", "prefetch"), [(1, 1), (3, 2), (8, 20)])
def test_batches_are_those_of_the_data_set_in_order(num_workers, prefetch):
    source = MovingDigits("train", frames=3, num_images=1, condition="label")
    rows, steps = range(2, 5), range(7, 19)
    with Batches(
        source, steps, 6, rows=rows, num_workers=num_workers, prefetch=prefetch
    ) as batches:
        for step in steps:
            found, expected = batches.next(), source.batch(step, 6, rows=rows)
            assert found.keys() == expected.keys()
            for name, values in found.items():
                np.testing.assert_array_equal(values, expected[name])
        with pytest.raises(StopIteration):
            batches.next()
    assert not _workers()


class _Recorder:
    """Records the indices of examples, which take some time; some raise an error."""

    def __init__(self, seconds=0.0, broken=()):
        self.read, self._seconds, self._broken = [], seconds, broken

    def example(self, index):
        time.sleep(self._seconds)
        if index in self._broken:
            raise ValueError(f"video {index} is damaged")
        self.read.append(index)
        return {"index": np.array(index)}


def test_only_the_prefetched_batches_are_built():
    source = _Recorder()
    with Batches(source, range(100), 4, num_workers=3, prefetch=2) as batches:
        batches.next()
        time.sleep(0.1)
        assert sorted(source.read) == list(range(12))


def test_an_error_is_raised_at_its_batch_and_leaves_no_worker():
    source = _Recorder(seconds=0.001, broken=(13,))
    with (
        pytest.raises(ValueError, match="video 13 is damaged"),
        Batches(source, range(100), 4, num_workers=3, prefetch=5) as batches,
    ):
        for step in range(100):
            assert batches.next()["index"].tolist() == list(range(4 * step, 4 * step + 4))
    assert step == 3 and not _workers()


def test_an_interruption_leaves_no_worker():
    with (
        pytest.raises(KeyboardInterrupt),
        Batches(_Recorder(0.01), range(100), 4, num_workers=3, prefetch=5) as batches,
    ):
        batches.next()
        raise KeyboardInterrupt
    assert not _workers()


def test_seconds_waited_excludes_the_callers_own_work():
    # Sleeping threads need no core, so these times hold on a busy machine.
    with Batches(_Recorder(0.2), range(2), 1, num_workers=1, prefetch=1) as batches:
        batches.next()
        alone = batches.seconds_waited
        assert alone > 0.1
        batches.next(meanwhile=lambda: time.sleep(0.5))
        assert batches.seconds_waited - alone < 0.1


def test_batches_are_placed_before_they_are_requested():
    placed = []
    with Batches(
        _Recorder(), range(3), 2, place=placed.append, num_workers=1, prefetch=2
    ) as batches:
        time.sleep(0.1)
        assert [batch["index"].tolist() for batch in placed] == [[0, 1], [2, 3]]
        assert batches.next() is None
