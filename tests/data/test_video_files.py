"""The frames that are asked for are those that come, as another FFmpeg decodes them."""

import cv2
import numpy as np
import pytest

from tests.data.video_writing import number_of, numbered, write_sound, write_video
from vdm.data.video_files import UnreadableVideoError, examine, first_frames, read_frames

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
    "upper case": ("A.MP4", {"options": _X264}),
}
_FRAMES = [numbered(number) for number in range(_COUNT)]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_asked_for(tmp_path, kind):
    name, settings = KINDS[kind]
    path = write_video(tmp_path / name, _FRAMES, **settings)
    contents = examine(path)
    assert (contents.num_frames, contents.height, contents.width) == (_COUNT, 48, 64)
    # Without keyframes they are counted, which is exact whatever the file, and slower.
    assert contents.keyframes or kind in ("avi with frames out of order", "mpeg 1", "mpeg 2")
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
        read = read_frames(path, contents, wanted)
        assert read.shape == (len(wanted), 48, 64, 3) and read.dtype == np.uint8
        assert [number_of(frame) for frame in read] == wanted
    with pytest.raises(IndexError, match="has 75 frames"):
        read_frames(path, contents, [_COUNT])


def _by_opencv(path):
    """All frames of a file by OpenCV, which brings an FFmpeg of its own."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = capture.read()
        if not found:
            return np.stack(frames)[..., ::-1]
        frames.append(frame)


def _assert_as_opencv(path):
    expected = _by_opencv(path)
    contents = examine(path)
    assert contents.num_frames == len(expected)
    last = len(expected) - 1
    for wanted in (list(range(0, last, 7)), [last // 2, last]):
        read = read_frames(path, contents, wanted)
        assert np.abs(read.astype(int) - expected[wanted]).max() <= 1
    assert np.abs(next(first_frames(path)).astype(int) - expected[0]).max() <= 1


@pytest.mark.parametrize("kind", ["x264", "mpeg 1", "vp8", "avi"])
def test_pixels_are_those_of_another_decoder(tmp_path, kind):
    name, settings = KINDS[kind]
    size = (90, 160) if kind == "x264" else (91, 161)  # which x264 cannot have in half its colours
    noise = np.random.default_rng(0).integers(0, 32, (20, *size, 3), dtype=np.uint8)
    frames = [numbered(3 * number, *size) + noise[number] for number in range(20)]
    _assert_as_opencv(write_video(tmp_path / name, frames, **settings))


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
def test_pixels_of_real_files_are_those_of_another_decoder(shared_data, name):
    _assert_as_opencv(shared_data("clips") / name)


def test_a_file_on_its_side_is_turned_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4", _FRAMES[:8], options=_X264)
    data, one = path.read_bytes(), (1 << 16).to_bytes(4, "big")
    zero, minus_one = bytes(4), (-1 << 16).to_bytes(4, "big", signed=True)
    # The matrix of the track (ISO 14496-12, 8.3.2): here without, and then with, a quarter turn.
    upright = one + zero * 3 + one + zero * 3
    turned = zero + one + zero + minus_one + zero * 4
    first = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:first] + turned + data[first + len(turned) :])
    assert _by_opencv(path)[0].shape == (64, 48, 3)
    _assert_as_opencv(path)


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


def _named(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


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
        (_noisy, "is damaged at frame|cannot be decoded"),
        (lambda folder: _cut(folder, "a.mp4", 0.6, options=_X264), "cannot be opened"),
        (
            lambda folder: _cut(folder, "a.mp4", 0.6, options=_X264 | {"movflags": "faststart"}),
            "cannot be|is cut off|is damaged",
        ),
        (lambda folder: _cut(folder, "a.mkv", 0.6, options=_X264), "is cut off: it should have 3"),
        (lambda folder: _cut(folder, "a.avi", 0.6, codec="mpeg4"), "is damaged|is cut off"),
        (lambda folder: _cut(folder, "a.mkv", 0.02, options=_X264), "cannot be|has no|is cut off"),
        (_changing, r"changes from \(48, 64\) to \(64, 64\) pixels at frame"),
    ],
)
def test_why_a_file_cannot_be_used(tmp_path, write, reason):
    with pytest.raises(UnreadableVideoError, match=reason) as caught:
        examine(write(tmp_path))
    assert not caught.value.reason.startswith(str(tmp_path)) and str(tmp_path) in str(caught.value)


def test_a_file_that_changes_after_it_was_examined_is_named(tmp_path):
    path = _written(tmp_path, options=_X264)
    contents = examine(path)
    write_video(path, _FRAMES[:30], options=_X264)
    with pytest.raises(UnreadableVideoError, match=r"a\.mp4 has no frame 60"):
        read_frames(path, contents, [60])
    path.unlink()
    with pytest.raises(UnreadableVideoError, match=r"a\.mp4 cannot be opened"):
        read_frames(path, contents, [0])
