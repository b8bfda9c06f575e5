"""Sampling by time against ffmpeg's fps filter, exact arithmetic and generated timestamps."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.video.written import encode, encode_with_times, moving, reference_frames, run_ffmpeg
from vdm.video import open_video
from vdm.video.index import index_folder
from vdm.video.timing import at_rate, frames_at_rate
from vdm.video.video_sets import open_videos

_LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "bgr0")


def _by_ffmpeg(path, rate, height, width):
    """Frames uint8 [n, height, width, 3] of ffmpeg's fps filter."""
    filters = ("-vf", f"fps={rate}:round=up", "-fps_mode", "passthrough")
    raw = run_ffmpeg("-i", path, *filters, "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize("rate", ["1", "8", "12.5", "24", "25", "30", "50"])
@pytest.mark.parametrize("count", [47, 50])
def test_a_constant_rate_equals_ffmpegs_filter(tmp_path, rate, count):
    path = encode(tmp_path / "a.mp4", moving(count), "-c:v", "libx264", "-pix_fmt", "yuv420p")
    video = at_rate(open_video(path), float(rate))
    np.testing.assert_array_equal(
        video.frames(range(video.num_frames)), _by_ffmpeg(path, rate, 48, 64)
    )
    assert (video.frame_rate, video.path, video.height, video.width) == (float(rate), path, 48, 64)
    np.testing.assert_allclose(video.times, np.arange(video.num_frames) / float(rate))


def test_rounded_timestamps_equal_ffmpegs_filter(tmp_path):
    path = encode(tmp_path / "a.mkv", moving(61), *_LOSSLESS, rate="30000/1001")
    for rate, frames in ((30000 / 1001, moving(61)), (10000 / 1001, moving(61)[::3])):
        video = at_rate(open_video(path), rate)
        np.testing.assert_array_equal(video.frames(range(video.num_frames)), frames)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("rate", ["4", "8", "20", "40"])
def test_a_variable_rate_equals_ffmpegs_filter(tmp_path, suffix, rate):
    gaps = np.random.default_rng(0).integers(4, 90, 39) * 2
    path = encode_with_times(tmp_path / f"a{suffix}", moving(40), np.cumsum([0, *gaps]))
    video, expected = at_rate(open_video(path), float(rate)), _by_ffmpeg(path, rate, 48, 64)
    found, last = video.frames(range(video.num_frames)), reference_frames(path)[-1]
    # ffmpeg has its own guess of how long the last frame is shown.
    until_last = int(gaps.sum() * int(rate) // 1000)
    common = min(len(found), len(expected))
    assert common >= until_last
    np.testing.assert_array_equal(found[:common], expected[:common])
    assert len(found) > until_last and (found[until_last + 1 :] == last).all()
    assert (expected[until_last + 1 :] == last).all()


def test_delays_of_an_animation_equal_ffmpegs_filter(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 12, 16), dtype=np.uint8)
    pictures = [Image.fromarray(frame) for frame in frames]
    delays = [40, 100, 70, 250, 30, 90]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=delays)
    video = at_rate(open_video(tmp_path / "a.gif"), 16)
    # 580 ms have ten samples, the last one at 562.5 ms.
    expected = np.searchsorted(np.cumsum(delays), np.arange(10) * 62.5, side="right")
    np.testing.assert_array_equal(
        video.frames(range(video.num_frames)), frames[expected, ..., None].repeat(3, -1)
    )
    filtered = _by_ffmpeg(tmp_path / "a.gif", "16", 12, 16)
    np.testing.assert_array_equal(video.frames(range(10)), filtered[:10])


