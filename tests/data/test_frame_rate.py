"""`config.data.frame_rate` and --frame_rate: one motion, stored at many rates, is one clip."""

import numpy as np
import pytest
from PIL import Image

from configs import folder as folder_config
from tests.video.written import encode, numbered
from vdm.data.datasets import check_name, make_data_set
from vdm.data.folder.videos import open_folder
from vdm.metrics.__main__ import main
from vdm.sampling.conditions import load_observed
from vdm.video import index as video_index
from vdm.video.video_sets import open_videos

_SIDE, _COUNT = 16, 20


@pytest.fixture(autouse=True)
def _clear_cache():
    open_folder.cache_clear()


def _motion():
    """Returns one frame per eighth of a second, uint8 [20, 16, 16, 3], with few colours."""
    return np.stack([numbered(7 * n + 1, _SIDE, _SIDE) for n in range(_COUNT)])


def _save_gif(path, frames, delays):
    first, *others = (Image.fromarray(frame).quantize() for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=delays)


@pytest.fixture
def videos(tmp_path):
    """The motion at 8, 16, 24 and about 8 frames per second, in a folder."""
    folder = tmp_path / "videos"
    folder.mkdir()
    lossless = ("-c:v", "ffv1", "-pix_fmt", "bgr0")
    encode(folder / "8.mkv", _motion(), *lossless, rate=8)
    encode(folder / "16.mp4", _motion().repeat(2, 0), "-c:v", "libx264rgb", "-crf", "0", rate=16)
    # Matroska rounds 41.67 ms per frame to milliseconds.
    encode(folder / "24.mkv", _motion().repeat(3, 0), *lossless, rate=24)
    _save_gif(folder / "uneven.gif", _motion(), [120, 130] * (_COUNT // 2))
    return folder


def _config(videos, **data):
    config = folder_config.get_config()
    config.data.update(
        path=str(videos), resolution=_SIDE, start="first", test_share=0.0, frames=10, **data
    )
    return config


def _add_without_times(folder):
    (folder / "pictures").mkdir()
    for number, frame in enumerate(_motion()):
        Image.fromarray(frame).save(folder / "pictures" / f"{number}.png")
    np.savez(folder / "array.npz", video=_motion()[None])


def _training_clips(config):
    source = make_data_set(config, "train")
    clips = {
        source.reader.name(source.video_index(i)): source.example(i)["video"]
        for i in range(len(source))
    }
    return {name: np.round((clip + 1) * 127.5) for name, clip in sorted(clips.items())}


@pytest.mark.parametrize(("rate", "frameskip"), [(8.0, 1), (8.0, 2), (4.0, 1), (16.0, 1)])
def test_mixed_rates_give_one_clip_in_training_sampling_and_metrics(videos, rate, frameskip):
    config = _config(videos, frame_rate=rate, frameskip=frameskip)
    every_eighth = (np.arange(10) * frameskip * 8 / rate).astype(int)
    expected = _motion()[every_eighth]
    clips = _training_clips(config)
    assert clips.keys() == {"8.mkv", "16.mp4", "24.mkv", "uneven.gif"}
    for name, clip in clips.items():
        np.testing.assert_array_equal(clip, expected, err_msg=name)
    read = list(open_videos(videos, 10, frameskip=frameskip, frame_rate=rate))
    np.testing.assert_array_equal(read, [expected] * 4)
    if frameskip == 1:
        config.sample.update(task="predict", observed=str(videos))
        config.predict.num_given = 10
        np.testing.assert_array_equal(load_observed(config), [expected] * 4)


def test_frames_as_stored_differ(videos):
    clips = _training_clips(_config(videos))
    np.testing.assert_array_equal(clips["8.mkv"], _motion()[:10])
    np.testing.assert_array_equal(clips["16.mp4"], _motion()[:5].repeat(2, 0))


def test_errors_for_short_videos_name_the_rate(videos):
    sentence = "has 5 frames at 2 frames per second, and 10 are needed"
    with pytest.raises(ValueError, match=rf"can be used: 16\.mp4 {sentence}"):
        make_data_set(_config(videos, frame_rate=2.0), "train")
    with pytest.raises(ValueError, match=rf"8\.mkv {sentence}"):
        open_videos(videos, 10, frame_rate=2.0)


def test_videos_without_times_are_skipped_in_training_and_errors_elsewhere(videos):
    _add_without_times(videos)
    clips = _training_clips(_config(videos, frame_rate=8.0))
    assert clips.keys() == {"8.mkv", "16.mp4", "24.mkv", "uneven.gif"}
    report = (videos / "video_index.txt").read_text()
    reason = "has no timestamps, which sampling at 8 frames per second needs"
    assert f"array.npz {reason}\n" in report and f"pictures {reason}\n" in report
    with pytest.raises(ValueError, match=rf"array\.npz {reason}$"):
        open_videos(videos, 0, frame_rate=8.0)
    config = _config(videos, frame_rate=8.0)
    config.sample.update(task="predict", observed=str(videos / "pictures"))
    with pytest.raises(ValueError, match=rf"pictures {reason}$"):
        load_observed(config)


def test_the_index_does_not_depend_on_the_rate(videos, monkeypatch):
    _add_without_times(videos)
    make_data_set(_config(videos), "train")
    index = (videos / "video_index.json").read_text()
    monkeypatch.setattr(video_index, "open_video", None)
    for rate, counts in ((8.0, (20, 20, 20, 20)), (4.0, (10, 10, 10, 10)), (0.0, (40, 60, 20, 20))):
        open_folder.cache_clear()
        reader = open_folder(videos, needed_frames=10, frame_rate=rate, test_share=0)["train"]
        opened = {name: reader.open(i).num_frames for i, name in enumerate(reader.names)}
        names = ("16.mp4", "24.mkv", "8.mkv", "uneven.gif")
        assert tuple(opened[name] for name in names) == counts
        assert ("array.npz" in opened) == ("pictures" in opened) == (rate == 0)
    assert (videos / "video_index.json").read_text() == index


@pytest.mark.parametrize("name", ["moving_digits", "ucf101", "bair_robot_pushing_small"])
def test_a_rate_for_data_sets_without_times_is_an_error(tiny_config, name):
    tiny_config.data.update(name=name, frame_rate=8.0)
    for check in (check_name, lambda config: make_data_set(config, "train")):
        with pytest.raises(
            ValueError, match=rf"^config\.data\.frame_rate is 8\.0, and must be 0 for '{name}'"
        ):
            check(tiny_config)


def test_invalid_rates_of_metrics_are_errors(videos, tmp_path, capsys):
    for flag, sentence in (
        ("--frame_rate=nan", "error: frame_rate is nan, and must be 0 for frames as stored"),
        ("--frame_rate=0.5", "has 2 frames at 0.5 frames per second, and 16 are needed"),
    ):
        paths = (f"--real={videos}", f"--generated={videos}", "--frames=16")
        with pytest.raises(SystemExit):
            main([*paths, flag])
        assert sentence in capsys.readouterr().err
