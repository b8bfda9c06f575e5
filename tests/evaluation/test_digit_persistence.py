import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vdm.data.moving_digits import MovingDigits, handwriting
from vdm.evaluation import moving_digits
from vdm.evaluation.digit_persistence import (
    DigitClassifier,
    digit_classifier,
    digit_histogram,
    digit_persistence,
    mean_displacement,
    persistence_report,
    share_as_asked,
)
from vdm.evaluation.moving_digits import over_real
from vdm.video.pixels import to_uint8

_COUNT = 128


@pytest.fixture(scope="module")
def real():
    data = MovingDigits("test", seed=7, speed=1)
    return data.batch(0, _COUNT)["video"], np.array([data.label(i) for i in range(_COUNT)])


def _seen(videos):
    return digit_classifier().digits_seen(to_uint8(videos))


def _persistence(videos):
    return digit_persistence(_seen(videos))


def test_persistence_and_histogram_count_videos_that_keep_one_digit():
    digits = np.full((6, 16), -1)  # the last video shows no digit
    digits[0] = 3
    digits[1, 2:] = 7  # 14 of 16
    digits[2, 1:14] = 7  # 13 of 16
    digits[3, :8], digits[3, 8:] = 1, 2
    digits[4] = np.arange(16) % 10
    assert digit_persistence(digits) == 2 / 6
    assert digit_histogram(digits) == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert digit_persistence(digits, share_of_frames=1) == 1 / 6
    assert digit_persistence(digits, share_of_frames=13 / 16) == 3 / 6
    assert digit_persistence(np.array([[5] * 9 + [-1], [5] * 8 + [-1] * 2])) == 1 / 2  # 9 of 10
    assert share_as_asked(np.array([[5] * 9 + [-1], [4] * 10]), np.array([5, 5])) == 1 / 2
    with pytest.raises(ValueError, match=r"0\.5"):
        digit_persistence(digits, share_of_frames=0.5)


def test_reads_held_out_handwriting_at_any_position_and_with_slight_noise(real):
    videos, labels = real
    digits, labels_in_files = handwriting("test")
    seen = digit_classifier().digits_seen(to_uint8(digits)[:, None, :, :, None])[:, 0]
    assert np.mean(seen == labels_in_files) > 0.92
    assert np.mean((seen != labels_in_files) & (seen >= 0)) < 0.02  # ambiguous digits read as none

    seen = _seen(videos)
    assert (seen == seen[:, :1]).all()  # regardless of position
    assert digit_persistence(seen) > 0.92
    counts = np.bincount(labels, minlength=10)
    assert (np.array(digit_histogram(seen)) <= counts + 3).all()

    rng = np.random.default_rng(0)
    noise = rng.standard_normal(videos.shape)
    assert _persistence(videos + 0.1 * noise) > 0.85
    assert _persistence(gaussian_filter(videos, (0, 0, 0.5, 0.5, 0))) > 0.9
    assert _persistence(videos + 0.4 * noise) < 0.1


def test_noise_and_changing_digits_do_not_persist(real):
    videos, labels = real
    rng = np.random.default_rng(1)
    shape = videos.shape
    ones = np.ones(shape)
    for frames in (
        rng.uniform(-1, 1, shape),
        rng.standard_normal(shape),
        -1 + 0.2 * rng.standard_normal(shape),
        gaussian_filter(3 * rng.standard_normal(shape), (0, 0, 1, 1, 0)),
        rng.permuted(videos.reshape(_COUNT, 16, -1), axis=2).reshape(shape),  # a digit's own ink
        *(level * ones for level in (-1, -0.5, 0, 1)),
    ):
        assert (_seen(frames) == -1).mean() > 0.999

    # The digit changes half-way, or two digits overlap.
    others = np.array([rng.choice(np.flatnonzero(labels != label)) for label in labels])
    other = videos[others]
    assert _persistence(np.concatenate([videos[:, :8], other[:, 8:]], axis=1)) <= 0.02
    assert _persistence(np.maximum(videos, other)) <= 0.02


def test_displacement_equals_the_speed(real):
    videos = to_uint8(real[0])
    # Half of the velocities are along an axis and half diagonal.
    assert mean_displacement(videos) == pytest.approx((1 + np.sqrt(2)) / 2, abs=0.06)
    assert mean_displacement(videos[:, :1].repeat(16, axis=1)) == 0
    assert mean_displacement(videos[:, :1]) == 0
    assert mean_displacement(np.zeros_like(videos)) == 0

    dot = np.zeros((1, 3, 9, 12, 1), np.uint8)
    dot[0, 0, 1, 1] = dot[0, 1, 4, 5] = dot[0, 2, 4, 5] = 200  # by (3, 4), then by (0, 0)
    assert mean_displacement(dot) == pytest.approx(2.5)


def test_report_has_samples_real_videos_and_noise(real):
    samples = to_uint8(real[0])
    samples[: _COUNT // 2] = 0
    report = persistence_report(samples)
    assert json.loads(json.dumps(report)) == report
    kept = digit_persistence(digit_classifier().digits_seen(samples))
    assert report["samples"]["persistence"] == kept
    assert 0.4 < kept <= 0.5
    assert report["samples"]["persistence_standard_error"] == pytest.approx(
        np.sqrt(kept * (1 - kept) / _COUNT)
    )
    assert sum(report["samples"]["digit_histogram"]) == round(kept * _COUNT)
    assert report["real"]["persistence"] > 0.85 and report["real"]["videos"] == _COUNT
    held_out = to_uint8(MovingDigits("test").batch(0, _COUNT)["video"])
    seen = digit_classifier().digits_seen(held_out)
    assert report["real"]["digit_histogram"] == digit_histogram(seen)
    assert report["real"]["displacement"] == mean_displacement(held_out)
    assert report["noise"]["persistence"] == 0

    given = persistence_report(samples, real=samples[-8:], noise=samples[:8])
    assert given["real"]["videos"] == 8 and given["noise"]["persistence"] == 0


def test_over_real_videos_of_which_none_is_persistent():
    blank = np.zeros((1, 4, 8, 8, 1), np.uint8)
    report = persistence_report(blank, real=blank)
    assert report["real"]["persistence"] == 0 and over_real(report, "samples") is None
    assert moving_digits._row("samples", report)[2] == "-"


def test_refuses_arrays_of_another_shape():
    classifier = digit_classifier()
    for videos in (np.zeros((2, 16, 16, 1), np.uint8), np.zeros((1, 2, 16, 16, 3), np.uint8)):
        for function in (classifier.digits_seen, mean_displacement, persistence_report):
            with pytest.raises(ValueError, match=r"16, 16, [13]\)"):
                function(videos)
    with pytest.raises(ValueError, match="float32"):
        mean_displacement(np.zeros((1, 2, 16, 16, 1), np.float32))
    with pytest.raises(ValueError, match="16x20 pixels"):
        persistence_report(np.zeros((1, 2, 16, 20, 1), np.uint8))
    with pytest.raises(ValueError, match="every digit"):
        DigitClassifier.fit(np.zeros((3, 8, 8), np.uint8), np.arange(3))
