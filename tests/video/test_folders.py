"""Which videos a folder holds, and the reasons why other files are left out."""

import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vdm.data.folder.manifest import read_manifest
from vdm.data.folder.videos import open_folder
from vdm.sampling.write import write_samples
from vdm.video import UnreadableVideoError, find_videos, open_video
from vdm.video.display import gif_bytes, mp4_bytes
from vdm.video.index import index_folder
from vdm.video.video_sets import open_videos


def _pixels(frames=4, height=6, width=8, seed=0):
    shape = (frames, height, width, 3)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def _write_frames(folder, pixels, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(pixels):
        Image.fromarray(frame).save(folder / f"frame_{number}{suffix}")
    return folder


def _write_animated(path, pixels):
    first, *rest = [Image.fromarray(frame) for frame in pixels]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=40, lossless=True)
    return path


def _names(folder):
    return [found.name for found in find_videos(folder).videos]


def test_foreign_files_do_not_hide_the_frames_of_a_video(tmp_path):
    folder = _write_frames(tmp_path / "x.avi", _pixels())
    for name in ("Thumbs.db", "meta.json", "sound.wav"):
        (folder / name).touch()
    _write_frames(folder / "masks", _pixels(seed=1))
    found = find_videos(tmp_path)
    assert [video.name for video in found.videos] == ["x.avi"]
    assert set(found.left_out) == {
        f"x.avi/{name}" for name in ("Thumbs.db", "meta.json", "sound.wav", "masks")
    }
    np.testing.assert_array_equal(open_video(folder).frames(range(4)), _pixels())


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("poses.npy", np.zeros((4, 4, 4))),
        ("flow.npy", np.zeros((4, 12, 16, 2), np.float32)),
        ("classes.npy", np.array({"a": 1})),
        ("camera.npz", {"K": np.eye(3), "depth": np.zeros((4, 12, 16, 1))}),
        ("samples_of.npz", {"video": np.zeros(3)}),
    ],
)
def test_other_arrays_do_not_hide_the_frames_of_a_video(tmp_path, name, arrays):
    folder = _write_frames(tmp_path / "a", _pixels())
    _save_arrays(folder / name, arrays)
    for path, key in ((tmp_path, f"a/{name}"), (folder, name)):
        index = index_folder(path, save=False)
        assert len(index.videos) == 1 and [*index.left_out] == [key]
        assert not index.unreadable
    (video,) = open_videos(tmp_path, 4)
    np.testing.assert_array_equal(video, _pixels())


