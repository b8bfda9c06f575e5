"""The TFDS builders of vdm: prepare video files, then read them back."""

import csv
import json
import re

import numpy as np
import pytest

from configs.moving_digits import get_config
from tests.data.names import clip_names
from tests.data.video_writing import write_video
from vdm.data.datasets import held_out_videos, make_data_set
from vdm.data.prepare import main as prepare
from vdm.video.pixels import centre_crop, resize_by_area, to_uint8

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def clips():
    """Noise of different lengths by name; the last one is too short."""
    rng = np.random.default_rng(0)
    lengths = {"a.mkv": 16, "b/c.mkv": 21, "d.mkv": 30, "e.mkv": 17, "short.mkv": 15}
    return {
        name: rng.integers(0, 256, (length, 24, 32, 3), np.uint8)
        for name, length in lengths.items()
    }


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory, clips):
    folder = tmp_path_factory.mktemp("manual")
    (folder / "b").mkdir()
    for name, frames in clips.items():
        write_video(folder / name, frames, codec="ffv1", pix_fmt="bgr0")
    (folder / "broken.mp4").write_bytes(b"no video at all")
    twice = np.concatenate([clips["d.mkv"]] * 2)
    data = write_video(folder / "cut.mkv", twice, codec="ffv1", pix_fmt="bgr0").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) // 2])  # more frames than are needed
    return folder


def _kinetics(manual_dir, data_dir, file_format="array_record"):
    rows = [
        ("a.mkv", "juggling", "train"),
        ("b\\c.mkv", "archery", "train"),
        ("broken.mp4", "archery", "train"),
        ("cut.mkv", "archery", "train"),
        ("missing.mp4", "archery", "test"),
        ("d.mkv", "zumba", "test"),
        ("e.mkv", "archery", "test"),
        ("short.mkv", "archery", "test"),
    ]
    with (manual_dir / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "split"), *rows])
    config = json.dumps({"name": "8x8", "resolution": 8})
    arguments = [f"--config={config}", f"--data_dir={data_dir}", f"--manual_dir={manual_dir}"]
    prepare(["kinetics600", *arguments, f"--file_format={file_format}"])
    (manual_dir / "manifest.csv").unlink()


