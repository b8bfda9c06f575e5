"""The Frechet distance against closed forms, scipy's matrix root and published values."""

import pathlib

import numpy as np
import pytest
import scipy.linalg

from vdm.metrics.frechet import frechet_distance
from vdm.metrics.statistics import FeatureStatistics

GOLDEN = pathlib.Path(__file__).parents[3] / "shared/data/golden"


def distance_of(a, b):
    a, b = FeatureStatistics.of(a), FeatureStatistics.of(b)
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def test_it_equals_the_textbook_formula_with_scipys_root():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 12)), 1 + rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected += np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)
    np.testing.assert_allclose(distance_of(a, b), expected, rtol=1e-10)


def test_singular_covariances_have_their_closed_form():
    """Rank one, with directions u and v: |u|^2 + |v|^2 - 2 |u . v|."""
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=(2, 500))
    found = frechet_distance(np.zeros(500), np.outer(u, u), np.zeros(500), np.outer(v, v))
    # A square root has half of the accurate digits of its argument.
    np.testing.assert_allclose(found, u @ u + v @ v - 2 * abs(u @ v), rtol=1e-6)


def test_the_distance_of_a_singular_set_to_itself_is_zero():
    features = np.random.default_rng(2).normal(size=(20, 400))
    assert abs(distance_of(features, features)) < 1e-10 * 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "a", "b", "value"),
    [
        ("i3d", "universome_feats_fake", "universome_feats_real", "universome_fvd"),
        ("inception", "fid_feats_even", "fid_feats_odd", "fid_even_odd"),
    ],
)
def test_published_values_are_reproduced(file, a, b, value):
    path = GOLDEN / f"{file}_golden.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    golden = np.load(path)
    np.testing.assert_allclose(distance_of(golden[a], golden[b]), golden[value], rtol=1e-6)


def test_the_published_example_of_black_and_white_videos():
    """Sixteen equal videos per set: covariances are 0, the distance is that of the means."""
    path = GOLDEN / "i3d_golden.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    golden = np.load(path)
    black, white = (
        golden[f"fvd_example_feats_{name}"].repeat(16, axis=0) for name in ("zeros", "255")
    )
    np.testing.assert_allclose(distance_of(black, white), golden["fvd_example"], rtol=1e-6)


@pytest.mark.parametrize(
    ("covariance", "sentence"),
    [
        (np.eye(3), "do not fit"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.diag([1.0, -1.0]), "negative eigenvalue -1"),
        (np.diag([1.0, np.nan]), "not finite"),
    ],
)
def test_invalid_covariances_are_errors(covariance, sentence):
    with pytest.raises(ValueError, match=sentence):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), covariance)
