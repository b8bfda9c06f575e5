"""Every frame of a video file, read singly or in pairs, equals ffmpeg's."""

import itertools

import numpy as np
import pytest

from tests.video.written import (
    assert_distinct,
    assert_frames,
    encode,
    moving,
    reference_frames,
    remux,
)
from vdm.video import UnreadableVideoError, open_video
from vdm.video.index import index_folder
from vdm.video.read import stream_frames

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error:pools=1")
VPX = ("-deadline", "realtime", "-cpu-used", "8")
SVT = ("-c:v", "libsvtav1", "-preset", "12", "-svtav1-params", "lp=1")
_PREDICTED = {  # codecs with keyframes: options, containers, whether there are B-frames
    "h264": (X264, ".mp4 .mov .mkv .m4v .avi .ts .m2ts .mts .flv .3gp .asf", True),
    "hevc": (X265, ".mp4 .mkv .mov .ts", True),
    "vp8": (("-c:v", "libvpx", *VPX), ".webm .mkv", False),
    "vp9": (("-c:v", "libvpx-vp9", *VPX), ".webm .mkv .mp4", False),
    "av1 svt": (SVT, ".mp4 .mkv .webm", False),
    "av1 aom": (("-c:v", "libaom-av1", "-cpu-used", "8"), ".mkv .mp4 .webm", False),
    "mpeg1": (("-c:v", "mpeg1video"), ".mpg .mpeg .mkv", True),
    "mpeg2": (("-c:v", "mpeg2video"), ".mpg .mpeg .vob .ts .m2ts .mkv", True),
    "mpeg4": (("-c:v", "mpeg4"), ".avi .mp4 .mkv .mov", True),
    "xvid": (("-c:v", "libxvid"), ".avi", True),
    "msmpeg4": (("-c:v", "msmpeg4"), ".avi .wmv", False),
    "wmv2": (("-c:v", "wmv2"), ".wmv .asf .avi", False),
    "flv1": (("-c:v", "flv"), ".flv .avi", False),
    "theora": (("-c:v", "libtheora"), ".ogv .mkv", False),
    "vvc": (("-c:v", "libvvenc", "-preset", "faster"), ".mkv", False),
}
_INTRA = {  # codecs in which every frame is a keyframe
    "mjpeg": (("-c:v", "mjpeg"), ".avi .mov .mkv .mp4"),
    "ffv1": (("-c:v", "ffv1"), ".mkv .avi .mov"),
    "ffv1 grey": (("-c:v", "ffv1", "-pix_fmt", "gray"), ".mkv"),
    "ffv1 16 bit": (("-c:v", "ffv1", "-pix_fmt", "yuv444p16le"), ".mkv"),
    "raw yuv": (("-c:v", "rawvideo", "-pix_fmt", "yuv420p"), ".avi .mkv"),
    "raw yuyv": (("-c:v", "rawvideo", "-pix_fmt", "yuyv422"), ".avi .mov"),
    "raw bgr": (("-c:v", "rawvideo", "-pix_fmt", "bgr24"), ".avi"),
    "raw rgb": (("-c:v", "rawvideo", "-pix_fmt", "rgb24"), ".mov"),
    "raw grey": (("-c:v", "rawvideo", "-pix_fmt", "gray"), ".avi .mov"),
    "raw pal8": (("-c:v", "rawvideo", "-pix_fmt", "pal8"), ".avi .mov"),
    "huffyuv": (("-c:v", "huffyuv"), ".avi"),
    "ut video": (("-c:v", "utvideo"), ".avi"),
    "prores": (("-c:v", "prores_ks"), ".mov"),
    "png": (("-c:v", "png"), ".mov .avi"),
    "animation": (("-c:v", "qtrle"), ".mov"),
    "jpeg 2000": (("-c:v", "jpeg2000"), ".mov .mkv"),
    "v210": (("-c:v", "v210"), ".mov"),
}
CODECS = {name: (options, suffixes.split()) for name, (options, suffixes, *_) in
          (_PREDICTED | _INTRA).items()}  # fmt: skip
_FAST_TOO = {
    "h264": "mp4-g1-b0 mp4-g300-b2 mkv-g25-b2 avi-g12-b2 ts-g12-b2 ts-g300-b2 flv-g25-b0",
    "hevc": "mkv-g25-b2",
    "mpeg1": "mpg-g25-b0",
    "mpeg2": "ts-g12-b2 mpg-g25-b2",
    "mpeg4": "mp4-g12-b2",
    "vp9": "webm-g25-b0",
    "raw pal8": "mov",
}


def _cases():
    """Each codec in each container, with each distance of keyframes, with and without B-frames."""

    def case(identifier, suffix, options, *, fast):
        codec, _, container = identifier.partition("-")
        fast = fast or container in _FAST_TOO.get(codec, "").split()
        marks = () if fast else pytest.mark.slow
        return pytest.param(suffix, options, id=identifier.replace(" ", "_"), marks=marks)

    for codec, (options, suffixes, has_b_frames) in _PREDICTED.items():
        counts = (0, 2) if has_b_frames else (0,)
        for suffix, group, b_frames in itertools.product(
            suffixes.split(), (1, 12, 25, 300), counts
        ):
            if group == 1 and (b_frames or codec == "av1 aom"):  # which libaom cannot allocate
                continue
            chosen = (*options, "-g", str(group))
            if has_b_frames:
                chosen += ("-bf", str(b_frames))
            fast = suffixes.startswith(suffix + " ") or suffixes == suffix
            fast = fast and group == 12 and b_frames == counts[-1]
            identifier = f"{codec}-{suffix[1:]}-g{group}-b{b_frames}"
            yield case(identifier, suffix, chosen, fast=fast)
    for codec, (options, suffixes) in _INTRA.items():
        for position, suffix in enumerate(suffixes.split()):
            yield case(f"{codec}-{suffix[1:]}", suffix, options, fast=position == 0)


