"""Metrics of single videos against scikit-image, scikit-learn and closed forms."""

import json
from functools import partial

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

import vdm
from vdm.metrics.__main__ import main
from vdm.metrics.measure import compare, summarize
from vdm.metrics.pairwise.kernel import kernel_distance
from vdm.metrics.pairwise.nearest import nearest
from vdm.metrics.pairwise.similarity import MAX_PSNR, motion, psnr, ssim
from vdm.metrics.protocols import Protocol


@pytest.fixture
def pairs(shared_data):
    """Returns real clips [2, 8, 64, 64, 3] and the same a frame later."""
    frames = np.load(shared_data("weizmann64.npz"))["frames"]
    return np.stack([frames[:8], frames[100:108]]), np.stack([frames[1:9], frames[101:109]])


def test_psnr_and_ssim_equal_those_of_scikit_image(pairs):
    skimage = pytest.importorskip("skimage.metrics")
    expected_psnr, expected_ssim = [], []
    for videos in zip(*pairs, strict=True):
        frames = list(zip(*videos, strict=True))
        expected_psnr.append([skimage.peak_signal_noise_ratio(*pair) for pair in frames])
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected_ssim.append(
            [skimage.structural_similarity(*pair, channel_axis=-1, **options) for pair in frames]
        )
    np.testing.assert_allclose(psnr(*pairs), np.mean(expected_psnr, axis=1), rtol=1e-6)
    np.testing.assert_allclose(ssim(*pairs), np.mean(expected_ssim, axis=1), atol=1e-5)


def test_equal_videos_have_the_greatest_similarity():
    videos = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 12, 1), dtype=np.uint8)
    np.testing.assert_array_equal(psnr(videos, videos), MAX_PSNR)
    np.testing.assert_allclose(ssim(videos, videos), 1, atol=1e-6)
    with pytest.raises(ValueError, match="8x8 pixels, and SSIM needs 11x11"):
        ssim(videos[:, :, :8, :8], videos[:, :, :8, :8])


def test_motion_of_a_ramp():
    videos = np.arange(6)[None, :, None, None, None] * np.array([3, 7])[:, None, None, None, None]
    videos = np.broadcast_to(videos, (2, 6, 4, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(motion(videos), [3, 7])
    np.testing.assert_array_equal(motion(videos[:, ::-1]), [3, 7])
    with pytest.raises(ValueError, match="videos have 1 frame, and motion needs 2"):
        motion(videos[:, :1])


def test_kernel_distance_equals_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(12, 5)), rng.normal(0.3, 1, size=(9, 5))

    def kernel(a, b):
        return polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1)

    def over_pairs(matrix):
        return matrix[~np.eye(len(matrix), dtype=bool)].mean()

    expected = over_pairs(kernel(real, real)) + over_pairs(kernel(generated, generated))
    expected -= 2 * kernel(real, generated).mean()
    distance, error, low, high = kernel_distance(real, generated)
    assert distance == pytest.approx(expected, rel=1e-9)
    assert error > 0 and low < high


@pytest.mark.parametrize("count", [8, 4_100])
def test_kernel_distance_of_equal_distributions_is_zero_on_average(count):
    rng = np.random.default_rng(0)
    trials = 200 if count < 100 else 3
    results = [
        kernel_distance(rng.normal(size=(count, 3)), rng.normal(size=(count, 3)))
        for _ in range(trials)
    ]
    distances = np.array([result[0] for result in results])
    assert abs(distances.mean()) < 4 * distances.std(ddof=1) / trials**0.5
    far = kernel_distance(rng.normal(size=(count, 3)), rng.normal(3, 1, size=(count, 3)))
    assert far[0] > 10 * distances.std() and far[2] > 0


def test_nearest_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    references = rng.integers(0, 256, (40, 2, 4, 4, 1), dtype=np.uint8)
    queries = np.concatenate([references[[7]], rng.integers(0, 256, (5, 2, 4, 4, 1), np.uint8)])
    distance, index = nearest(queries, iter(references))
    search = NearestNeighbors(n_neighbors=1).fit(references.reshape(40, -1).astype(float))
    expected, found = search.kneighbors(queries.reshape(6, -1).astype(float))
    np.testing.assert_allclose(distance, expected[:, 0] / 32**0.5, rtol=1e-6)
    np.testing.assert_array_equal(index, found[:, 0])
    assert (distance[0], index[0]) == (0, 7)


