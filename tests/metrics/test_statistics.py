"""Statistics and scores do not depend on the order and the batches of samples."""

import concurrent.futures
import functools
import multiprocessing

import numpy as np
import pytest

from vdm.metrics.inception_score import ScoreSums, inception_score
from vdm.metrics.statistics import FeatureStatistics


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return 100 + rng.normal(size=(503, 30)) @ rng.normal(size=(30, 30))


def merged(parts):
    return functools.reduce(FeatureStatistics.merge, map(FeatureStatistics.of, parts))


def assert_equals_numpy(statistics, features):
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-10)
    expected = np.cov(features, rowvar=False)
    np.testing.assert_allclose(
        statistics.covariance, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max()
    )


@pytest.mark.parametrize("size", [1, 7, 64, 503])
def test_any_batch_size_and_order_gives_the_same(features, size):
    order = np.random.default_rng(size).permutation(len(features))
    parts = np.split(features[order], range(size, len(features), size))
    assert_equals_numpy(merged(parts), features)


def test_two_processes_give_the_same(features):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        even, odd = pool.map(FeatureStatistics.of, [features[::2], features[1::2]])
    assert_equals_numpy(odd.merge(even), features)


def test_merging_empty_statistics_and_errors():
    empty = FeatureStatistics.empty(3)
    assert empty.merge(empty).count == 0
    one = empty.merge(FeatureStatistics.of(np.ones((1, 3))))
    assert one.mean.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="needs at least 2 vectors, and there are 1"):
        _ = one.covariance
    with pytest.raises(ValueError, match="not finite"):
        FeatureStatistics.of(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="of 3 and 4 features"):
        empty.merge(FeatureStatistics.empty(4))


def test_inception_score_closed_forms():
    certain = np.eye(10)[np.arange(40) % 10]
    assert inception_score(certain, 1)[0] == pytest.approx(10)
    assert inception_score(np.full((40, 10), 0.1), 4) == pytest.approx((1, 0))
    # Two classes out of ten, with certainty 0.8: exp(log 2 - H(0.8)).
    p = np.zeros((40, 10))
    p[::2, :2], p[1::2, :2] = [0.8, 0.2], [0.2, 0.8]
    entropy = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    assert inception_score(p, 2)[0] == pytest.approx(np.exp(np.log(2) - entropy))
    with pytest.raises(ValueError, match="do not divide into 41 splits"):
        inception_score(p, 41)
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score(2 * p, 1)


def test_the_streamed_score_equals_that_of_all_samples():
    p = np.random.default_rng(3).dirichlet(np.full(20, 0.2), size=101)
    streamed = functools.reduce(ScoreSums.merge, map(ScoreSums.of, np.split(p, [0, 1, 50, 51])))
    assert streamed.score == pytest.approx(inception_score(p, 1)[0], rel=1e-12)