@pytest.mark.parametrize(("suffix", "options"), list(_cases()))
def test_frames_equal_those_of_ffmpeg(tmp_path, suffix, options):
    path = encode(tmp_path / f"a{suffix}", moving(50), *options)
    expected = reference_frames(path)
    assert_distinct(expected)
    video = open_video(path)
    assert_frames(video, expected)
    np.testing.assert_array_equal(list(stream_frames(path)), expected)
    if video.frame_rate is not None:
        assert video.frame_rate == pytest.approx(25, rel=0.02)
    if video.times is not None:
        np.testing.assert_allclose(np.diff(video.times), 0.04, atol=0.0011)
    for index in (len(expected), -1):
        with pytest.raises(IndexError, match=path.name):
            video.frames([index])


_MATRICES = {
    "-".join((str(angle), *flips)): (
        "-display_rotation",
        str(angle),
        *(f"-display_{flip}" for flip in flips),
    )
    for angle in (0, 90, 180, 270)
    for flips in ((), ("hflip",), ("vflip",), ("hflip", "vflip"))
}


@pytest.mark.parametrize(
    "suffix", [".mp4", *(pytest.param(s, marks=pytest.mark.slow) for s in (".mov", ".mkv"))]
)
@pytest.mark.parametrize("matrix", _MATRICES)
def test_rotated_and_mirrored_files_are_upright(tmp_path, matrix, suffix):
    plain = encode(tmp_path / "plain.mp4", moving(12), *X264, "-g", "5", "-bf", "2")
    path = remux(tmp_path / f"a{suffix}", plain, before=_MATRICES[matrix])
    expected, video = reference_frames(path), open_video(path)
    assert_frames(video, expected)
    np.testing.assert_array_equal(list(stream_frames(path)), expected)
    assert not video.note
    is_turned = matrix.startswith(("90", "270"))
    assert expected.shape == ((12, 64, 48, 3) if is_turned else (12, 48, 64, 3))


@pytest.mark.parametrize("codec", ["hevc", "mjpeg", "mpeg4", "av1 svt", "raw yuv"])
def test_a_rotation_by_90_degrees_of_other_codecs(tmp_path, codec):
    suffix = ".mkv" if codec == "raw yuv" else ".mp4"
    plain = encode(tmp_path / f"plain{suffix}", moving(20, 50, 66), *CODECS[codec][0])
    before = ("-display_rotation", "90", "-display_hflip")
    path = remux(tmp_path / f"a{suffix}", plain, before=before)
    assert_frames(open_video(path), reference_frames(path))


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
@pytest.mark.parametrize("change", ["flip=horizontal", "flip=vertical", "rotate=90"])
def test_an_orientation_in_the_stream_holds_for_all_frames(tmp_path, suffix, change):
    """H.264 has it in SEI messages, of which the decoder passes on those of some frames."""
    plain = encode(tmp_path / "plain.mp4", moving(40), *X264, "-g", "20", "-bf", "2")
    bitstream = ("-bsf:v", f"h264_metadata=display_orientation=insert:{change}")
    path = remux(tmp_path / f"a{suffix}", plain, *bitstream)
    expected, original = reference_frames(path), reference_frames(plain)
    assert_frames(open_video(path), expected)
    np.testing.assert_array_equal(list(stream_frames(path)), expected)
    rotated = {
        "flip=horizontal": original[:, :, ::-1],
        "flip=vertical": original[:, ::-1],
        "rotate=90": np.rot90(original, axes=(1, 2)),
    }[change]
    np.testing.assert_array_equal(expected, rotated)
    for _ in range(2):  # from the file, and from its index
        (video,) = (v for k, v in index_folder(tmp_path).videos.items() if k == path.name)
        np.testing.assert_array_equal(video.frames([39, 1, 20]), expected[[39, 1, 20]])


def test_names_the_frame_at_which_the_orientation_changes(tmp_path):
    plain = encode(tmp_path / "plain.ts", moving(20), *X264)
    bitstream = ("-bsf:v", "h264_metadata=display_orientation=insert:flip=")
    parts = [remux(tmp_path / f"{flip}.ts", plain, bitstream[0], bitstream[1] + flip).read_bytes()
             for flip in ("horizontal", "vertical")]  # fmt: skip
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    message = r"a\.ts changes its rotation or mirroring at frame 20"
    with pytest.raises(UnreadableVideoError, match=message):
        open_video(tmp_path / "a.ts")
    with pytest.raises(UnreadableVideoError, match=message):
        list(stream_frames(tmp_path / "a.ts"))


@pytest.mark.parametrize("angle", [30, 45, -100])
def test_other_angles_are_read_as_stored_and_noted(tmp_path, angle):
    plain = encode(tmp_path / "plain.mp4", moving(12), *X264)
    path = remux(tmp_path / "a.mp4", plain, before=("-display_rotation", str(angle)))
    video = open_video(path)
    assert_frames(video, reference_frames(path, autorotate=False))
    assert f"rotated by {angle} degrees" in video.note


@pytest.mark.parametrize("size", [(47, 63), (50, 66), (33, 129), (2, 2), (120, 18)])
@pytest.mark.parametrize("codec", ["vp9", "mpeg4", "ffv1", "mjpeg", "h264"])
def test_odd_sizes_equal_ffmpeg(tmp_path, codec, size):
    options, suffixes = CODECS[codec]
    options = (*options, "-pix_fmt", "yuv444p") if codec == "h264" else options
    path = encode(tmp_path / f"a{suffixes[0]}", moving(9, *size), *options)
    assert_frames(open_video(path), reference_frames(path))
