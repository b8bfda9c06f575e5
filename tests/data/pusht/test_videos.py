"""Reading a prepared PushT."""

import ast
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from configs.moving_digits import get_config
from tests.data.pusht.drawn import draw_numbered, prepare
from vdm.data.datasets import held_out_videos, make_data_set
from vdm.data.pusht.shards import default_folder
from vdm.preflight import check

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(monkeypatch, tmp_path):
    draw_numbered(monkeypatch)
    prepare(tmp_path / "clips")
    config = get_config()
    config.data.update(name="pusht", path=str(tmp_path / "clips"), channels=3, condition="none")
    config.data.update(frames=4, resolution=64)
    config.model.num_classes = 0
    return config


def _contents(video):
    """Returns the index of the clip, the frame numbers and the split of a numbered clip."""
    pixels = np.round((video + 1) * 127.5).astype(int)[:, 5, 5]
    assert len(set(pixels[:, 0])) == len(set(pixels[:, 2])) == 1
    return pixels[0, 0], pixels[:, 1], pixels[0, 2] // 100


def test_training_clips_are_windows_of_all_clips_in_a_random_order(config):
    source = make_data_set(config, "train")
    contents = [_contents(source.example(index)["video"]) for index in range(21)]
    for epoch in range(3):
        assert sorted(clip for clip, _, _ in contents[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert {frames[0] for _, frames, _ in contents} == {0, 1, 2, 3, 4}
    assert all((np.diff(frames) == 1).all() and split == 0 for _, frames, split in contents)


def test_held_out_clips_are_the_first_frames_in_order(config):
    for source in (make_data_set(config, "test"), held_out_videos(config, 4)):
        for index in range(2):
            clip, frames, split = _contents(source.example(index)["video"])
            assert (clip, list(frames), split) == (index, [0, 1, 2, 3], 1)


def test_threads_never_parse_two_array_headers_at_once(config, monkeypatch):
    """CPython 3.11 counts nested calls of `ast` in all threads together, and raises SystemError."""
    source, parse = make_data_set(config, "train"), ast.literal_eval
    parsing = threading.Lock()

    def alone(text):
        assert parsing.acquire(blocking=False), "two threads parse"
        try:
            time.sleep(0.002)
            return parse(text)
        finally:
            parsing.release()

    monkeypatch.setattr("ast.literal_eval", alone)
    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(source.example, range(16)))) == 16


def test_images_and_grey_videos(config):
    config.data.update(num_images=2, channels=1)
    example = make_data_set(config, "train").example(0)
    assert example["video"].shape == (4, 64, 64, 1) and example["images"].shape == (2, 64, 64, 1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": "MISSING"}, r"prepare it with python -m vdm\.data\.prepare pusht --data_dir=MIS"),
        ({"path": ""}, r"prepare it with python -m vdm\.data\.prepare pusht \(docs"),
        ({"frames": 9}, "videos of 9 frames are needed, and those in .* have 8"),
        ({"frame_rate": 8.0}, "config.data.frame_rate is 8.0, and must be 0 for 'pusht'"),
        ({"condition": "label"}, "'pusht' has no labels"),
    ],
)
def test_errors_precede_any_writing(changes, sentence, config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VDM_CACHE", raising=False)
    config.data.update(changes)
    config.model.num_classes = 10 if config.data.condition == "label" else 0
    with pytest.raises(ValueError, match=sentence):
        check(config, tmp_path / "workdir", "train")
    assert not (tmp_path / "workdir").exists()


def test_clips_in_the_folder_of_earlier_versions_are_found(tmp_path, monkeypatch):
    """Those were in XDG_CACHE_HOME even with VDM_CACHE."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("VDM_CACHE", str(tmp_path / "ours"))
    ours, earlier = tmp_path / "ours" / "pusht", tmp_path / "xdg" / "vdm" / "pusht"
    assert default_folder() == ours
    earlier.mkdir(parents=True)
    assert default_folder() == earlier
    ours.mkdir(parents=True)
    assert default_folder() == ours


def test_unfinished_or_damaged_shards_are_an_error(config, tmp_path):
    path = tmp_path / "clips" / "train_00001.npz"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    make_data_set(config, "test")
    with pytest.raises(ValueError, match=r"train_00001\.npz is missing or damaged: draw it again"):
        make_data_set(config, "train")
    prepare(tmp_path / "clips")
    reader = make_data_set(config, "train").reader
    path.write_bytes(content[:-50])
    with pytest.raises(ValueError, match=r"train_00001\.npz cannot be read"):
        reader.open(4).frames([0])


def test_reading_needs_neither_gym_pusht_nor_tensorflow(config, tmp_path):
    program = (
        "import sys; from pathlib import Path; from vdm.data.pusht.videos import PushtVideos\n"
        f"videos = PushtVideos(Path({config.data.path!r}), 'test', {{'test': 2, 'frames': 8}})\n"
        "assert videos.open(1).frames([3]).shape == (1, 64, 64, 3)\n"
        "assert not {'tensorflow', 'gym_pusht', 'pygame'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0
