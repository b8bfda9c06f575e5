"""Baselines go through the protocols of models, and metrics say what they are."""

import jax
import numpy as np
import pytest

from vdm.data.datasets import held_out_videos, make_data_set
from vdm.evaluation import memorisation, protocol
from vdm.metrics.measure import compare, summarize
from vdm.metrics.pairwise.similarity import psnr
from vdm.metrics.protocols import Protocol
from vdm.preflight import check
from vdm.video.pixels import to_uint8


@pytest.fixture
def config(tiny_config):
    tiny_config.data.update(resolution=12)
    tiny_config.eval.update(num_videos=6, batch_size=4)
    tiny_config.sample.batch_size = 4
    return tiny_config


def test_a_repeated_frame_is_compared_with_the_video_that_it_is_of(config):
    config.eval.update(protocol="similarity", baseline="repeat_first_frame")
    config.sample.update(task="predict", per_example=2)
    result = protocol.evaluate(config, {}, 0, None)
    source = make_data_set(config, "test")
    real = np.stack([to_uint8(source.example(i)["video"]) for i in range(3)])
    expected = psnr(real[:, 1:], np.repeat(real[:, :1], 3, axis=1))
    assert result["psnr"] == pytest.approx(expected.mean())
    assert result["psnr_best"] == pytest.approx(expected.mean())  # both samples are equal
    assert result["motion"] == 0 and result["config"]["eval"]["baseline"] == "repeat_first_frame"


def test_a_prediction_that_stands_still_has_no_motion_however_many_frames_are_given(config):
    config.eval.update(protocol="similarity", baseline="repeat_first_frame")
    config.sample.task, config.predict.num_given = "predict", 3
    assert protocol.evaluate(config, {}, 0, None)["motion"] == 0


@pytest.fixture
def of_folder(config, tmp_path):
    """A configuration of a folder with the same three videos of 20 frames in both splits."""
    rng = np.random.default_rng(0)
    for index, video in enumerate(rng.integers(0, 256, (3, 1, 20, 12, 12, 1), np.uint8)):
        for number, split in ((index, "train"), (3 + index, "test")):
            (tmp_path / split).mkdir(exist_ok=True)
            np.savez(tmp_path / split / f"{number}.npz", video=video)
    config.data.update(name="folder", path=str(tmp_path), start="random")
    config.eval.num_videos = 3
    return config


@pytest.mark.parametrize("task", ["predict", "interpolate"])
def test_training_videos_have_the_windows_of_held_out_videos(of_folder, task):
    of_folder.eval.update(protocol="similarity", baseline="train_videos")
    of_folder.sample.task = task
    assert protocol.evaluate(of_folder, {}, 0, None)["ssim"] == pytest.approx(1)


def test_samples_that_observe_no_frames_are_compared_with_windows_like_those_of_training(of_folder):
    videos, clips = {}, {}
    for name, fields in {
        "random": {"start": "random", "task": "generate"},
        "first": {"start": "first", "task": "generate"},
        "given": {"start": "random", "task": "predict"},
    }.items():
        of_folder.data.start, of_folder.sample.task = fields["start"], fields["task"]
        of_folder.eval.protocol = "fvd"
        found = protocol.protocol_of(of_folder)
        (source,) = protocol.real_sources(of_folder, found).values()
        videos[name], clips[name] = source.batch(0, 3)["video"], found.real_clips
    np.testing.assert_array_equal(videos["first"], videos["given"])
    same = np.isclose(videos["random"], videos["first"]).all(axis=(1, 2, 3, 4))
    assert same.sum() < 2  # one of three windows may start at frame 0 of 17
    assert clips == {
        "random": "one random window of each video",
        "first": "first frames",
        "given": "first frames",
    }


@pytest.mark.parametrize("baseline", ["repeat_first_frame", "train_videos"])
def test_videos_that_repeat_leave_errors_as_they_are(config, baseline, tmp_path):
    """The baselines copy each of 3 videos, so that further samples say nothing new."""
    rng = np.random.default_rng(0)
    for index in range(6):
        video = rng.integers(0, 256, (1, 4, 12, 12, 1), np.uint8)
        np.savez(tmp_path / f"{index}.npz", video=video)
    splits = ["file,split", *(f"{i}.npz,{'test' if i < 3 else 'train'}" for i in range(6))]
    (tmp_path / "manifest.csv").write_text("\n".join(splits))
    config.data.update(name="folder", path=str(tmp_path), motion="any")
    config.eval.update(protocol="similarity", baseline=baseline)
    config.sample.task = "predict"
    results = []
    for count in (3, 12):
        config.eval.num_videos = count
        results.append(protocol.evaluate(config, {}, 0, None))
    names = [name for name in results[0] if name.startswith(("psnr", "ssim", "motion"))]
    assert "ssim_standard_error" in names
    for name in names:
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-6), name
    assert [result["protocol"]["videos_given"] for result in results] == [0, 3]