def _config(name, data_dir):
    config = get_config()
    config.data.update(name=name, tfds_dir=str(data_dir), tfds_config="8x8", channels=3)
    config.data.update(frames=16, resolution=8, condition="none")
    return config


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_kinetics600_is_read_back(manual_dir, clips, tmp_path, file_format, capsys):
    _kinetics(manual_dir, tmp_path, file_format)
    assert f"prepared: {tmp_path}/kinetics600/8x8/1.0.0" in capsys.readouterr().out
    config = _config("kinetics600", tmp_path)
    config.data.condition, config.model.num_classes = "label", 3
    expected = {
        "train": {"a.mkv": 1, "b\\c.mkv": 0},  # names as in the manifest
        "test": {"d.mkv": 2, "e.mkv": 0},
    }
    for split, labels in expected.items():
        source = make_data_set(config, split)
        assert set(clip_names(source, range(2))) == labels.keys()
        for index, name in enumerate(clip_names(source, range(2))):
            assert source.label(index) == labels[name]
            clip = to_uint8(source.example(index)["video"])
            frames = resize_by_area(centre_crop(clips[name.replace("\\", "/")]), 8)
            starts = range(len(frames) - 15)
            assert any((clip == frames[start : start + 16]).all() for start in starts)
    left_out = source.reader.metadata["left_out"]
    assert left_out.keys() == {"broken.mp4", "cut.mkv", "missing.mp4", "short.mkv"}
    assert "is truncated" in left_out["cut.mkv"]
    assert "has 15 frames, and 16 are needed" in left_out["short.mkv"]

    # The result is a regular data set of TFDS.
    (folder,) = (tmp_path / "kinetics600" / "8x8").iterdir()
    builder = tfds.builder_from_directory(folder)
    assert builder.info.splits["test"].num_examples == 2
    assert builder.info.features["label"].names == ["archery", "juggling", "zumba"]
    if file_format == "tfrecord":
        examples = list(tfds.as_numpy(builder.as_dataset(split="train")))
        for example in examples:
            frames = clips[example["name"].decode().replace("\\", "/")]
            np.testing.assert_array_equal(example["video"], resize_by_area(centre_crop(frames), 8))

    config.data.frameskip = 2
    with pytest.raises(ValueError, match=r"videos of 31 frames are needed, .* have 16"):
        make_data_set(config, "train")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (['--config={"name": "a", "sides": 8}'], "--config is .*sides.* do not fit the builder"),
        (
            ['--config={"name": "a", "resolution": "8"}'],
            "--config is .* fields do not fit .*'str' and",
        ),
        (['--config={"resolution": 8}'], "--config is .* do not fit the builder: .*'name'"),
        (
            ['--config={"name": "a", "resolution": 8.5}'],
            "error: resolution is 8.5, and must be an integer of at least 0",
        ),
        (
            ['--config={"name": "a", "min_frames": NaN}'],
            "error: min_frames is nan, and must be an integer of at least 1",
        ),
        (['--config={"name": "a", "encoding": "gif"}'], "encoding is 'gif', and must be png or jp"),
        (["--config=none"], "BuilderConfig none not found"),
        (["--manual_dir=none"], "Manual directory none does not exist"),
    ],
)
def test_invalid_options_are_one_sentence(options, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare(["kinetics600", f"--data_dir={tmp_path}", *options])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and re.search(sentence, last)


def test_other_settings_of_a_prepared_name_are_an_error(manual_dir, clips, tmp_path, capsys):
    """TFDS would report the old data set as prepared."""
    with (manual_dir / "manifest.csv").open("w", newline="") as file:
        rows = [("file", "label", "split"), ("a.mkv", "x", "train"), ("d.mkv", "x", "test")]
        csv.writer(file).writerows(rows)
    folders = [f"--data_dir={tmp_path}", f"--manual_dir={manual_dir}"]

    def prepare_with(**fields):
        config = json.dumps({"name": "8x8", "resolution": 8} | fields)
        prepare(["kinetics600", f"--config={config}", *folders])

    prepare_with()
    folder = tmp_path / "kinetics600" / "8x8" / "1.0.0"
    for fields, sentence in (
        ({"resolution": 16}, "is prepared with resolution 8, and 16 is required"),
        ({"resolution": 0}, "is prepared with resolution 8, and 0 is required"),
        ({"encoding": "jpeg"}, "is prepared with encoding png, and jpeg is required"),
        ({"min_frames": 17}, "is prepared with min_frames 16, and 17 is required"),
    ):
        with pytest.raises(SystemExit):
            prepare_with(**fields)
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith(f"error: {folder} {sentence}: choose another name")
    prepare_with()
    assert f"prepared: {folder}" in capsys.readouterr().out
    # With resolution 0, frames of any size are stored.
    prepare_with(name="stored", resolution=0)
    prepare_with(name="stored", resolution=0)
    (manual_dir / "manifest.csv").unlink()
    config = _config("kinetics600", tmp_path)
    config.data.tfds_config = "stored"
    pixels = to_uint8(make_data_set(config, "train").example(0)["video"])
    np.testing.assert_array_equal(pixels, resize_by_area(centre_crop(clips["a.mkv"]), 8))


def test_a_tilde_is_the_home_folder(manual_dir, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "videos").symlink_to(manual_dir)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with (manual_dir / "manifest.csv").open("w", newline="") as file:
        rows = [("file", "label", "split"), ("a.mkv", "x", "train"), ("d.mkv", "x", "test")]
        csv.writer(file).writerows(rows)
    config = json.dumps({"name": "8x8", "resolution": 8})
    folders = ["--data_dir=~/prepared", "--manual_dir=~/videos"]
    prepare(["kinetics600", f"--config={config}", *folders])
    (manual_dir / "manifest.csv").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    source = make_data_set(_config("kinetics600", "~/prepared"), "test")
    assert clip_names(source, [0]) == ["d.mkv"]


def test_a_held_out_window_is_a_function_of_seed_and_index(manual_dir, tmp_path):
    _kinetics(manual_dir, tmp_path)
    config = _config("kinetics600", tmp_path)
    real, observed = held_out_videos(config, 16), make_data_set(config, "test")
    for index in range(2):
        video = real.example(index)["video"]
        np.testing.assert_array_equal(video, observed.example(index)["video"])
    windows = set()
    for seed in range(12):
        config.seed = seed
        clip = held_out_videos(config, 16)
        windows |= {clip.example(index)["video"].tobytes() for index in range(2)}
    assert len(windows) > 5  # of 15 + 2 possible windows


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (None, "has no manifest.csv or manifest.jsonl"),
        ("file,caption,split\na.mkv,a man,train\n", "has no videos in the split validation"),
        ("file,caption,split\na.mkv,,train\n", "a.mkv in .* has no caption"),
        (
            "file,caption,split\na.mkv,a man,train\nbroken.mp4,a man,validation\n",
            "none of the 1 videos of a split can be used; .*broken.mp4",
        ),
    ],
)
def test_errors_are_one_sentence(manifest, sentence, manual_dir, tmp_path, capsys):
    if manifest:
        (manual_dir / "manifest.csv").write_text(manifest)
    with pytest.raises(SystemExit):
        prepare(["captioned_videos", f"--data_dir={tmp_path}", f"--manual_dir={manual_dir}"])
    (manual_dir / "manifest.csv").unlink(missing_ok=True)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and re.search(sentence, last)


def test_real_clips_are_prepared(shared_data, tmp_path):
    folder = shared_data("clips")
    manual_dir = tmp_path / "manual"
    manual_dir.mkdir()
    lines = []
    for number, path in enumerate(sorted(folder.glob("asl_*.mkv"))[:4]):
        (manual_dir / path.name).symlink_to(path)
        split = "validation" if number == 3 else "train"
        word = path.stem.removeprefix("asl_")
        lines.append({"file": path.name, "caption": f"the sign for {word}", "split": split})
    (manual_dir / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = '{"name": "16x16", "resolution": 16, "encoding": "jpeg"}'
    arguments = [f"--data_dir={tmp_path}", f"--manual_dir={manual_dir}", f"--config={config}"]
    prepare(["captioned_videos", *arguments])
    config = _config("captioned_videos", tmp_path)
    config.data.update(tfds_config="16x16", resolution=16)
    sources = [make_data_set(config, split) for split in ("train", "test")]
    assert [len(source) for source in sources] == [3, 1]
    for source in sources:
        for index in range(len(source)):
            word = clip_names(source, [index])[0].removeprefix("asl_").removesuffix(".mkv")
            assert source.caption(index) == f"the sign for {word}"
            assert source.example(index)["video"].std() > 0.05