def test_the_command_pairs_samples_with_their_real_videos(tmp_path, capsys):
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (3, 4, 16, 16, 3), dtype=np.uint8)
    noise = rng.integers(-20, 21, (6, *real.shape[1:]))
    noise[1::2] //= 4  # the second sample of each video is the better one
    generated = np.clip(real.repeat(2, axis=0) + noise, 0, 255).astype(np.uint8)
    np.savez(tmp_path / "real.npz", video=real)
    np.savez(tmp_path / "generated.npz", video=generated)
    paths = [f"--real={tmp_path}/real.npz", f"--generated={tmp_path}/generated.npz"]
    main([*paths, "--protocol=similarity"])
    result = json.loads(capsys.readouterr().out)
    each = psnr(real.repeat(2, axis=0), generated).reshape(3, 2)
    assert result["psnr"] == pytest.approx(each.mean())
    assert result["psnr_best"] == pytest.approx(each[:, 1].mean())
    error = each[:, 1].std(ddof=1) / 3**0.5
    assert result["psnr_best_standard_error"] == pytest.approx(error)
    assert result["ssim"] < result["ssim_best"] < 1 and 0.9 < result["motion"] < 1.1
    # One pair has no spread, and therefore no standard error.
    alone = vdm.metrics.compare_sets(real[:1], generated[:1], protocol="similarity")
    assert alone["psnr"] == pytest.approx(each[0, 0])
    assert not [name for name in alone if name.endswith("_standard_error")]
    np.savez(tmp_path / "generated.npz", video=generated[:5])
    with pytest.raises(SystemExit):
        main([*paths, "--protocol=similarity"])
    assert "has 5 videos, and must have a multiple of 3" in capsys.readouterr().err


def test_each_clip_of_a_sample_is_compared_with_the_same_clip_of_its_video():
    rng = np.random.default_rng(0)
    real = rng.integers(30, 220, (3, 12, 16, 16, 3), dtype=np.uint8)
    noise = rng.integers(-20, 21, (6, *real.shape[1:]))
    noise[1::2] //= 4
    generated = (real.repeat(2, axis=0) + noise).astype(np.uint8)
    options = {"protocol": "similarity", "frames": 4, "clips_per_video": 3}
    found = vdm.metrics.compare_sets(real, generated, **options)
    for name, function in (("psnr", psnr), ("ssim", ssim)):
        each = np.empty((3, 3, 2))  # real video, clip, sample
        for video, clip, sample in np.ndindex(each.shape):
            frames = slice(4 * clip, 4 * clip + 4)
            pair = (real[video : video + 1, frames], generated[2 * video + sample][None, frames])
            each[video, clip, sample] = function(*pair)[0]
        assert found[name] == pytest.approx(each.mean())
        assert found[f"{name}_best"] == pytest.approx(each.max(2).mean())


def test_clips_of_pairs_of_other_lengths_are_refused():
    """Evenly spaced clips would begin at different frames of a sample and of its real video."""
    real = np.random.default_rng(0).integers(0, 256, (2, 20, 16, 16, 3), dtype=np.uint8)
    options = {"protocol": "similarity", "frames": 4}
    shorter = [real[0], real[1, :12]]
    first = vdm.metrics.compare_sets(real, shorter, **options)
    assert first["psnr"] == 100.0  # the first clips are equal
    message = (
        r"generated\[1\] of generated has 12 frames, and its real video, real\[1\] of real, has"
    )
    with pytest.raises(ValueError, match=message):
        vdm.metrics.compare_sets(real, shorter, clips_per_video=3, **options)
    every = vdm.metrics.compare_sets(real, [*real], clips_per_video=3, **options)
    assert every["psnr"] == 100.0


def test_more_equal_clips_of_still_videos_leave_errors_as_they_are():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (5, 1, 16, 16, 3), dtype=np.uint8).repeat(12, axis=1)
    generated = rng.integers(0, 256, (10, 1, 16, 16, 3), dtype=np.uint8).repeat(12, axis=1)
    generated[:, ::2] += 1  # for motion
    real[:3, ::2] += 2
    one, three = (
        vdm.metrics.compare_sets(
            real, generated, protocol="similarity", frames=4, clips_per_video=clips
        )
        for clips in (1, 3)
    )
    names = [name for name in one if name.startswith(("psnr", "ssim", "motion"))]
    assert "motion_standard_error" in names and "psnr_best_standard_error" in names
    for name in names:
        assert three[name] == pytest.approx(one[name], rel=1e-6), name


def test_samples_of_one_video_have_no_standard_error():
    """One start is one independent value, however many samples it has."""
    real, *samples = np.random.default_rng(0).integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8)
    protocol = Protocol("p", ("psnr", "motion"), samples_per_given=3)
    measure = partial(summarize, protocol=protocol, extractors={})
    generated = measure(samples, 3, references=[real] * 3)
    result = compare(measure([real] * 3, 3), generated, protocol)
    assert result["psnr"] == pytest.approx(psnr(np.stack([real] * 3), np.stack(samples)).mean())
    assert result.keys() == {"psnr", "psnr_best", "motion"}
