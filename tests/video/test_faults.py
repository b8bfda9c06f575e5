"""Faults that were reported, one test per kind: inputs made here, and the files where they are."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.video.written import (
    assert_frames,
    encode,
    moving,
    reference_frames,
    remux,
    run_ffmpeg,
)
from vdm.video import UnreadableVideoError, find_videos, open_video
from vdm.video.index import index_folder

_INPUTS = ROOT.parent / "shared" / "faults" / "inputs"
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")


@pytest.fixture
def fault():
    """The path of a reported file, or a skip."""

    def path_of(name):
        path = _INPUTS / name
        if not path.exists():
            pytest.skip(f"{path} is missing")
        return path

    return path_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("VDM_CACHE", raising=False)


def _images(folder, frames, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}{suffix}", lossless=True)
    return folder


def _animated(path, frames, duration=40, format_=None):
    first, *rest = map(Image.fromarray, frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, format_, save_all=True, append_images=rest, duration=duration)
    return path


def _names(folder):
    return [found.name for found in find_videos(folder).videos]


_SMALL = moving(6, 12, 16)


@pytest.mark.parametrize(
    "name",
    [
        "svt_g25.mp4",  # V1
        "matrix_hflip.mp4",  # V2
        "hflip.mkv",
        "pal8_raw.avi",  # V7
        "mpeg2_bf2_g25.mpg",  # V8
        "hevc10_bt2020_pq.mp4",  # V24
        "x264_interlaced.mp4",
    ],
)
def test_reported_files_equal_ffmpeg(fault, name):
    assert_frames(open_video(fault(name)), reference_frames(fault(name)))


def test_v1_every_frame_of_av1_is_read_singly(tmp_path):
    options = ("-c:v", "libsvtav1", "-preset", "10", "-g", "25", "-svtav1-params", "lp=1")
    for suffix in (".mp4", ".mkv"):
        path = encode(tmp_path / f"a{suffix}", moving(75), *options)
        video = open_video(path)
        assert video.num_frames == 75
        assert_frames(video, reference_frames(path))


def test_v2_a_mirrored_copy_is_the_mirrored_video(tmp_path):
    plain = encode(tmp_path / "plain.mp4", moving(10), *_X264)
    mirrored = remux(tmp_path / "a.mp4", plain, before=("-display_hflip",))
    expected = open_video(plain).frames(range(10))[:, :, ::-1]
    np.testing.assert_array_equal(open_video(mirrored).frames(range(10)), expected)


def test_v2_the_two_reported_files_have_the_same_orientation(fault):
    first, second = (open_video(fault(name)) for name in ("matrix_hflip.mp4", "hflip.mkv"))
    assert first.num_frames == second.num_frames
    difference = first.frames([0, 3]).astype(int) - second.frames([0, 3])
    assert np.abs(difference).mean() < 8


def test_v3_all_readers_count_repeated_frames_of_a_gif(fault, tmp_path):
    frames = _SMALL[[0, 1, 1, 2, 3, 3, 3, 4]] // 64 * 64
    path = _animated(tmp_path / "0.gif", frames)
    for gif, count in ((path, 8), (fault("0.gif"), 16)):
        assert open_video(gif).num_frames == count
        assert index_folder(gif.parent, save=False).videos[gif.name].num_frames == count


def test_v4_foreign_files_in_a_folder_of_frames(tmp_path):
    folder = _images(tmp_path / "a", _SMALL)
    foreign = ("Thumbs.db", "data.json", "sound.wav", ".DS_Store")
    for name in foreign:
        (folder / name).write_bytes(b"foreign")
    _images(folder / "masks", _SMALL)
    found = find_videos(tmp_path)
    assert [video.name for video in found.videos] == ["a"]
    foreign = {
        f"a/{name}" for name in ("Thumbs.db", "data.json", "sound.wav", ".DS_Store", "masks")
    }
    assert found.left_out.keys() == foreign
    np.testing.assert_array_equal(open_video(folder).frames(range(6)), _SMALL)


def test_v5_links_to_folders_and_dangling_links(tmp_path):
    _images(tmp_path / "stored" / "a", _SMALL)
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "linked").symlink_to(tmp_path / "stored", target_is_directory=True)
    (videos / "one").symlink_to("linked/a")
    (videos / "file.mp4").symlink_to("missing.mp4")
    (videos / "loop").symlink_to("loop")
    (tmp_path / "stored" / "back").symlink_to(videos)
    index = index_folder(videos)
    assert list(index.videos) == ["linked/a", "one"]
    assert index.left_out.keys() == {"file.mp4", "loop", "linked/back"}


def test_v6_exif_orientation(fault):
    video = open_video(fault("exif6.jpg"))
    with Image.open(fault("exif6.jpg")) as stored:
        assert stored.getexif()[0x0112] == 6
        expected = np.asarray(stored.convert("RGB")).transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(video.frames([0])[0], expected)


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
def test_v7_palettes_may_change_from_frame_to_frame(tmp_path, suffix):
    path = encode(tmp_path / f"a{suffix}", moving(20), "-c:v", "rawvideo", "-pix_fmt", "pal8")
    video = open_video(path)
    assert_frames(video, reference_frames(path))
    assert video.frames([7]).mean() > 20


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
@pytest.mark.parametrize("group", ["1", "12", "25"])
@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_v8_every_frame_of_program_streams(tmp_path, codec, group, b_frames):
    options = ("-c:v", codec, "-g", group, "-bf", b_frames if group != "1" else "0")
    path = encode(tmp_path / "a.mpg", moving(60), *options)
    assert_frames(open_video(path), reference_frames(path))


def test_v11_a_folder_of_frames_is_indexed_twice(tmp_path):
    _images(tmp_path / "video", _SMALL)
    for _ in range(2):
        index = index_folder(tmp_path / "video")
        assert list(index.videos) == ["."]
        assert not index.left_out
        np.testing.assert_array_equal(index.videos["."].frames(range(6)), _SMALL)


def test_v13_videos_in_folders_of_classes(tmp_path):
    for name in ("Archery/deep/deeper/a.gif", "Bowling/b.gif", "c.gif"):
        _animated(tmp_path / name, _SMALL)
    assert _names(tmp_path) == ["Archery/deep/deeper/a.gif", "Bowling/b.gif", "c.gif"]


def test_v14_folders_of_frames_named_as_files(tmp_path):
    for name in ("x.avi", "y.gif", "z.npz", "w.png"):
        _images(tmp_path / name, _SMALL)
        np.testing.assert_array_equal(open_video(tmp_path / name).frames([5, 0]), _SMALL[[5, 0]])
    assert _names(tmp_path) == ["w.png", "x.avi", "y.gif", "z.npz"]
    assert len(index_folder(tmp_path).videos) == len(index_folder(tmp_path).videos) == 4


def test_v15_the_file_and_the_frame_of_a_changed_size_are_named(tmp_path, fault):
    parts = [
        encode(tmp_path / f"{width}.ts", moving(20, 48, width), *_X264).read_bytes()
        for width in (64, 96)
    ]
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    for path in (tmp_path / "a.ts", fault("changes.webm")):
        with pytest.raises(UnreadableVideoError, match="frame 20") as caught:
            open_video(path)
        assert str(path) in str(caught.value) and caught.value.path == path


_BYTES = os.fsdecode(b"caf\xe9 \xff")


def test_v17_names_that_are_not_utf_8(tmp_path):
    _images(tmp_path / _BYTES, _SMALL)
    encode(tmp_path / "a.mkv", _SMALL, "-c:v", "ffv1").rename(tmp_path / f"{_BYTES}.mkv")
    _animated(tmp_path / f"{_BYTES}.gif", _SMALL)
    np.save(tmp_path / f"{_BYTES}.npy", _SMALL)
    np.savez(tmp_path / f"{_BYTES}.npz", video=_SMALL)
    (tmp_path / f"{_BYTES}.txt").touch()
    (tmp_path / f"{_BYTES}.mp4").write_bytes(b"damaged")
    for _ in range(2):
        index = index_folder(tmp_path)
        assert len(index.videos) == 5
        assert index.left_out.keys() == {f"{_BYTES}.txt", f"{_BYTES}.mp4"}
        for name, video in index.videos.items():
            assert video.frames([5, 0]).shape == (2, 12, 16, 3), name


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".wmv", ("-c:v", "wmv2")),
        (".flv", ("-c:v", "flv")),
        (".ts", _X264),
        (".mts", (*_X264, "-f", "mpegts")),
        (".m2ts", _X264),
        (".3gp", ("-c:v", "mpeg4")),
        (".ogv", ("-c:v", "libtheora")),
        (".vob", ("-c:v", "mpeg2video")),
        (".m4v", ("-c:v", "mpeg4", "-f", "mp4")),
        (".mpeg", ("-c:v", "mpeg1video")),
        (".y4m", ("-pix_fmt", "yuv420p")),
        (".mxf", ("-c:v", "mpeg2video")),
        (".qt", (*_X264, "-f", "mov")),
        (".h264", (*_X264, "-bf", "2", "-g", "12")),
        (".m2v", ("-c:v", "mpeg2video", "-bf", "2")),
        (".mjpeg", ()),
        (".ivf", ("-c:v", "libvpx")),
        (".h265", ("-c:v", "libx265", "-x265-params", "log-level=error:pools=1")),
        (".m2t", (*_X264, "-f", "mpegts")),
        (".nut", (*_X264, "-bf", "2", "-g", "12")),
    ],
)
def test_v18_other_containers_are_found_and_read(tmp_path, suffix, options):
    path = encode(tmp_path / f"a{suffix}", moving(20), *options)
    (tmp_path / f"B{suffix.upper()}").write_bytes(path.read_bytes())
    index = index_folder(tmp_path)
    assert index.videos.keys() == {f"a{suffix}", f"B{suffix.upper()}"} and not index.left_out
    for video in index.videos.values():
        assert_frames(video, reference_frames(path))


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif", ".png", ".ppm", ".tga"])
def test_v18_other_images_are_frames(tmp_path, suffix):
    _images(tmp_path / "a", _SMALL, suffix)
    assert _names(tmp_path) == ["a"]
    np.testing.assert_array_equal(open_video(tmp_path / "a").frames(range(6)), _SMALL)


def test_v18_files_of_no_known_kind_are_named(tmp_path):
    _images(tmp_path / "a", _SMALL)
    names = {"a.heic", "b.rm", "c.txt", "d.h5", "e", "f.mp4.part", "g.mp3", "h.zip"}
    for name in names:
        (tmp_path / name).write_bytes(b"other")
    found = find_videos(tmp_path)
    assert found.left_out.keys() == names and all(found.left_out.values())
    for name in names:
        with pytest.raises(UnreadableVideoError, match=name):
            open_video(tmp_path / name)


def test_v20_short_delays_count_as_100_ms(tmp_path, fault):
    frames = _SMALL // 64 * 64
    path = _animated(tmp_path / "a.gif", frames, [950, 10, *[950] * 4])
    assert open_video(path).num_frames == 5 * round(9.5) + 1
    assert open_video(fault("one_short_delay.gif")).num_frames < 300


def test_v20_endless_pictures_are_capped_and_noted(tmp_path):
    path = _animated(tmp_path / "a.gif", _SMALL // 64 * 64, [20, *[20] * 4, 600_000])
    video = open_video(path)
    assert video.num_frames == 1005 and "1000" in video.note
    assert index_folder(tmp_path).videos["a.gif"].note == video.note
    assert index_folder(tmp_path).videos["a.gif"].note == video.note


def test_v22_the_default_stream_is_read(tmp_path, fault):
    small = encode(tmp_path / "small.mp4", moving(10, 16, 32), *_X264)
    large = encode(tmp_path / "large.mp4", moving(20), *_X264)
    path = tmp_path / "a.mkv"
    inputs = ("-i", small, "-i", large, "-map", "0", "-map", "1", "-c", "copy")
    for default, expected in ((0, small), (1, large)):
        choice = (f"-disposition:v:{default}", "default", f"-disposition:v:{1 - default}", "0")
        run_ffmpeg(*inputs, *choice, path)
        assert_frames(open_video(path), reference_frames(expected))
    video = open_video(fault("two.mkv"))
    assert (video.height, video.width) == (48, 64)
    assert_frames(video, reference_frames(fault("two.mkv"), stream="0:v:1"))


def test_v23_animated_images_of_a_folder_are_a_video_each(tmp_path, fault):
    for number in range(3):
        _animated(tmp_path / "png" / f"{number}.png", _SMALL)
        _animated(tmp_path / "webp" / f"{number}.webp", _SMALL)
    assert len(_names(tmp_path)) == 6
    video = open_video(fault("animated.png"))
    assert_frames(video, reference_frames(fault("animated.png")))


def test_v25_other_rotations_are_noted_in_the_index(tmp_path, fault):
    path = fault("rot30.mp4")
    assert_frames(open_video(path), reference_frames(path, autorotate=False))
    (tmp_path / "a.mp4").write_bytes(path.read_bytes())
    for _ in range(2):
        assert "30" in index_folder(tmp_path).videos["a.mp4"].note


@pytest.mark.parametrize(
    "stem",
    [
        "12:30",
        "file:a",
        "http:",
        "a%03d",
        "a?b#c",
        "-i",
        "concat:a|b",
        "a*",
        "[x]",
        "a ",
        "\n",
        "é",
    ],
)
def test_v26_any_name_is_read(tmp_path, stem):
    source = encode(tmp_path / "source.mkv", moving(5), "-c:v", "ffv1")
    folder = tmp_path / "videos"
    folder.mkdir()
    path = source.rename(folder / f"{stem}.mkv")
    np.testing.assert_array_equal(open_video(path).frames([4, 0])[0].shape, (48, 64, 3))
    assert list(index_folder(folder).videos) == [path.name]


def test_v26_names_keep_their_normal_form(tmp_path):
    name = "e\u0301.gif"  # as macOS stores it
    _animated(tmp_path / name, _SMALL)
    assert _names(tmp_path) == [name]
    assert open_video(find_videos(tmp_path).videos[0].path).num_frames == 6


def test_names_pipes_and_devices_without_opening_them(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "b.png")
    found = find_videos(tmp_path)
    assert not found.videos and found.left_out.keys() == {"a.mp4", "b.png"}
