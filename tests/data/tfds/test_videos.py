"""BAIR and UCF101, prepared by TFDS: random access and training."""

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs.moving_digits import get_config
from tests.compiled import init_params
from tests.data.names import clip_names
from tests.data.official_layout import bair_action, link_ffmpeg, prepare_bair, prepare_ucf101
from vdm.data.datasets import held_out_videos, make_data_set
from vdm.data.tfds.videos import EncodedVideo, TfdsVideos, prepared_folder
from vdm.evaluation import protocol
from vdm.metrics.protocols import PROTOCOLS
from vdm.preflight import check
from vdm.video.pixels import to_uint8

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[3]
FORMATS = ("tfrecord", "array_record")
BAIR_COUNTS = {"train": 5, "test": 3}
UCF101_NAMES = [f"v_{name}_g0{n}_c01.avi" for name in ("Archery", "YoYo") for n in (1, 2, 3)]
UCF101_TEST = {"v_Archery_g02_c01.avi", "v_YoYo_g03_c01.avi"}


@pytest.fixture(scope="module")
def bair_videos():
    rng = np.random.default_rng(0)
    return {
        split: rng.integers(0, 256, (count, 2, 30, 64, 64, 3), np.uint8)
        for split, count in BAIR_COUNTS.items()
    }


@pytest.fixture(scope="module")
def ucf101_videos():
    """A bright square of another colour per video moves right on a dark background."""
    videos = {}
    for number, name in enumerate(UCF101_NAMES):
        frames = np.full((20 + number, 48, 64, 3), 20 * number, np.uint8)
        for time, frame in enumerate(frames):
            frame[16:32, 2 * time : 2 * time + 16] = (255, 40 * number, 128)
        videos[name] = frames
    return videos


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory, bair_videos, ucf101_videos):
    """TFDS's data_dir with both data sets, per file format."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", link_ffmpeg(tmp_path_factory.mktemp("bin")))
        for file_format in FORMATS:
            folders[file_format] = tmp_path_factory.mktemp(file_format)
            prepare_bair(folders[file_format], bair_videos, file_format)
            prepare_ucf101(folders[file_format], ucf101_videos, UCF101_TEST, file_format)
    return folders


def _as_tfds_reads_it(folder, split):
    builder = tensorflow_datasets.builder_from_directory(folder)
    if builder.info.file_format.value == "array_record":  # which tf.data does not read
        return list(builder.as_data_source(split))
    return list(tensorflow_datasets.as_numpy(builder.as_dataset(split=split)))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("split", ["train", "test", "train[1:3]", "train+test"])
@pytest.mark.parametrize("camera", ["image_main", "image_aux1"])
def test_bair_equals_what_tfds_reads(data_dirs, file_format, split, camera):
    folder = data_dirs[file_format] / "bair_robot_pushing_small" / "2.0.0"
    videos = TfdsVideos(folder, split, frames=camera)
    expected = _as_tfds_reads_it(folder, split)
    assert len(videos) == len(expected)
    if split == "train+test":  # which tf.data interleaves
        expected = _as_tfds_reads_it(folder, "train") + _as_tfds_reads_it(folder, "test")
    for index in reversed(range(len(videos))):
        assert videos.open(index).num_frames == 30
        frames = [29, 0, 7, 7]
        np.testing.assert_array_equal(
            videos.open(index).frames(frames), np.array(expected[index][camera])[frames]
        )


@pytest.mark.parametrize("file_format", FORMATS)
def test_ucf101_equals_what_tfds_reads(data_dirs, file_format):
    folder = data_dirs[file_format] / "ucf101" / "ucf101_1" / "2.0.0"
    videos = TfdsVideos(folder, "train", label="label")
    expected = _as_tfds_reads_it(folder, "train")
    assert len(videos) == len(expected) == 4 and videos.num_classes == 101
    for index, example in enumerate(expected):
        video = videos.open(index)
        assert video.num_frames == len(example["video"])
        assert videos.label(index) == example["label"]
        last = video.num_frames - 1
        found = video.frames([0, last]).astype(int)
        # Pillow's and TensorFlow's JPEG decoders round differently.
        np.testing.assert_allclose(found, np.array(example["video"])[[0, last]], atol=6)
    names = {videos.name(index) for index in range(4)}
    assert len(names) == 4 and all(name.startswith("ucf101-train") for name in names)


def _config(name, data_dir, **data):
    config = get_config()
    config.data.update(name=name, tfds_dir=str(data_dir), condition="none", channels=3)
    config.data.update(frames=16, resolution=64, **data)
    return config


@pytest.mark.parametrize("camera", [0, 1])
def test_held_out_bair_clips_are_first_frames_of_test_videos(data_dirs, bair_videos, camera):
    config = _config("bair_robot_pushing_small", data_dirs["tfrecord"])
    config.data.camera = ("image_main", "image_aux1")[camera]
    observed, real = make_data_set(config, "test"), held_out_videos(config, 16)
    assert len(real) == BAIR_COUNTS["test"]
    clips = np.stack([to_uint8(real.example(index)["video"]) for index in range(3)])
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(clip, to_uint8(observed.example(index)["video"]))
    order = [
        next(n for n, video in enumerate(bair_videos["test"]) if (clip == video[camera, :16]).all())
        for clip in clips
    ]
    assert sorted(order) == [0, 1, 2]


def test_bair_trains_on_random_windows_and_flips(data_dirs, bair_videos):
    config = _config("bair_robot_pushing_small", data_dirs["array_record"], augment_flip=True)
    source = make_data_set(config, "train")
    seen = set()
    for index in range(40):
        clip = to_uint8(source.example(index)["video"])
        seen |= {
            (number, start, direction)
            for number, video in enumerate(bair_videos["train"][:, 0])
            for start in range(15)
            for direction in (1, -1)
            if (clip[0] == video[start, :, ::direction]).all()
            and (clip == video[start : start + 16, :, ::direction]).all()
        }
    numbers, starts, directions = map(set, zip(*seen, strict=True))
    assert numbers == set(range(5)) and len(starts) > 8 and directions == {1, -1}


def test_ucf101_trains_and_evaluates_on_all_videos(data_dirs):
    config = _config("ucf101", data_dirs["tfrecord"], tfds_config="ucf101_1")
    config.data.condition, config.model.num_classes = "label", 101
    for source in (make_data_set(config, "train"), make_data_set(config, "test")):
        names = clip_names(source, range(6))
        assert len(set(names)) == 6
        assert sorted(source.label(index) for index in range(6)) == [2] * 3 + [100] * 3
        assert source.example(0)["video"].shape == (16, 64, 64, 3)


def test_ten_windows_of_each_training_video_of_ucf101(data_dirs):
    config = _config("ucf101", data_dirs["tfrecord"], tfds_config="ucf101_1")
    config.eval.protocol = "ucf101_train"
    fitted = protocol.protocol_of(config)
    [(name, source)] = protocol.real_sources(config, fitted).items()
    assert name == "train" and fitted.num_real == 10 * 9_537
    names = clip_names(source, range(40))
    assert list(Counter(names).values()) == [10] * (len(UCF101_NAMES) - len(UCF101_TEST))
    windows = {source.example(index)["video"].tobytes() for index in range(0, 40, 4)}
    assert len(windows) > 2


TINY = [
    "--config.data.resolution=16",
    "--config.data.num_images=1",
    "--config.model.base_channels=8",
    "--config.model.channel_multipliers=(1,)",
    "--config.model.blocks_per_resolution=1",
    "--config.model.attention_resolutions=()",
    "--config.model.patch_size=2",
    "--config.model.head_dim=8",
    "--config.model.embedding_dim=16",
    "--config.model.embedding_layers=1",
    "--config.training.batch_size=2",
    "--config.training.num_steps=3",
    "--config.training.warmup_steps=0",
    "--config.training.sample_every=0",
    "--config.sample.num_steps=2",
]


def _train(name, workdir, data_dir, *arguments):
    command = [sys.executable, "-m", "vdm.main", f"--config=configs/{name}.py", "--mode=train"]
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.run(
        [*command, f"--workdir={workdir}", f"--config.data.tfds_dir={data_dir}", *arguments],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file_format"), [("bair", "tfrecord"), ("ucf101", "array_record")]
)
def test_the_papers_configuration_trains_on_it(name, file_format, data_dirs, tmp_path):
    done = _train(name, tmp_path, data_dirs[file_format], *TINY)
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stdout


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "prepare it with python -m vdm.data.prepare bair_robot_pushing_small --data_dir="),
        ({"tfds_config": "ucf101_1"}, "config.data.tfds_config is 'ucf101_1'"),
        ({"camera": "image_aux2"}, "config.data.camera is 'image_aux2'"),
        ({"name": "ucf101"}, "must be a configuration of the builder"),
    ],
)
def test_errors_precede_any_writing(changes, sentence, tmp_path):
    config = _config("bair_robot_pushing_small", tmp_path)
    config.data.update(changes)
    config.model.num_classes = 0
    config.training.update(decay_steps=0, batch_size=8)
    with pytest.raises(ValueError, match=sentence):
        check(config, tmp_path / "workdir", "train")
    assert not (tmp_path / "workdir").exists()


class MeanColour:
    """Features: the mean of each channel of the first and of the last frame."""

    digest, min_frames = "none", 1

    def __call__(self, videos):
        return {"features": videos[:, [0, -1]].mean((2, 3)).reshape(len(videos), 6) / 255}


@pytest.mark.usefixtures("quick_compilation_once")
def test_table_2_uses_the_first_frames_of_all_test_videos(
    data_dirs, bair_videos, tmp_path, monkeypatch
):
    small = dataclasses.replace(
        PROTOCOLS["bair"], num_real=256, num_generated=6, samples_per_given=2, resolution=16
    )
    monkeypatch.setitem(PROTOCOLS, "bair", small)
    monkeypatch.setattr(protocol, "make_extractors", lambda _: {"i3d": MeanColour()})
    config = _config("bair_robot_pushing_small", data_dirs["tfrecord"])
    config.data.resolution = 16
    config.model.update(
        num_classes=0,
        base_channels=8,
        channel_multipliers=(1,),
        blocks_per_resolution=1,
        attention_resolutions=(),
        patch_size=2,
        embedding_dim=16,
        embedding_layers=1,
    )
    config.sample.update(task="predict", num_steps=2, sampler="ddim", batch_size=6)
    config.eval.protocol = "bair"
    config.predict.num_given = 2
    with pytest.raises(ValueError, match=r"predict\.num_given 1, and this configuration has 2"):
        protocol.protocol_of(config)
    config.predict.num_given = 1
    result = protocol.evaluate(config, init_params(config), 0, tmp_path)
    assert result["protocol"]["camera"] == "image_main"
    assert result["protocol"]["splits"] == ("test",)
    assert any("3 real videos, where the protocol bair has 256" in w for w in result["warnings"])
    (shard,) = Path(result["generated"]["paths"][0]).glob("*.npz")
    samples = np.load(shard)["video"]
    firsts = bair_videos["test"][:, 0, 0].reshape(3, 16, 4, 16, 4, 3).mean((2, 4))
    order = [int(np.abs(firsts - sample[0]).mean((1, 2, 3)).argmin()) for sample in samples]
    assert order[::2] == order[1::2] and sorted(order[::2]) == [0, 1, 2]
    for sample, number in zip(samples, order, strict=True):
        np.testing.assert_allclose(sample[0], firsts[number], atol=0.51)


def test_bair_has_the_action_of_each_frame(data_dirs, bair_videos):
    config = _config("bair_robot_pushing_small", data_dirs["tfrecord"])
    config.data.condition, config.model.num_classes = "action", 0
    with pytest.raises(ValueError, match=r"action_width is 0, and must be 4 for the actions of 'b"):
        make_data_set(config, "train")
    config.model.action_width = 4
    source = make_data_set(config, "train")
    for index in range(6):
        example = source.example(index)
        clip = np.round((example["video"] + 1) * 127.5)
        number, first = next(
            (number, first)
            for number, video in enumerate(bair_videos["train"][:, 0])
            for first in range(15)
            if (clip == video[first : first + 16]).all()
        )
        expected = bair_action(number, np.arange(first, first + 16)[:, None])
        np.testing.assert_allclose(example["action"], expected, rtol=1e-6)
    config.data.name, config.data.tfds_config = "ucf101", "ucf101_1"
    with pytest.raises(ValueError, match="'action', and 'ucf101' has no actions"):
        make_data_set(config, "train")


def test_too_many_frames_are_an_error(data_dirs):
    config = _config("bair_robot_pushing_small", data_dirs["tfrecord"], frameskip=2)
    with pytest.raises(ValueError, match=r"videos of 31 frames are needed, .* have 30"):
        make_data_set(config, "train")


def test_the_newest_version_is_found(tmp_path):
    for version in ("2.0.0", "10.0.0", "9.0.0"):
        (tmp_path / "data_set" / version).mkdir(parents=True)
        (tmp_path / "data_set" / version / "features.json").touch()
    (tmp_path / "data_set" / "11.0.0").mkdir()  # incomplete
    assert prepared_folder("data_set", "", str(tmp_path), "").name == "10.0.0"
    with pytest.raises(
        ValueError, match=r"no prepared data set in .*other: prepare it with prepare other"
    ):
        prepared_folder("other", "", str(tmp_path), "prepare other")


def test_errors_name_damaged_files(data_dirs, tmp_path):
    whole = data_dirs["tfrecord"] / "bair_robot_pushing_small" / "2.0.0"
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (records,) = tmp_path.glob("*test.tfrecord*")
    content = records.read_bytes()
    records.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="should have 3 records, and 2 are whole"):
        TfdsVideos(tmp_path, "test", frames="image_main").open(0)
    # A flipped bit leaves the protocol buffer whole, and would only change pixels.
    flipped = bytes([content[2_000] ^ 1])
    for damage in (
        content[:12] + b"\xff" * 1000 + content[1012:],
        content[:2_000] + flipped + content[2_001:],
    ):
        records.write_bytes(damage)
        with pytest.raises(ValueError, match=rf"record 0 of .*{records.name} is damaged"):
            TfdsVideos(tmp_path, "test", frames="image_main").open(0)
    records.unlink()
    with pytest.raises(ValueError, match=rf"{records.name} is missing"):
        TfdsVideos(tmp_path, "test", frames="image_main")
    with pytest.raises(ValueError, match="has the splits train, test, and valid is required"):
        TfdsVideos(tmp_path, "valid", frames="image_main")
    for name in ("dataset_info.json", "features.json"):
        text = (tmp_path / name).read_text()
        for damaged in ("", text[:-30], "{}"):
            (tmp_path / name).write_text(damaged)
            with pytest.raises(ValueError, match=rf"{name} .*in {tmp_path} is missing or damaged"):
                TfdsVideos(tmp_path, "test", frames="image_main")
        (tmp_path / name).write_text(text)


def test_only_requested_frames_are_decoded(data_dirs):
    folder = data_dirs["tfrecord"] / "bair_robot_pushing_small" / "2.0.0"
    encoded = TfdsVideos(folder, "test", frames="image_main").open(0).encoded
    longer = encoded[1][:33] + b"\xff" + encoded[1][34:]  # the length of a PNG chunk
    video = EncodedVideo("v", [encoded[0], encoded[1][:100], longer])
    assert video.frames([0]).shape == (1, 64, 64, 3)
    for damaged in (1, 2):
        with pytest.raises(ValueError, match=f"frame {damaged} of v is damaged"):
            video.frames([0, damaged])


def test_reading_needs_no_tensorflow(data_dirs):
    folder = data_dirs["tfrecord"] / "bair_robot_pushing_small" / "2.0.0"
    program = (
        "import sys; from vdm.data.tfds.videos import TfdsVideos\n"
        f"video = TfdsVideos({str(folder)!r}, 'test', frames='image_main').open(1)\n"
        "assert video.frames([3]).shape == (1, 64, 64, 3) and 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_a_missing_package_is_an_error_with_its_name(data_dirs, monkeypatch):
    folder = data_dirs["tfrecord"] / "bair_robot_pushing_small" / "2.0.0"
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r'pip install "video-diffusion-jax\[tfds\]"'):
        TfdsVideos(folder, "test", frames="image_main")