def test_copies_of_training_videos_are_found(config, monkeypatch):
    monkeypatch.setattr(memorisation, "_MAX_CLIPS", 8)
    config.eval.update(protocol="memorisation", baseline="train_videos")
    result = protocol.evaluate(config, {}, 0, None)
    assert result["nearest"] == result["nearest_ratio"] == 0
    assert result["nearest_of_held_out"] > 0
    held_out = held_out_videos(config, 4)
    train = [to_uint8(held_out_videos(config, 4, "train").example(i)["video"]) for i in range(8)]
    distances = [
        min(np.sqrt(np.square(video - other).mean()) for other in np.float64(train))
        for video in (to_uint8(held_out.example(i)["video"]).astype(float) for i in range(6))
    ]
    assert result["nearest_of_held_out"] == pytest.approx(np.median(distances), rel=1e-5)


def test_samples_need_a_task_to_be_compared_with_their_videos(config):
    config.eval.protocol = "prediction"
    with pytest.raises(ValueError, match=r"config\.sample\.task is 'generate', and must be"):
        protocol.protocol_of(config)


def test_each_block_of_a_long_video_has_its_own_distance():
    """Features are the means of two halves of a clip: drift shows in the last block alone."""
    rng = np.random.default_rng(0)
    blocks = Protocol("long", ("fvd_by_block",), block_frames=4)

    def network(clips):
        halves = clips.reshape(len(clips), 2, -1).mean(2)
        return {"features": halves / 255}

    real, generated = rng.integers(0, 200, (2, 40, 14, 2, 2, 3), dtype=np.uint8)
    generated[:, 8:] += 50  # the third block; the last two frames are no whole block
    summaries = [summarize(v, 40, blocks, {"i3d": network}) for v in (real, generated)]
    numbers = compare(*summaries, blocks)
    names = [name for name in numbers if not name.endswith(("_error", "_leave_one_out"))]
    assert names == ["fvd_block_0", "fvd_block_1", "fvd_block_2"]
    shift = 2 * (50 / 255) ** 2  # the means differ by 50 / 255 in both features
    assert numbers["fvd_block_2"] == pytest.approx(shift, rel=0.2)
    assert max(numbers["fvd_block_0"], numbers["fvd_block_1"]) < 0.05 * shift


def test_an_evaluation_leaves_out_what_its_weights_do_not_allow():
    from vdm.metrics.features import measurable

    class WithoutHead:
        has_classes = False

    text = Protocol("text", ("fvd", "fid_avg", "is_avg", "fid_first", "is_first"))
    left, warnings = measurable(text, {"inception": WithoutHead()})
    assert left.metrics == ("fvd", "fid_avg", "fid_first")
    assert len(warnings) == 1 and warnings[0].startswith("is_avg, is_first left out: ")
    with pytest.raises(ValueError, match="protocol scores: is_avg left out"):
        measurable(Protocol("scores", ("is_avg",)), {"inception": WithoutHead()})


def test_models_of_a_cascade_have_their_own_noise():
    from vdm.sampling.generate import _key

    keys = [jax.random.key_data(_key(3, stage)).tolist() for stage in (0, 1, 2)]
    samples = [jax.random.key_data(jax.random.fold_in(_key(3, 0), i)).tolist() for i in range(100)]
    assert len({map_key for map_key in map(tuple, [*keys, *samples])}) == 103


def test_frames_smaller_than_the_window_of_ssim_are_refused_before_any_work(tiny_config, tmp_path):
    tiny_config.eval.update(protocol="similarity", baseline="repeat_first_frame")
    tiny_config.sample.task = "predict"
    message = r"config\.data\.resolution is 8, and must be at least 11 for config\.eval\.protocol"
    with pytest.raises(ValueError, match=message):
        check(tiny_config, tmp_path, "eval")


def test_videos_shorter_than_a_block_are_refused_before_any_work(
    tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr("vdm.preflight.make_extractors", lambda protocol: {})
    tiny_config.eval.update(protocol="long", baseline="repeat_first_frame")
    message = r"'long' needs videos of at least 16 frames, and this configuration has \d"
    with pytest.raises(ValueError, match=message):
        check(tiny_config, tmp_path, "eval")
