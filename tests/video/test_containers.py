"""Requested frames equal those that another FFmpeg decodes."""

import re
import subprocess

import numpy as np
import pytest

from tests.data.video_writing import number_of, numbered, write_sound, write_video
from vdm.video import UnreadableVideoError, open_video
from vdm.video.formats import containers, random_access
from vdm.video.formats.random_access import open_container
from vdm.video.read import stream_frames

_COUNT = 75
_IRREGULAR = np.cumsum(np.random.default_rng(0).integers(1, 30, _COUNT)).tolist()
_X264 = {"bf": "3", "g": "20", "preset": "veryfast"}
KINDS = {
    "x264": ("a.mp4", {"options": _X264}),
    "one keyframe": ("a.mp4", {"options": {"g": "1000", "preset": "veryfast"}}),
    "variable rate": ("a.mp4", {"options": _X264, "times": _IRREGULAR}),
    "variable rate in mkv": ("a.mkv", {"options": _X264, "times": _IRREGULAR}),
    "open groups": ("a.mov", {"options": _X264 | {"x264-params": "open-gop=1"}}),
    "lossless": ("a.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
    "mpeg 1": ("a.mpg", {"codec": "mpeg1video", "options": {"bf": "2", "g": "12"}}),
    "mpeg 2": ("a.mpeg", {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}),
    "vp8": ("a.webm", {"codec": "libvpx", "options": {"g": "20", "deadline": "realtime"}}),
    "avi": ("a.avi", {"codec": "mpeg4", "options": {"g": "12"}}),
    "avi with frames out of order": (
        "a.avi",
        {"options": _X264},
    ),
    "av1": ("a.mp4", {"codec": "libsvtav1", "options": {"g": "25", "preset": "10"}}),
    "upper case": ("A.MP4", {"options": _X264}),
}
_COUNTED = ("avi with frames out of order", "mpeg 1", "mpeg 2", "av1")
_FRAMES = [numbered(number) for number in range(_COUNT)]


@pytest.mark.parametrize("kind", KINDS)
def test_returns_the_requested_frames(tmp_path, kind):
    name, settings = KINDS[kind]
    path = write_video(tmp_path / name, _FRAMES, **settings)
    contents = open_video(path)
    assert (contents.num_frames, contents.height, contents.width) == (_COUNT, 48, 64)
    # Without keyframes they are counted, which is exact whatever the file, and slower.
    assert contents.keyframes or kind in _COUNTED
    rng = np.random.default_rng(1)
    for wanted in (
        [_COUNT - 1],
        [0],
        list(range(_COUNT)),
        list(range(_COUNT - 16, _COUNT)),
        list(range(3, 64, 4)),
        [40, 7, 7, 61],
        *([int(number)] for number in rng.integers(0, _COUNT, 12)),
    ):
        read = contents.frames(wanted)
        assert read.shape == (len(wanted), 48, 64, 3) and read.dtype == np.uint8
        assert [number_of(frame) for frame in read] == wanted
    with pytest.raises(IndexError, match="has 75 frames"):
        contents.frames([_COUNT])


def test_skips_non_reference_pictures_of_h264(tmp_path, monkeypatch):
    one_group = _X264 | {"g": "1000", "sc_threshold": "0"}
    path = write_video(tmp_path / "a.mp4", _FRAMES, options=one_group)
    video = open_video(path)
    assert video.keyframes == (0,)
    with containers.opened(path) as (container, stream):
        last = video.timestamps[-1]
        found = [
            frame.pts for frame in random_access._decoded_from(container, stream, last) if frame.pts
        ]
    # One of four frames is a P frame, and one of three B frames is a reference.
    assert found[-1] == last and len(found) < 0.6 * _COUNT
    # If skipping changes frames, every read decodes from the first frame.
    monkeypatch.setattr(random_access, "_SKIPPED", "NONKEY")
    sequential = open_video(path)
    assert sequential.keyframes == ()
    assert [number_of(frame) for frame in sequential.frames([9, 60])] == [9, 60]


def _by_ffmpeg(path, height, width):
    """All frames of a file by the ffmpeg command, uint8 [n, height, width, 3]."""
    command = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    options = ["-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24"]
    options += ["-f", "rawvideo", "-"]
    found = subprocess.run(
        [command, "-v", "error", "-threads", "1", "-i", path, *options], capture_output=True
    )
    return np.frombuffer(found.stdout, np.uint8).reshape(-1, height, width, 3)


def _assert_as_ffmpeg(path):
    """Frames of a file read singly, in pairs and in order are ffmpeg's."""
    video = open_video(path)
    expected = _by_ffmpeg(path, video.height, video.width)
    assert video.num_frames == len(expected)
    last = len(expected) - 1
    singles = range(last + 1) if last < 100 else np.random.default_rng(0).integers(0, last, 20)
    for wanted in (*([i] for i in singles), list(range(0, last, 7)), [last, last // 2]):
        np.testing.assert_array_equal(video.frames(wanted), expected[wanted])
    np.testing.assert_array_equal(next(stream_frames(path)), expected[0])


@pytest.mark.parametrize("kind", ["x264", "mpeg 1", "mpeg 2", "vp8", "avi", "av1"])
def test_pixels_equal_another_decoder(tmp_path, kind):
    name, settings = KINDS[kind]
    size = (90, 160) if kind == "x264" else (91, 161)  # which x264 cannot have in half its colours
    noise = np.random.default_rng(0).integers(0, 32, (20, *size, 3), dtype=np.uint8)
    frames = [numbered(3 * number, *size) + noise[number] for number in range(20)]
    _assert_as_ffmpeg(write_video(tmp_path / name, frames, **settings))


@pytest.mark.parametrize(
    "name",
    [
        "asl_brother.mkv",
        "grid_bbaf2n.mpg",
        "imageio_realshort.mp4",
        "sleap_small_robot.mp4",
        "ucf101_v_ApplyEyeMakeup_g01_c01.avi",
        "mmaction2_part_0.mp4",
    ],
)
def test_pixels_of_real_files_equal_another_decoder(shared_data, name):
    _assert_as_ffmpeg(shared_data("clips") / name)


def test_rotates_a_file_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4", _FRAMES[:8], options=_X264)
    data, one = path.read_bytes(), (1 << 16).to_bytes(4, "big")
    zero, minus_one = bytes(4), (-1 << 16).to_bytes(4, "big", signed=True)
    # The matrix of the track (ISO 14496-12, 8.3.2): here without, and then with, a quarter turn.
    upright = one + zero * 3 + one + zero * 3
    turned = zero + one + zero + minus_one + zero * 4
    first = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:first] + turned + data[first + len(turned) :])
    assert open_video(path).frames([0]).shape == (1, 64, 48, 3)
    _assert_as_ffmpeg(path)


def _written(tmp_path, name="a.mp4", **settings):
    return write_video(tmp_path / name, _FRAMES, **settings)


def _noisy(tmp_path):
    path = _written(tmp_path, options=_X264)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 3
    data[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(data)
    return path


def _cut(tmp_path, name, share, **settings):
    path = _written(tmp_path, name, **settings)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def _cut_between_frames(tmp_path, frames, more=0):
    """An AVI file that ends after some frames of 75, and some bytes of the next frame."""
    path = _written(tmp_path, "a.avi", codec="ffv1")
    data = path.read_bytes()
    # A frame is a chunk 00dc after the list movi.
    starts = [m.start() for m in re.finditer(b"00dc", data) if m.start() > data.index(b"movi")]
    path.write_bytes(data[: starts[frames] + more])
    return path


def _named(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def _of_unknown_codec(tmp_path):
    path = _written(tmp_path, options=_X264)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    return path


def _changing(tmp_path):
    # MPEG streams can be put end to end.
    parts = [
        write_video(
            tmp_path / f"{height}.mpg", [numbered(1, height)] * 5, codec="mpeg1video"
        ).read_bytes()
        for height in (48, 64)
    ]
    return _named(tmp_path, "a.mpg", b"".join(parts))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda folder: _named(folder, "a.mp4", b""), "is empty"),
        (lambda folder: _named(folder, "a.mp4", b"no video at all" * 99), "cannot be opened"),
        (lambda folder: folder / "none.mp4", "cannot be opened: No such file"),
        (lambda folder: write_sound(folder / "a.mp4"), "has no video, but audio"),
        (lambda folder: write_sound(folder / "a.mkv"), "has no video, but audio"),
        (_of_unknown_codec, "has video of a codec that FFmpeg does not decode"),
        (_noisy, "is damaged at frame|cannot be decoded"),
        (lambda folder: _cut(folder, "a.mp4", 0.6, options=_X264), "cannot be opened"),
        (
            lambda folder: _cut(folder, "a.mp4", 0.6, options=_X264 | {"movflags": "faststart"}),
            "cannot be|is truncated|is damaged",
        ),
        (
            lambda folder: _cut(folder, "a.mkv", 0.6, options=_X264),
            "is truncated: it should have 3",
        ),
        (lambda folder: _cut(folder, "a.avi", 0.6, codec="mpeg4"), "is damaged|is truncated"),
        (lambda folder: _cut_between_frames(folder, 30), "is truncated: it should have 3.0 s, and"),
        (lambda folder: _cut_between_frames(folder, 74, 100), "is truncated: it ends within a fra"),
        (lambda folder: _cut(folder, "a.wmv", 0.5, codec="wmv2"), r"truncated: .* bytes|damaged"),
        (
            lambda folder: _cut(folder, "a.mkv", 0.02, options=_X264),
            "cannot be|has no|truncated",
        ),
        (_changing, r"changes from \(48, 64\) to \(64, 64\) pixels at frame"),
    ],
)
def test_names_the_reason_of_an_unreadable_file(tmp_path, write, reason):
    with pytest.raises(UnreadableVideoError, match=reason) as caught:
        open_container(write(tmp_path))
    assert not caught.value.reason.startswith(str(tmp_path)) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: _cut(folder, "a.mkv", 0.6, options=_X264),
        lambda folder: _cut_between_frames(folder, 30),
        lambda folder: _cut(folder, "a.wmv", 0.5, codec="wmv2"),
    ],
    ids=["mkv", "between frames", "wmv"],
)
def test_streaming_finds_the_truncation_that_opening_finds(tmp_path, write):
    path = write(tmp_path)
    with pytest.raises(UnreadableVideoError) as opening:
        open_container(path)
    with pytest.raises(UnreadableVideoError) as streaming:
        list(stream_frames(path))
    assert streaming.value.reason == opening.value.reason


