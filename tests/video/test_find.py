"""Random folder trees and requests raise only the reader's errors, and lose no file."""

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.video.written import encode, moving, reference_frames
from vdm.video import UnreadableVideoError, find_videos, open_video
from vdm.video.index import index_folder

_EXAMPLES = [pytest.param(25, id="fast"), pytest.param(600, id="slow", marks=pytest.mark.slow)]
_COMPONENTS = st.one_of(
    st.sampled_from(["a", "b", "frame_1", "frame 10", ".hidden", "-x", "12:30", "#1", "50%", "é"]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=5),
    st.binary(min_size=1, max_size=4).map(
        lambda name: os.fsdecode(name.replace(b"/", b"_").replace(b"\0", b"_"))
    ),
)
_SUFFIXES = st.sampled_from(
    [
        *("", ".png", ".PNG", ".jpg", ".webp", ".bmp", ".tif", ".apng", ".gif", ".npz", ".npy"),
        *(".mp4", ".avi", ".mkv", ".txt", ".json"),
    ]
)
_NAMED = ["samples.npz", "video_index.json", "video_index.txt", "manifest.csv", "Thumbs.db"]
_NAMES = st.one_of(
    st.tuples(_COMPONENTS, _SUFFIXES).map("".join),
    st.tuples(_COMPONENTS, _SUFFIXES).map("".join),
    st.sampled_from(_NAMED),
)
_FOLDERS = st.lists(st.one_of(st.sampled_from(["a", "b", "x.avi"]), _COMPONENTS), max_size=3)
_CONTENTS = ["image", "image", "other image", "gif", "png", "npz", "npy", "video", "empty", "noise"]
_ENTRIES = st.lists(
    st.tuples(
        _FOLDERS,
        _NAMES,
        st.one_of(st.sampled_from(_CONTENTS), st.sampled_from(["up", "sideways", "nowhere"])),
    ),
    max_size=10,
)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Bytes of a small file of each kind."""
    folder = tmp_path_factory.mktemp("contents")
    frames = moving(3, 16, 16)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(folder / "image.png")
    Image.fromarray(moving(1, 20, 16)[0]).save(folder / "other image.jpg")
    for suffix in ("gif", "png"):
        pictures[0].save(folder / f"{suffix}.{suffix}", save_all=True, append_images=pictures[1:])
    np.savez_compressed(folder / "npz.npz", video=frames[None].repeat(2, 0))
    np.save(folder / "npy.npy", frames)
    encode(folder / "video.mkv", frames, "-c:v", "ffv1")
    (folder / "empty.x").touch()
    (folder / "noise.x").write_bytes(np.random.default_rng(0).bytes(300))
    return {path.stem: path.read_bytes() for path in folder.iterdir()}


def _write(root: Path, entries, contents) -> None:
    for folders, name, content in entries:
        path = root.joinpath(*folders, name)
        with contextlib.suppress(OSError):  # '..' and '.', names in use, and names too long
            path.parent.mkdir(parents=True, exist_ok=True)
            if root not in path.parent.resolve().parents and path.parent.resolve() != root:
                continue
            if path.exists() or path.is_symlink():
                continue
            if content in contents:
                path.write_bytes(contents[content])
            else:
                path.symlink_to({"up": "..", "sideways": "../a", "nowhere": "gone"}[content])


def _covering(path: str) -> set[str]:
    """The names by which a file may be used or named: its own, and its folders'."""
    return {path, *map(str, Path(path).parents)}


@pytest.mark.parametrize("examples", _EXAMPLES)
def test_uses_or_names_every_file(tmp_path, contents, examples):
    root = (tmp_path / "root").resolve()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(entries=_ENTRIES)
    def check(entries):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        _write(root, entries, contents)
        found = find_videos(root)
        used = {video.path.relative_to(root).as_posix() for video in found.videos}
        names = {video.name for video in found.videos}
        assert len(found.videos) == len(names)
        assert all(isinstance(reason, str) and reason for reason in found.left_out.values())
        assert not used & found.left_out.keys()
        # Folders of images are used as their folder; their images are not named one by one.
        for folder, folders, files in os.walk(root):
            for name in (*files, *(n for n in folders if os.path.islink(Path(folder, n)))):
                path = Path(folder, name).relative_to(root).as_posix()
                if os.path.isdir(Path(folder, name)) and path not in found.left_out:
                    continue  # a link to a folder, whose files are named below it
                assert _covering(path) & (used | found.left_out.keys()), path
        index = index_folder(root, save=False)
        assert names <= index.videos.keys() | index.left_out.keys()
        assert found.left_out.keys() - {"video_index.json", "video_index.txt"} <= (
            index.left_out.keys()
        )
        for name, video in index.videos.items():
            frames = video.frames([video.num_frames - 1, 0])
            assert frames.shape == (2, video.height, video.width, 3), name
        for video in found.videos:
            try:
                open_video(video.path, video.index)
            except UnreadableVideoError as error:
                assert video.name in index.left_out and error.reason
                assert os.fspath(video.path) in str(error)
            else:
                assert video.name in index.videos

    check()


@pytest.mark.parametrize("examples", _EXAMPLES)
def test_a_saved_index_gives_the_same_videos(
    tmp_path, tmp_path_factory, monkeypatch, contents, examples
):
    # Where a file of another program has the index's name, the index goes there.
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("VDM_CACHE", raising=False)
    root = (tmp_path / "root").resolve()

    @settings(max_examples=examples // 5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(entries=_ENTRIES)
    def check(entries):
        for folder in (root, cache):
            shutil.rmtree(folder, ignore_errors=True)
        root.mkdir()
        _write(root, entries, contents)
        unsaved = index_folder(root, save=False)
        saved, again = index_folder(root), index_folder(root)
        assert unsaved.videos.keys() == saved.videos.keys() == again.videos.keys()
        assert unsaved.left_out == saved.left_out == again.left_out
        for name, video in unsaved.videos.items():
            other = again.videos[name]
            assert (other.num_frames, other.note) == (video.num_frames, video.note)
            assert other.frame_rate == video.frame_rate
            np.testing.assert_array_equal(other.frames([0]), video.frames([0]))

    check()


_VIDEOS = {
    "h264.mp4": ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "2"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", "2"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-bf", "2"),
    "vp8.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"),
    "hevc.mkv": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error"),
}


@pytest.mark.parametrize("examples", _EXAMPLES)
@pytest.mark.parametrize("name", _VIDEOS)
def test_random_requests_on_random_videos(tmp_path, name, examples):
    """Frames by random indices are those of the whole decoding."""

    @settings(max_examples=examples // 8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        count=st.integers(1, 40),
        group=st.integers(1, 50),
        seed=st.integers(0, 2**16),
        data=st.data(),
    )
    def check(count, group, seed, data):
        options = (*_VIDEOS[name], "-g", str(group))
        path = encode(tmp_path / name, moving(count, 32, 48, seed=seed), *options)
        expected, video = reference_frames(path), open_video(path)
        assert video.num_frames == len(expected) == count
        requests = st.lists(st.integers(0, count - 1), max_size=6)
        for _ in range(8):
            indices = data.draw(requests)
            np.testing.assert_array_equal(video.frames(indices), expected[indices])

    check()