def test_arrays_that_are_videos_or_damaged_take_precedence_over_images(tmp_path):
    folder = _write_frames(tmp_path / "a", _pixels())
    np.save(folder / "video.npy", _pixels(seed=1))
    assert _names(tmp_path) == ["a/video.npy"]
    data = (folder / "video.npy").read_bytes()
    (folder / "video.npy").write_bytes(data[: len(data) // 2])
    found = find_videos(tmp_path)
    assert not found.videos and found.unreadable == {"a/video.npy"}


def test_arrays_that_cannot_be_videos_are_no_damaged_videos(tmp_path):
    """Labels and features beside videos do not end a measurement; videos of floats do."""
    np.save(tmp_path / "a.npy", _pixels())
    _save_arrays(tmp_path / "labels.npy", np.arange(9))
    _save_arrays(tmp_path / "features.npz", {"i3d": np.zeros((9, 400)), "mean": np.zeros(400)})
    found = find_videos(tmp_path)
    assert _names(tmp_path) == ["a.npy"]
    assert found.left_out.keys() == {"labels.npy", "features.npz"} and not found.unreadable
    assert len(open_videos(tmp_path, 4)) == 1
    for name, arrays in (
        ("floats.npy", _pixels().astype(np.float32)),
        ("other.npz", {"samples": _pixels()}),
    ):
        _save_arrays(tmp_path / name, arrays)
        with pytest.raises(ValueError, match=name):
            open_videos(tmp_path, 4)
        (tmp_path / name).unlink()


def _save_arrays(path, arrays):
    if isinstance(arrays, dict):
        np.savez(path, **arrays)
    else:
        np.save(path, arrays, allow_pickle=True)


def test_the_reason_of_a_damaged_frame_continues_the_name_of_its_folder(tmp_path):
    _write_frames(tmp_path / "good", _pixels())
    (_write_frames(tmp_path / "bad", _pixels()) / "frame_2.png").write_bytes(b"")
    index = index_folder(tmp_path, save=False)
    assert [*index.videos] == ["good"]
    assert index.left_out["bad"].startswith("has an unusable image: frame_2.png cannot be read, ")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/bad has an unusable image: frame_2\.png "):
        open_videos(tmp_path, 4)


def test_a_stray_picture_does_not_hide_the_folders_beside_it(tmp_path):
    for name in "abc":
        _write_frames(tmp_path / name, _pixels())
    Image.fromarray(_pixels()[0]).save(tmp_path / "preview.png")
    found = find_videos(tmp_path)
    assert [video.name for video in found.videos] == ["a", "b", "c"]
    assert found.left_out == {"preview.png": "is a single image beside videos"}


def test_follows_links_once_and_names_dangling_ones(tmp_path):
    _write_frames(tmp_path / "elsewhere" / "a", _pixels())
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (videos / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    found = find_videos(videos)
    assert [video.name for video in found.videos] == ["linked/a"]
    assert found.left_out == {
        "gone.mp4": "is a dangling link",
        "linked/back": "is a link to a folder that contains it",
    }


def test_animated_pictures_are_videos(tmp_path):
    pixels = _pixels()
    for name in ("a.png", "b.webp", "c.apng"):
        format_ = "PNG" if name.endswith("png") else "WEBP"
        path = _write_animated(tmp_path / name.replace("apng", "png"), pixels)
        path.rename(tmp_path / name)
        video = open_video(tmp_path / name)
        assert (video.num_frames, video.frame_rate) == (4, 25), format_
        np.testing.assert_array_equal(video.frames([3, 0, 0]), pixels[[3, 0, 0]])
    assert _names(tmp_path) == ["a.png", "b.webp", "c.apng"]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".apng", ".webp"])
def test_a_truncated_animation_is_no_single_image(tmp_path, suffix):
    for name in ("a", "b", "c"):
        _write_animated(tmp_path / f"{name}{suffix}", _pixels(8))
    damaged = tmp_path / f"c{suffix}"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    index = index_folder(tmp_path)
    assert list(index.videos) == [f"a{suffix}", f"b{suffix}"]
    assert index.unreadable == {damaged.name} and "damaged" in index.left_out[damaged.name]
    with pytest.raises(ValueError, match=f"{damaged} cannot be read, it is damaged"):
        open_videos(tmp_path, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # the upper left quarter
    # How a camera stores an upright picture, by EXIF 2.3's table of orientations.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    read = open_video(tmp_path / "a.jpg").frames([0])[0]
    assert read.shape == upright.shape and np.abs(read.astype(int) - upright).max() <= 4


def test_a_folder_of_samples_is_its_array_file(tmp_path):
    samples = np.stack([_pixels(seed=seed) for seed in range(3)])
    write_samples(tmp_path, samples, seed=0, max_video_files=2, described={})
    assert _names(tmp_path) == ["samples.npz#0", "samples.npz#1", "samples.npz#2"]
    np.testing.assert_array_equal(list(open_videos(tmp_path, 0)), samples)


def test_a_file_named_as_samples_without_videos_does_not_hide_others(tmp_path):
    np.save(tmp_path / "a.npy", _pixels())
    for arrays in ({"scores": np.zeros((9, 400))}, {"video": np.zeros((2, 4, 12, 16, 3))}):
        np.savez(tmp_path / "samples.npz", **arrays)
        assert _names(tmp_path) == ["a.npy"]
        assert [*find_videos(tmp_path).left_out] == ["samples.npz"]
    (tmp_path / "samples.npz").write_bytes(b"damaged")  # as by a full disk
    assert not _names(tmp_path) and find_videos(tmp_path).unreadable == {"samples.npz"}


def test_counts_a_sample_in_two_formats_once(tmp_path):
    samples = np.stack([_pixels(20, seed=seed) for seed in range(3)])
    write_samples(tmp_path, samples, seed=0, max_video_files=3, described={})
    write_samples(tmp_path, samples, seed=0, max_video_files=2, described={})
    (tmp_path / "samples.npz").unlink()
    # Files of users, by other names, may be different videos.
    (tmp_path / "mine.gif").write_bytes(gif_bytes(samples[2]))
    (tmp_path / "mine.mp4").write_bytes((tmp_path / "video_0000.mp4").read_bytes())
    assert _names(tmp_path) == ["mine.gif", "mine.mp4", "video_0000.mp4", "video_0001.mp4"]
    assert len(open_videos(tmp_path, 16)) == 4
    why = "is video_0001.mp4 as a GIF"
    assert find_videos(tmp_path).left_out["video_0001.gif"] == why
    assert open_video(tmp_path / "video_0001.gif").num_frames == 20
    # A manifest says which one is meant.
    (tmp_path / "manifest.csv").write_text("file,split\nvideo_0000.gif,train\nmine.gif,test\n")
    open_folder.cache_clear()
    splits = open_folder(tmp_path, needed_frames=16)
    assert (splits["train"].names, splits["test"].names) == (("video_0000.gif",), ("mine.gif",))


def test_all_readers_give_the_same_frames(tmp_path):
    repeated = _pixels(8)[[0, 1, 1, 1, 2, 3, 4, 5]] // 32 * 32
    grey = repeated[..., :1].repeat(3, -1)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "a.gif").write_bytes(gif_bytes(grey[..., :1], scale=1))
    _write_frames(tmp_path / "class" / "b", grey)
    np.savez(tmp_path / "c.npz", video=grey[None])
    np.save(tmp_path / "d.npy", np.asfortranarray(grey))
    expected = [grey] * 4
    np.testing.assert_array_equal(list(open_videos(tmp_path, 0)), expected)
    indexed = index_folder(tmp_path, save=False).videos
    np.testing.assert_array_equal([v.frames(range(8)) for v in indexed.values()], expected)
    opened = [open_video(found.path, found.index) for found in find_videos(tmp_path).videos]
    np.testing.assert_array_equal([video.frames(range(8)) for video in opened], expected)
    assert not (tmp_path / "video_index.json").exists()


def test_a_folder_that_is_one_video_is_indexed_twice(tmp_path):
    _write_frames(tmp_path, _pixels(20))
    for _ in range(2):
        open_folder.cache_clear()
        splits = open_folder(tmp_path, needed_frames=16)
        assert sum(map(len, splits.values())) == 1


def test_frames_that_are_replaced_are_indexed_again(tmp_path):
    _write_frames(tmp_path / "a", _pixels(seed=0))
    assert index_folder(tmp_path).videos["a"].width == 8
    _write_frames(tmp_path / "a", _pixels(width=10, seed=1))
    assert index_folder(tmp_path).videos["a"].width == 10


@pytest.mark.parametrize("name", ["video_index.txt", "video_index.json"])
def test_does_not_overwrite_files_of_other_programs(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VDM_CACHE", raising=False)
    folder = tmp_path / "videos"
    _write_frames(folder / "a", _pixels(20))
    (folder / name).write_text("my own notes\n")
    open_folder.cache_clear()
    open_folder(folder, needed_frames=16)
    assert (folder / name).read_text() == "my own notes\n"
    assert len(list((tmp_path / "cache").rglob("video_index.*"))) == 2


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_folders_of_splits_are_splits(tmp_path, held_out):
    for split, count in (("train", 3), (held_out, 2)):
        for number in range(count):
            _write_frames(tmp_path / split / "waves" / str(number), _pixels(20))
    open_folder.cache_clear()
    splits = open_folder(tmp_path, needed_frames=16, condition="label")
    assert [len(splits[split]) for split in ("train", "test")] == [3, 2]
    assert splits["train"].classes == ("waves",)
    assert all(name.startswith(held_out) for name in splits["test"].names)


def test_names_that_are_not_utf_8_are_used_and_reported(tmp_path):
    bad = os.fsdecode(b"caf\xe9")
    _write_frames(tmp_path / bad, _pixels(20))
    (tmp_path / (bad + ".txt")).touch()
    (tmp_path / "two\rlines\n.txt").touch()
    for _ in range(2):
        open_folder.cache_clear()
        splits = open_folder(tmp_path, needed_frames=16)
        assert [name for split in splits.values() for name in split.names] == [bad]
    lines = (tmp_path / "video_index.txt").read_text().splitlines()
    assert len(lines) == 3 and lines[1].startswith("caf\\udce9.txt is no video")
    assert lines[2].startswith("two\\rlines\\n.txt is no video")


def test_a_folder_whose_name_is_not_utf_8_is_printed(tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    _write_frames(folder / "a", _pixels(20))
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8", errors="strict"))
    open_folder.cache_clear()
    open_folder(folder, needed_frames=16)
    assert out.getvalue().count(b"/caf\\udce9: ") == 2  # of indexing, and the summary


def test_arrays_are_reported_in_the_cache_if_the_folder_has_a_foreign_report(tmp_path, monkeypatch):
    """Array files need no index, whose folder in the cache is then missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VDM_CACHE", raising=False)
    folder = tmp_path / "videos"
    folder.mkdir()
    np.savez(folder / "a.npz", video=_pixels(20)[None].repeat(2, 0))
    (folder / "video_index.txt").write_text("my own notes\n")
    open_folder.cache_clear()
    assert len(open_folder(folder, needed_frames=16)["train"]) == 1
    (report,) = (tmp_path / "cache").rglob("video_index.txt")
    assert "2 videos are used" in report.read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"height": 6', '"height": 99'),
        ('"height"', '"hight"'),
        ('"frames": 4', '"frames": "4"'),
        ('"pictures"', '"picture"'),
        ('"state": [', '"state": [1, '),
        ('{"state"', '3, "x": {"state"'),
    ],
)
def test_a_damaged_index_is_built_again(tmp_path, old, new):
    pixels = _pixels()
    _write_frames(tmp_path / "a", pixels)
    _write_animated(tmp_path / "b.webp", pixels)
    index = index_folder(tmp_path).path
    good = index.read_text()
    index.write_text(good.replace(old, new))
    assert index.read_text() != good
    for video in index_folder(tmp_path).videos.values():
        np.testing.assert_array_equal(video.frames(range(4)), pixels)
    assert index.read_text() == good


@pytest.mark.parametrize("opens", ["av.open", "PIL.Image.open"])
def test_errors_of_the_system_are_not_remembered(tmp_path, monkeypatch, opens):
    """Granting the permission to read changes neither the size nor the time of a file."""
    _write_animated(tmp_path / "a.gif", _pixels())
    (tmp_path / "a.mp4").write_bytes(mp4_bytes(_pixels()))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    name = "a.mp4" if opens == "av.open" else "a.gif"

    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(opens, refuse)
        assert "Permission denied" in index_folder(tmp_path).left_out[name]
    index = index_folder(tmp_path)
    assert list(index.videos) == ["a.gif", "a.mp4"]
    assert index_folder(tmp_path).left_out == index.left_out
    assert '"b.mp4": {"state": [' in index.path.read_text()  # damage is remembered


def test_a_folder_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    """Its files are listed, and nothing else is known of them."""
    _write_frames(tmp_path / "open" / "a", _pixels(20))
    _write_frames(tmp_path / "locked" / "b", _pixels(20))
    (tmp_path / "open" / "itself").symlink_to("itself")
    stat = Path.stat

    def stat_outside(self, **options):
        if self.parent.name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", stat_outside)
    found = find_videos(tmp_path)
    assert [video.name for video in found.videos] == ["open/a"]
    assert found.left_out == {
        "locked/b": "cannot be read: Permission denied",
        "open/itself": "is a dangling link",
    }
    open_folder.cache_clear()
    assert len(open_folder(tmp_path, needed_frames=16)["train"]) == 1
    assert "1 skipped\nlocked/b cannot be read" in (tmp_path / "video_index.txt").read_text()
    with pytest.raises(ValueError, match="locked/b cannot be read: Permission denied"):
        open_videos(tmp_path, 0)


def test_manifest_names_of_other_systems_are_the_same_files(tmp_path):
    for name in ("a", "b", "c", "d\u00e9"):
        _write_frames(tmp_path / "x" / name, _pixels(20))
    listed = ["./x/a", "x\\b", "x/c ", "x/de\u0301"]
    rows = [json.dumps({"file": name, "split": "train"}) for name in listed]
    (tmp_path / "manifest.jsonl").write_text("\n".join(rows))
    open_folder.cache_clear()
    assert len(open_folder(tmp_path, needed_frames=16)["train"]) == 4
    (tmp_path / "manifest.jsonl").write_text("\n".join([*rows, json.dumps({"file": "x/a"})]))
    with pytest.raises(ValueError, match=r"line 5 .* has 'x/a', as line 1 has"):
        read_manifest(tmp_path / "manifest.jsonl")


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=6)
_SUFFIXES = st.sampled_from(["", ".mp4", ".gif", ".png", ".npz", ".txt", ".PNG", ".webp"])
_CONTENTS = st.sampled_from([b"", b"no video", gif_bytes(_pixels(2), scale=1)])
_FILES = st.dictionaries(
    st.tuples(st.lists(_NAMES, max_size=2).map(tuple), _NAMES, _SUFFIXES), _CONTENTS, max_size=6
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=_FILES)
def test_uses_or_names_every_file(tmp_path, files):
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    written = []
    for (folders, name, suffix), content in files.items():
        path = root.joinpath(*folders, name + suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError:  # '.', or a folder where a file is
            continue
        written.append(path)
    index = index_folder(root, save=False)
    used = {video.path for video in index.videos.values()}
    named = {root / name for name in index.left_out}
    for path in written:
        assert ({path, *path.parents} & (used | named)) or path.parent in used
    for name in index.unreadable:
        with pytest.raises(UnreadableVideoError):
            open_video(root / name)


def test_photographs_with_a_preview_inside_are_single_frames(tmp_path):
    """Phones store two pictures in one .jpg (MPO, CIPA DC-007)."""
    flat = [np.full((6, 8, 3), 40 * number, np.uint8) for number in range(4)]
    for number, frame in enumerate(flat):
        preview = Image.fromarray(frame[:3, :4])
        photograph = Image.fromarray(frame)
        path = tmp_path / "a" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        photograph.save(path, format="MPO", save_all=True, append_images=[preview])
    assert open_video(path).num_frames == 1
    read = open_video(tmp_path / "a").frames(range(4))
    assert np.abs(read.astype(int) - flat).max() <= 2
