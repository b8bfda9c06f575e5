"""A folder of videos: which are used, which are skipped and why, and the clips."""

import json
import os
import shutil
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from configs import folder as folder_config
from tests.data.names import clip_names
from tests.data.video_writing import number_of, numbered, write_sound, write_video
from vdm.data.datasets import held_out_videos, make_data_set
from vdm.data.folder.videos import open_folder
from vdm.video import index as video_index
from vdm.video.display import gif_bytes
from vdm.video.index import INDEX_NAME, index_folder
from vdm.video.video_sets import open_videos

_GOOD = 12  # number of usable videos in the folder


@pytest.fixture(autouse=True)
def _clear_cache():
    open_folder.cache_clear()


def _write_images(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{number}.png")


@pytest.fixture(scope="module")
def _written(tmp_path_factory):
    """Videos of 20 to 31 numbered frames in three folders, each with its own shade."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(_GOOD):
        frames = [numbered(n, 40, 60, shade=8 * index) for n in range(20 + index)]
        subfolder = folder / "abc"[index % 3]
        subfolder.mkdir(exist_ok=True)
        if index == 0:
            _write_images(subfolder / "0", frames)
        elif index == 1:
            (subfolder / "1.gif").write_bytes(gif_bytes(np.stack(frames), scale=1))
        else:
            suffix = (".mp4", ".mkv", ".mov")[index % 3]
            write_video(subfolder / f"{index}{suffix}", frames, options={"crf": "10", "bf": "2"})
    (folder / "a" / "empty.mp4").touch()
    (folder / "a" / "corrupt.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    write_sound(folder / "b" / "audio.mp4")
    write_video(folder / "c" / "short.avi", [numbered(0)] * 5, codec="mpeg4")
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").touch()
    return folder


@pytest.fixture
def videos(_written, tmp_path):
    return shutil.copytree(_written, tmp_path / "videos")


_BAD = {
    "a/empty.mp4": "is empty",
    "a/corrupt.mkv": "cannot be opened: Invalid data found when processing input",
    "b/audio.mp4": "has no video, but audio",
    "c/short.avi": "has 5 frames, and 16 are needed",
}


def _config(videos, **data):
    config = folder_config.get_config()
    config.data.update(path=str(videos), resolution=16, **data)
    return config


def test_bad_files_are_skipped_and_named_with_the_reason(videos, capsys):
    source = make_data_set(_config(videos), "train")
    held_out = make_data_set(_config(videos), "test")
    names = {*clip_names(source, range(len(source))), *clip_names(held_out, range(len(held_out)))}
    assert len(names) == len(source) + len(held_out) == _GOOD and not names & _BAD.keys()
    report = (videos / "video_index.txt").read_text().splitlines()
    assert report[0] == f"{videos}: 12 videos are used, and 4 skipped"
    others = [".hidden.mp4 is hidden", "notes.txt is no video or image by its name"]
    assert sorted(report[1:]) == sorted([f"{name} {why}" for name, why in _BAD.items()] + others)
    printed = capsys.readouterr().out
    assert printed.count("4 skipped") == 1 and "1 'has no video'" in printed


def test_every_kind_of_file_returns_the_requested_frames(videos):
    rng = np.random.default_rng(0)
    for reader in open_folder(videos, needed_frames=16).values():
        for index, name in enumerate(reader.names):
            video = reader.open(index)
            assert video.num_frames == 20 + int(name[2:].split(".")[0])
            requested = [video.num_frames - 1, *rng.integers(0, video.num_frames, 3).tolist()]
            assert [number_of(frame) for frame in video.frames(requested)] == requested


@pytest.mark.parametrize("kind", ["mp4", "gif", "images"])
def test_pixels_agree_with_an_independent_decode_and_resize(videos, kind):
    index = {"mp4": "a/3.mp4", "gif": "b/1.gif", "images": "a/0"}[kind]
    reader = open_folder(videos, needed_frames=16, test_share=0)["train"]
    source = make_data_set(_config(videos, test_share=0.0), "train")
    position = next(i for i in range(len(source)) if clip_names(source, [i]) == [index])
    clip = source.example(position)["video"]
    if kind == "images":
        images = [Image.open(videos / index / f"frame_{n}.png") for n in range(20)]
        frames = np.stack([np.asarray(image) for image in images])
    elif kind == "gif":
        with Image.open(videos / index) as gif:
            frames = []
            for number in range(gif.n_frames):
                gif.seek(number)
                frames.append(np.asarray(gif.convert("RGB")))
            frames = np.stack(frames)
    else:
        capture = cv2.VideoCapture(str(videos / index))
        frames = np.stack([capture.read()[1][..., ::-1] for _ in range(23)])
    # 40 x 40 pixels as 16 x 16, through 80 x 80 of a quarter: means of 5 x 5.
    square = frames[:, :, 10:50].repeat(2, 1).repeat(2, 2).astype(float)
    means = square.reshape(len(frames), 16, 5, 16, 5, 3).mean((2, 4)) / 127.5 - 1
    starts = [
        start
        for start in range(len(frames) - 15)
        if np.abs(means[start : start + 16] - clip).max() <= 1 / 127.5 + 1e-6
    ]
    assert len(starts) == 1
    assert reader.open(reader.names.index(index)).num_frames == len(frames)


def test_a_folder_without_usable_videos_is_an_error_with_the_reasons(videos):
    for name in "abc":
        for path in (videos / name).iterdir():
            if f"{name}/{path.name}" not in _BAD:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=r"no video that can be used: a/corrupt\.mkv cannot be"):
        make_data_set(_config(videos), "train")
    empty = videos / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"can be used; docs/data\.md lists the kinds"):
        make_data_set(_config(empty), "train")
    with pytest.raises(FileNotFoundError, match="nowhere', and must be a folder of videos"):
        make_data_set(_config(videos / "nowhere"), "train")
    with pytest.raises(NotADirectoryError, match="is a file"):
        make_data_set(_config(videos / "notes.txt"), "train")
    with pytest.raises(ValueError, match=r"config\.data\.path is empty"):
        make_data_set(_config(""), "train")


def test_the_index_is_built_once_and_changed_files_are_decoded_again(videos, monkeypatch):
    first = index_folder(videos)
    examined = []
    whole = video_index.open_video
    monkeypatch.setattr(
        video_index, "open_video", lambda path, number: examined.append(path) or whole(path, number)
    )
    again = index_folder(videos)
    assert not examined and again == first
    write_video(videos / "c" / "short.avi", [numbered(0)] * 30, codec="mpeg4")
    (videos / "b" / "audio.mp4").unlink()
    changed = index_folder(videos)
    assert [path.name for path in examined] == ["short.avi"]
    assert first.videos["c/short.avi"].num_frames == 5
    assert changed.videos["c/short.avi"].num_frames == 30
    assert changed.unreadable == {"a/empty.mp4", "a/corrupt.mkv"}
    (videos / INDEX_NAME).write_text('{"version": 1, "videos": {"a/emp')
    assert index_folder(videos) == changed and len(examined) > 10


def test_the_index_is_in_the_cache_if_the_folder_is_read_only(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VDM_CACHE", raising=False)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    source = make_data_set(_config(videos), "train")
    assert len(source) and not (videos / INDEX_NAME).exists()
    assert len(list((tmp_path / "cache").rglob("video_index.*"))) == 2


def test_without_opencv_videos_of_another_size_are_refused_by_name(videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"needs OpenCV: pip install") as refused:
        make_data_set(_config(videos), "train")
    assert str(refused.value).startswith(str(videos))


def test_classes_are_sub_folders(videos):
    config = _config(videos, condition="label")
    with pytest.raises(ValueError, match=r"num_classes is 0, and the videos of .* have 3 classes"):
        make_data_set(config, "train")
    config.model.num_classes = 3
    for split in ("train", "test"):
        source = make_data_set(config, split)
        for index, name in enumerate(clip_names(source, range(len(source)))):
            assert source.example(index)["label"] == "abc".index(name[0])


def test_a_manifest_selects_and_describes_videos(videos):
    rows = [
        {"file": "a/3.mp4", "caption": "three", "label": "x", "split": "train"},
        {"file": "a/0", "caption": "nought", "label": "y", "split": "train"},
        {"file": "b/1.gif", "caption": "one", "label": "y", "split": "test"},
        {"file": "b/4.mkv", "label": "x", "split": "train"},
        {"file": "b/7.mkv", "caption": "seven", "label": "z", "split": "validation"},
        {"file": "gone.mp4", "caption": "gone", "label": "x"},
    ]
    (videos / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = _config(videos, condition="text", text_tokens=4)
    config.model.text_width = 8
    train, test = (make_data_set(config, split) for split in ("train", "test"))
    assert sorted(clip_names(train, range(2))) == ["a/0", "a/3.mp4"] and len(train) == 2
    assert clip_names(test, [0]) == ["b/1.gif"] and test.caption(0) == "one"
    assert test.example(0)["text"].shape == (4, 8)
    report = (videos / "video_index.txt").read_text()
    for line in (
        "b/4.mkv has no caption in a manifest",
        "b/7.mkv has the split 'validation', which is neither 'train' nor 'test'",
        "gone.mp4 is in the manifest and not in the folder",
        "c/2.mov is not in the manifest",
    ):
        assert f"\n{line}\n" in report
    config.data.text_tokens = 1
    make_data_set(config, "test")
    rows[1]["caption"] = "two words"
    (videos / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    open_folder.cache_clear()
    with pytest.raises(ValueError, match=r"videos/a/0: caption 'two words' has 2 words, and must"):
        make_data_set(config, "train")
    config = _config(videos, condition="label")
    config.model.num_classes = 3
    assert make_data_set(config, "test").label(0) == 1
    (videos / "manifest.csv").write_text("file\na/0\n")
    open_folder.cache_clear()
    with pytest.raises(ValueError, match=r"has manifest\.csv and manifest\.jsonl, and"):
        make_data_set(config, "test")


def test_a_manifest_has_absolute_paths_and_array_files(tmp_path):
    root, linked = tmp_path / "videos", tmp_path / "linked"
    root.mkdir()
    linked.symlink_to(root, target_is_directory=True)
    np.savez(root / "a.npz", video=np.zeros((3, 4, 8, 8, 3), np.uint8))
    np.save(root / "b.npy", np.zeros((4, 8, 8, 3), np.uint8))
    np.save(root / "c.npy", np.zeros((4, 8, 8, 3), np.uint8))
    rows = ["file,label,split", "a.npz,x,train", "a.npz#1,y,test", f"{root}/b.npy,y,test"]
    (root / "manifest.csv").write_text("\n".join([*rows, "/elsewhere/c.npy,y,test"]))
    for folder in (root, linked):
        open_folder.cache_clear()
        splits = open_folder(folder, needed_frames=4, condition="label")
        assert splits["train"].names == ("a.npz#0", "a.npz#2")
        assert splits["test"].names == ("a.npz#1", "b.npy")
        assert [splits["train"].label(0), splits["test"].label(0)] == [0, 1]
        assert splits["test"].classes == ("x", "y")
        report = (root / "video_index.txt").read_text()
        assert "\n/elsewhere/c.npy is in the manifest and not in the folder\n" in report
        assert "\nc.npy is not in the manifest\n" in report and "a.npz" not in report


@pytest.mark.parametrize("beside", ["intro.mkv", "extra/intro.mkv"])
def test_folders_of_splits_have_no_videos_beside_them(videos, beside):
    """Otherwise test/ would be trained on."""
    for old, new in (("a", "train"), ("b", "test"), ("c", "val")):
        (videos / old).rename(videos / new)
    splits = open_folder(videos, needed_frames=16)
    assert {name.split("/")[0] for name in splits["test"].names} == {"test"}
    assert {name.split("/")[0] for name in splits["train"].names} == {"train"}
    (videos / beside).parent.mkdir(exist_ok=True)
    shutil.copy(videos / "test" / "4.mkv", videos / beside)
    open_folder.cache_clear()
    name = beside.split("/")[0]
    message = f"folders of splits, test and train and val, and beside them {name}, in no split"
    with pytest.raises(ValueError, match=message):
        open_folder(videos, needed_frames=16)
    manifest = "file,split\n" + "".join(f"{n},{s}\n" for s in splits for n in splits[s].names)
    (videos / "manifest.csv").write_text(manifest)
    assert open_folder(videos, needed_frames=16)["test"].names == splits["test"].names


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        # Folders of classes in folders of splits, in the only folder of an archive.
        (["all/Train/x/0", "all/Train/y/1", "all/test/x/2", "all/test/y/3"], ["x", "y"]),
        # Folders of splits in folders of classes.
        (["x/train/0", "x/val/1", "y/train/2", "y/val/3"], ["x", "y"]),
        (["deep/x/train/0", "deep/y/test/1"], None),
    ],
)
def test_folders_of_splits_below_others_are_splits(tmp_path, names, classes):
    for index, name in enumerate(names):
        path = tmp_path / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((4, 8, 8, 3), index, np.uint8))
    splits = open_folder(tmp_path, needed_frames=4, condition="label" if classes else "none")
    held_out = {f"{name}.npy" for name in names if "/test/" in name or "/val/" in name}
    assert set(splits["test"].names) == held_out and held_out
    assert set(splits["train"].names) == {f"{name}.npy" for name in names} - held_out
    if classes:
        for split in splits.values():
            assert [*split.classes] == classes
            for name in split.names:
                assert classes[split.labels[name]] in name.split("/")
    (warning,) = open_videos(tmp_path, 0).warnings
    assert "has the splits" in warning


def test_array_files_of_splits_are_splits(tmp_path):
    for name, count in (("train", 3), ("test", 2)):
        np.savez(tmp_path / f"{name}.npz", video=np.zeros((count, 4, 8, 8, 3), np.uint8))
    splits = open_folder(tmp_path, needed_frames=4)
    assert splits["train"].names == tuple(f"train.npz#{index}" for index in range(3))
    assert splits["test"].names == ("test.npz#0", "test.npz#1")
    (warning,) = open_videos(tmp_path, 0).warnings
    assert warning.startswith(f"{tmp_path} has the splits test, train, and the videos of all are")
    assert not open_videos(tmp_path / "test.npz", 0).warnings


@pytest.mark.parametrize(
    "names", [["a/x", "b/y"], ["train/x", "training/y"], ["a/train/x", "a/y", "a/test/z"]]
)
def test_other_folders_are_no_splits(tmp_path, names):
    """A share of all videos is held out; a class may be named 'train' beside other classes."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 8, 8, 3), np.uint8))
    splits = open_folder(tmp_path, needed_frames=4, test_share=0.0)
    assert splits["train"].names == tuple(f"{name}.npy" for name in sorted(names))
    assert not open_videos(tmp_path, 0).warnings


def test_a_single_folder_for_training_is_no_class(videos):
    (videos / "Train").mkdir()
    for name in "abc":
        (videos / name).rename(videos / "Train" / name)
    splits = open_folder(videos, needed_frames=16, condition="label")
    assert splits["train"].classes == ("a", "b", "c") and splits["train"].names
    for split in splits.values():
        for name in split.names:
            assert split.classes[split.labels[name]] == name.split("/")[1]
    assert sum(map(len, splits.values())) == _GOOD and splits["test"].names


def test_held_out_videos_stay_held_out_when_videos_are_added(videos):
    splits = open_folder(videos, needed_frames=16, test_share=0.3)
    held_out = set(splits["test"].names)
    assert held_out and not held_out & set(splits["train"].names)
    for index in range(20):
        shutil.copy(videos / "a" / "3.mp4", videos / f"more_{index}.mp4")
    open_folder.cache_clear()
    more = open_folder(videos, needed_frames=16, test_share=0.3)
    assert set(more["test"].names) >= held_out
    assert set(more["train"].names) >= set(splits["train"].names)
    assert 1 <= len(more["test"].names) - len(held_out) <= 14

    with pytest.raises(ValueError, match=r"is in the split 'test'.*test_share, 0\.0"):
        make_data_set(_config(videos, test_share=0.0), "test")
    real = held_out_videos(_config(videos), 18)
    assert real.example(0)["video"].shape == (18, 16, 16, 3)
    with pytest.raises(ValueError, match="99 are needed"):
        held_out_videos(_config(videos), 99)


def test_one_held_out_video_is_enough_for_a_run_with_images(videos):
    """Independent images are for the training loss alone, not for that of held-out videos."""
    plain, joint = (_config(videos, num_images=n, test_share=0.01) for n in (0, 2))
    train, test = (make_data_set(joint, split) for split in ("train", "test"))
    assert train.example(0)["images"].shape == (2, 16, 16, 3)
    assert len(test) == 1 and test.example(0).keys() == {"video"}
    expected = make_data_set(plain, "test").example(0)["video"]
    np.testing.assert_array_equal(test.example(0)["video"], expected)


@pytest.mark.parametrize("test_share", [0.0, 0.1, 0.99])
def test_a_single_video_is_for_training_whatever_its_name(tmp_path, test_share):
    for number in range(20):  # about two of the names have a hash below 0.1
        folder = tmp_path / str(number)
        folder.mkdir()
        np.save(folder / f"clip{number}.npy", np.zeros((4, 8, 8, 3), np.uint8))
        splits = open_folder(folder, needed_frames=4, test_share=test_share)
        assert splits["train"].names == (f"clip{number}.npy",) and not splits["test"].names


def test_order_is_the_same_on_two_processes_and_after_a_kill(videos):
    """Two epochs of a real folder: names, and pixels of some batches."""
    size, config = 4, _config(videos)
    source = make_data_set(config, "train")
    steps = 2 * len(source) // size
    alone = [clip_names(source, range(step * size, (step + 1) * size)) for step in range(steps)]
    flat = [name for batch in alone for name in batch]
    assert sorted(flat[: len(source)]) == sorted(source.reader.names)
    for process in range(2):
        rows = range(2 * process, 2 * process + 2)
        for start in np.random.default_rng(process).integers(0, steps, 3):
            open_folder.cache_clear()
            again = make_data_set(config, "train")
            for step in range(start, steps):
                indices = [step * size + row for row in rows]
                assert clip_names(again, indices) == alone[step][rows.start : rows.stop]
            np.testing.assert_array_equal(
                again.batch(start, size, rows=rows)["video"],
                source.batch(start, size)["video"][rows.start : rows.stop],
            )


def test_real_clips(shared_data, tmp_path):
    """Files of many kinds are all used, and their last frames are readable."""
    clips = shutil.copytree(shared_data("clips"), tmp_path / "clips")
    clips.chmod(0o755)
    splits = open_folder(clips, needed_frames=16)
    assert sum(map(len, splits.values())) == len(list(shared_data("clips").iterdir()))
    assert (clips / "video_index.txt").read_text().endswith("38 videos are used, and 0 skipped\n")
    for index in range(len(splits["test"])):
        video = splits["test"].open(index)
        assert video.frames([video.num_frames - 1])[0].std() > 1