_WITHOUT_DURATION = {
    "a.ts": {"options": _X264},
    "a.m2ts": {"codec": "mpeg2video"},
    "a.ogv": {"codec": "libvpx"},
    "a.y4m": {"codec": "wrapped_avframe"},
}


@pytest.mark.parametrize("name", _WITHOUT_DURATION)
def test_a_file_that_declares_no_duration_has_a_whole_end(tmp_path, name):
    path = _written(tmp_path, name, **_WITHOUT_DURATION[name])
    whole = path.read_bytes()
    assert open_container(path).num_frames == sum(1 for _ in stream_frames(path)) == _COUNT
    for size in (len(whole) * 3 // 5, len(whole) - 40):  # .m2ts has whole packets of 188 bytes
        path.write_bytes(whole[: size - (size % 192 in (0, 4))])
        message = "is truncated: it ends within a (frame|packet)"
        with pytest.raises(UnreadableVideoError, match=message) as opening:
            open_container(path)
        with pytest.raises(UnreadableVideoError, match=message) as streaming:
            list(stream_frames(path))
        assert streaming.value.reason == opening.value.reason


@pytest.mark.parametrize("name", ["a.ts", "a.ogv"])
def test_what_follows_the_packets_is_no_truncation(tmp_path, name):
    """Some recorders fill a file up to a block."""
    path = _written(tmp_path, name, **_WITHOUT_DURATION[name])
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert open_container(path).num_frames == _COUNT


def test_names_a_file_that_changes_after_opening(tmp_path):
    path = _written(tmp_path, options=_X264)
    contents = open_video(path)
    write_video(path, _FRAMES[:30], options=_X264)
    with pytest.raises(UnreadableVideoError, match=r"a\.mp4 has no frame 60"):
        contents.frames([60])
    path.unlink()
    with pytest.raises(UnreadableVideoError, match=r"a\.mp4 cannot be opened"):
        contents.frames([0])


_FAULTS = [
    "hevc10_bt2020_pq.mp4",
    "matrix_hflip.mp4",
    "hflip.mkv",
    "svt_g25.mp4",
    "x264_interlaced.mp4",
    "pal8_raw.avi",
    "mpeg2_bf2_g25.mpg",
]


@pytest.mark.parametrize("name", _FAULTS)
def test_files_that_were_read_wrongly_equal_ffmpeg(shared_faults, name):
    _assert_as_ffmpeg(shared_faults(name))


def test_notes_a_rotation_that_is_not_a_multiple_of_90_degrees(shared_faults):
    video = open_video(shared_faults("rot30.mp4"))
    assert video.note == "is rotated by 30 degrees, and is read as stored"
    assert video.frames([0]).shape == (1, 48, 64, 3)


def test_reads_the_default_stream_rather_than_the_first(shared_faults):
    video = open_video(shared_faults("two.mkv"))
    assert (video.num_frames, video.height, video.width) == (20, 48, 64)


def test_names_the_frame_at_which_the_size_changes(shared_faults):
    with pytest.raises(UnreadableVideoError, match=r"changes.webm changes from .* at frame 20"):
        open_video(shared_faults("changes.webm"))


# Rows of the matrix: where a step to the right, and one down, lead when the frame is shown.
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [[], ["-display_hflip"], ["-display_vflip"]])
def test_rotated_and_mirrored_files_equal_ffmpeg(tmp_path, rotation, mirror):
    command = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    stored = write_video(tmp_path / "stored.mp4", _FRAMES[:6], options=_X264)
    shown = tmp_path / "shown.mp4"
    options = ["-display_rotation", str(rotation), *mirror, "-i", stored, "-c", "copy", shown]
    subprocess.run([command, "-v", "error", *options], check=True)
    _assert_as_ffmpeg(shown)