@given(stored=st.integers(1, 22), rate=st.integers(1, 22), count=st.integers(1, 200))
def test_regular_times_have_a_closed_form(stored, rate, count):
    """For rates whose times are equal or 2 ms apart, which the tolerance does not blur."""
    found = frames_at_rate(np.arange(count) / stored, count / stored, rate)
    expected = [k * stored // rate for k in range(-(-count * rate // stored))]
    assert found.tolist() == expected


@given(
    rate=st.sampled_from([Fraction(n, d) for n, d in ((24, 1), (30000, 1001), (50, 1), (240, 1))]),
    count=st.integers(2, 400),
    start=st.fractions(0, 10),
)
def test_its_own_rate_changes_no_video_of_rounded_times(rate, count, start):
    times = np.array([round(1000 * (start + k / rate)) / 1000 for k in range(count)])
    duration = count * (times[-1] - times[0]) / (count - 1)
    assert frames_at_rate(times, duration, float(rate)).tolist() == list(range(count))


@given(
    gaps=st.lists(st.floats(0.001, 2), max_size=30),
    start=st.floats(-10, 10),
    last=st.floats(0.001, 2),
    rate=st.floats(0.01, 1000),
)
def test_arbitrary_times_give_the_frame_shown(gaps, start, last, rate):
    times = start + np.cumsum([0, *gaps])
    duration = times[-1] - times[0] + last
    numbers = frames_at_rate(times, duration, rate)
    assert (np.diff(numbers) >= 0).all() and numbers[0] >= 0 and numbers[-1] < len(times)
    at = times[0] + np.arange(len(numbers)) / rate
    rounding = 1e-9
    assert (times[numbers] <= at + 0.001001 + rounding).all()
    next_times = np.append(times, np.inf)[numbers + 1]
    assert (next_times > at - rounding).all()
    assert at[-1] - at[0] <= duration
    # No sample is missing at the end either.
    assert at[-1] - at[0] + 1 / rate >= duration - 0.002002 - rounding
    again = frames_at_rate(np.arange(len(numbers)) / rate, len(numbers) / rate, rate)
    assert again.tolist() == list(range(len(numbers)))


def test_refuses_videos_and_rates_that_cannot_be_sampled(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 6, 8, 3), np.uint8))
    array = open_video(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy has no timestamps, which sampling at 12\.5 fr"):
        at_rate(array, 12.5)
    assert at_rate(array, 0) is array
    for rate in (-1, float("nan"), float("inf"), 1001):
        with pytest.raises(ValueError, match=rf"^frame_rate is {rate}, and must be 0 for"):
            at_rate(array, rate)
    path = encode(tmp_path / "a.mkv", moving(4), *_LOSSLESS)
    video = at_rate(open_video(path), 50)
    assert video.frames([]).shape == (0, 48, 64, 3)
    for index in (-1, 8):
        with pytest.raises(IndexError, match=r"a\.mkv has 8 frames at 50 frames per second, and"):
            video.frames([index])


def test_a_single_frame_is_one_sample(tmp_path):
    path = encode(tmp_path / "a.mkv", moving(1), *_LOSSLESS)
    video = at_rate(open_video(path), 8)
    np.testing.assert_array_equal(video.frames(range(video.num_frames)), moving(1))


def test_a_jump_of_the_timestamps_is_noted(tmp_path):
    """Nearly all samples would show one frame, which neither training nor metrics would tell."""
    times = 40 * np.arange(20) + np.where(np.arange(20) < 10, 0, 3_600_000)
    encode_with_times(tmp_path / "a.mkv", moving(20), times)
    encode_with_times(tmp_path / "b.mkv", moving(20), 40 * np.arange(20))
    assert not any(video.note for video in index_folder(tmp_path).videos.values())
    for _ in range(2):  # from the file, and from its index
        videos = index_folder(tmp_path, frame_rate=8).videos
        shown = int((videos["a.mkv"].stored_indices == 9).sum())
        assert 28_799 <= shown <= 28_801  # an hour
        assert f"shows frame 9 for {shown / 8:.1f} s, {shown} of its " in videos["a.mkv"].note
        assert not videos["b.mkv"].note
    assert any("shows frame 9" in line for line in open_videos(tmp_path, 4, frame_rate=8).warnings)