@pytest.mark.parametrize("name", ["12:30.mp4", "a b\udcff.mp4", "50%.mp4", "ä|ö.mp4"])
def test_any_name_is_read(tmp_path, name):
    path = write_video(tmp_path / "a.mp4", _FRAMES[:4], options=_X264).rename(tmp_path / name)
    assert open_video(path).num_frames == 4


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.avi", "-c:v rawvideo -pix_fmt pal8"),
        ("a.mov", "-c:v rawvideo -pix_fmt rgb24"),
        ("a.mp4", "-c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=none -g 12"),
        ("a.mp4", "-c:v libx264 -flags +ilme+ildct -x264-params tff=1 -g 25"),
        ("a.ts", "-c:v libx264 -bf 3 -g 12"),
        ("a.mpg", "-c:v mpeg2video -bf 2 -g 25"),
        ("a.mpg", "-c:v mpeg1video -bf 2 -g 12"),
        # Seeks that land behind a keyframe, after which timestamps are guesses.
        ("a.mpg", "-c:v mpeg1video -bf 0 -g 4"),
        ("a.mpg", "-c:v mpeg2video -bf 0 -g 2"),
        ("a.ts", "-c:v libx264 -bf 2 -g 300"),
        ("a.webm", "-c:v libvpx-vp9 -g 25 -deadline realtime"),
        ("a.mkv", "-c:v libaom-av1 -cpu-used 8 -g 25"),
        ("a.avi", "-c:v mjpeg"),
        ("a.wmv", "-c:v wmv2"),
        ("a.flv", "-c:v flv -g 12"),
        ("a.ogv", "-c:v libtheora -g 12"),
        ("a.3gp", "-c:v mpeg4 -bf 2 -g 12"),
        ("a.mp4", "-c:v libx264 -bf 3 -g 300"),
        ("a.mp4", "-c:v libx264 -g 1"),
        ("a.mkv", "-c:v libx264 -bf 3 -g 12 -x264-params open-gop=1"),
    ],
)
def test_files_of_the_ffmpeg_command_equal_its_decoding(tmp_path, name, options):
    command = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    path = tmp_path / name
    source = ["-f", "lavfi", "-i", "testsrc=size=96x64:rate=25:duration=2.4"]
    subprocess.run([command, "-v", "error", *source, *options.split(), path], check=True)
    _assert_as_ffmpeg(path)
