"""Animated and still images against ffmpeg, and against arrays where the format is lossless."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from tests.video.written import encode, moving, reference_frames, reference_on_black
from vdm.video import UnreadableVideoError, find_videos, open_video
from vdm.video.index import index_folder
from vdm.video.read import stream_frames


def _palette_frames(count, height=12, width=20, seed=0):
    """Frames of 8 colours, which GIF stores exactly, in regions that change from frame to frame."""
    rng = np.random.default_rng(seed)
    colours = np.array([(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    labels = rng.integers(0, 8, (height, width))
    frames = []
    for _ in range(count):
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 5)
        labels[top : top + 4, left : left + 5] = rng.integers(0, 8, (4, 5))
        frames.append(colours[labels])
    return np.stack(frames)


def _save(path, frames, duration, **options):
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest, duration=duration, **options)
    return path


_ANIMATIONS = {
    "gif of ffmpeg": (".gif", ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none")),
    "gif of whole frames": (".gif", ("-gifflags", "0")),
    "apng of ffmpeg": (".apng", ("-c:v", "apng", "-f", "apng", "-plays", "0")),
    "apng named png": (".png", ("-c:v", "apng", "-f", "apng", "-plays", "0", "-pred", "mixed")),
}


@pytest.mark.parametrize("kind", _ANIMATIONS)
def test_animations_by_ffmpeg_equal_its_decoding(tmp_path, kind):
    suffix, options = _ANIMATIONS[kind]
    frames = _palette_frames(15)
    path = encode(tmp_path / f"a{suffix}", frames, *options)
    expected, video = reference_frames(path), open_video(path)
    assert (video.num_frames, video.frame_rate) == (15, pytest.approx(25))
    np.testing.assert_array_equal(video.frames(range(15)), expected)
    for index in range(15):
        pair = [index, (index + 7) % 15]
        np.testing.assert_array_equal(video.frames([index]), expected[[index]])
        np.testing.assert_array_equal(video.frames(pair), expected[pair])
    np.testing.assert_array_equal(list(stream_frames(path)), expected)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_lossless_animations_equal_their_source(tmp_path, suffix):
    frames = _palette_frames(9, seed=1)
    options = {".webp": {"lossless": True}}.get(suffix, {})
    video = open_video(_save(tmp_path / f"a{suffix}", frames, 40, **options))
    assert (video.num_frames, video.frame_rate) == (9, 25)
    np.testing.assert_array_equal(video.frames(range(9)), frames)
    np.testing.assert_array_equal(video.frames([8, 0, 3, 3]), frames[[8, 0, 3, 3]])
    for index in (-1, 9):
        with pytest.raises(IndexError, match=rf"a\{suffix}"):
            video.frames([index])


def test_webp_by_ffmpeg_equals_its_source(tmp_path):
    frames = _palette_frames(9, seed=2)
    options = ("-c:v", "libwebp_anim", "-lossless", "1", "-pix_fmt", "bgra")
    video = open_video(encode(tmp_path / "a.webp", frames, *options))
    np.testing.assert_array_equal(video.frames(range(video.num_frames)), frames)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("still", [(3,), (0, 1), (5, 6, 7), (13, 14)])
def test_counts_repeated_frames_that_the_file_merges(tmp_path, suffix, still):
    frames = _palette_frames(16, seed=3)
    for index in still:
        frames[index + 1] = frames[index]
    path = _save(tmp_path / f"a{suffix}", frames, 40, lossless=True)
    video = open_video(path)
    assert video.num_frames == 16
    np.testing.assert_array_equal(video.frames(range(16)), frames)


@pytest.mark.parametrize(
    ("delays", "repeats"),
    [
        ([40, 80, 120, 40], [1, 2, 3, 1]),
        ([100, 140, 160, 260], [1, 1, 2, 3]),
        ([10, 100, 100], [1, 1, 1]),
        ([0, 0, 0], [1, 1, 1]),
        ([0, 200, 100], [1, 2, 1]),
        ([20, 20, 30000], [1, 1, 1000]),
        ([20, 20, 19990], [1, 1, 1000]),
        ([20, 20, 19970], [1, 1, 998]),
    ],
)
def test_delays_become_repeated_frames(tmp_path, delays, repeats):
    frames = _palette_frames(len(delays), seed=4)
    video = open_video(_save(tmp_path / "a.gif", frames, delays))
    np.testing.assert_array_equal(
        video.frames(range(video.num_frames)), np.repeat(frames, repeats, axis=0)
    )
    assert bool(video.note) == (max(delays) == 30000)
    shown = [100 if delay <= 10 else delay for delay in delays]
    starts = video.times[np.cumsum([0, *repeats[:-1]])]
    np.testing.assert_allclose(starts, np.cumsum([0, *shown[:-1]]) / 1000, rtol=1e-12)
    assert (np.diff(video.times) > 0).all() and video.times[-1] < sum(shown) / 1000
    assert video.num_frames / video.frame_rate == pytest.approx(sum(shown) / 1000)


def test_transparent_pixels_of_a_gif_are_black(tmp_path):
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    picture = Image.new("P", (2, 2))
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([255, 255, 255, 200, 10, 20, 30, 40, 50])
    picture.save(tmp_path / "a.gif", transparency=1)
    (frame,) = open_video(tmp_path / "a.gif").frames([0])
    np.testing.assert_array_equal(frame, [[[255] * 3, [0] * 3], [[30, 40, 50], [0] * 3]])


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_disposal_methods_equal_ffmpeg(tmp_path, suffix, disposal):
    if suffix == ".png" and disposal == 3:
        pytest.skip("PNG has three ways")
    pixels = np.zeros((5, 12, 16, 4), np.uint8)
    for number in range(5):
        pixels[number, number : number + 5, number : number + 6] = (255, 60 * number, 20, 255)
    path = _save(tmp_path / f"a{suffix}", pixels, 40, disposal=disposal)
    expected = reference_on_black(path, 12, 16)
    np.testing.assert_array_equal(open_video(path).frames(range(5)), expected)


def test_skips_the_default_image_of_an_animated_png(tmp_path):
    """It is for programs that cannot show animations (APNG specification, "structure")."""
    frames = _palette_frames(5)
    path = _save(tmp_path / "a.png", frames, 40, default_image=True)
    expected, video = reference_frames(path), open_video(path)
    assert (video.num_frames, len(expected)) == (4, 4)
    np.testing.assert_array_equal(video.frames(range(4)), expected)


def test_refuses_a_tiff_of_several_pages_in_a_folder_of_frames(tmp_path):
    frames = _palette_frames(5)
    _save(tmp_path / "a.tif", frames, 40)
    np.testing.assert_array_equal(open_video(tmp_path / "a.tif").frames(range(5)), frames)
    index = index_folder(tmp_path, save=False)
    counts = [video.num_frames for video in index.videos.values()]
    assert counts == [5] or index.left_out


# EXIF 2.32, section 4.6.4: what the stored row 0 and column 0 are of the upright picture.
_STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}


_HAS_AVIF = pytest.mark.skipif(
    "avif" not in features.get_supported(), reason="this Pillow has no AVIF"
)


@pytest.mark.parametrize(
    "suffix", [".jpg", ".png", ".webp", ".tif", pytest.param(".avif", marks=_HAS_AVIF)]
)
@pytest.mark.parametrize("orientation", _STORED)
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    quadrants = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [250, 250, 90]]], np.uint8)
    upright = quadrants.repeat(16, 0).repeat(32, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}}
    options[".avif"] = {"quality": 100, "subsampling": "4:4:4"}
    stored = Image.fromarray(np.ascontiguousarray(_STORED[orientation](upright)))
    folder = tmp_path / "frames"
    folder.mkdir()
    stored.save(folder / f"a{suffix}", exif=exif, **options.get(suffix, {}))
    for path in (folder, folder / f"a{suffix}"):
        (frame,) = open_video(path).frames([0])
        assert frame.shape == upright.shape
        assert np.abs(frame.astype(int) - upright).max() <= (
            4 if suffix in (".jpg", ".avif") else 0
        )


def _pixels(seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (10, 14, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    "suffix", [".png", ".bmp", ".tif", ".webp", ".PNG", ".ppm", ".tga", ".jp2", ".j2k"]
)
def test_still_formats_equal_their_source(tmp_path, suffix):
    pixels = _pixels()
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", lossless=True)
    video = open_video(tmp_path / f"a{suffix}")
    assert (video.num_frames, video.frame_rate, video.times) == (1, None, None)
    np.testing.assert_array_equal(video.frames([0, 0]), [pixels, pixels])


@_HAS_AVIF
def test_an_avif_animation_equals_its_source_within_its_loss(tmp_path):
    frames = moving(6)
    first, *rest = map(Image.fromarray, frames)
    options = {"quality": 100, "subsampling": "4:4:4"}
    for number in range(2):
        path = tmp_path / f"{number}.avif"
        first.save(path, save_all=True, append_images=rest, duration=[40] * 5 + [80], **options)
    assert [found.name for found in find_videos(tmp_path).videos] == ["0.avif", "1.avif"]
    video = open_video(path)
    assert video.num_frames == 7 and video.frame_rate == 25
    difference = np.abs(video.frames(range(6)).astype(int) - frames)
    assert difference.max() <= 3
    np.testing.assert_array_equal(video.frames([6, 1]), video.frames([5, 1]))
    stills = tmp_path / "stills"
    stills.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(stills / f"{number}.avif", **options)
    assert [found.name for found in find_videos(stills).videos] == ["."]
    assert np.abs(open_video(stills).frames(range(6)).astype(int) - frames).max() <= 3


def test_a_bitmap_of_one_bit_is_black_and_white(tmp_path):
    bits = _pixels()[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.pbm")
    expected = np.where(bits[..., None], 255, 0).repeat(3, -1)
    np.testing.assert_array_equal(open_video(tmp_path / "a.pbm").frames([0])[0], expected)


def test_other_modes_of_pixels(tmp_path):
    grey, rgba = _pixels(channels=1)[..., 0], _pixels(channels=4)
    binary = rgba[..., 3] > 127
    rgba[..., 3] = 255 * binary
    black = rgba[..., :3] * binary[..., None]
    grey_alpha = np.stack([grey, rgba[..., 3]], -1)
    cases = {
        "L": (Image.fromarray(grey), grey[..., None].repeat(3, -1)),
        "1": (Image.fromarray(binary), (binary * np.uint8(255))[..., None].repeat(3, -1)),
        "RGBA": (Image.fromarray(rgba), black),
        "LA": (Image.fromarray(grey_alpha), (grey * binary)[..., None].repeat(3, -1)),
    }
    for mode, (picture, expected) in cases.items():
        assert picture.mode == mode
        picture.save(tmp_path / f"{mode}.png")
        (frame,) = open_video(tmp_path / f"{mode}.png").frames([0])
        np.testing.assert_array_equal(frame, expected, mode)


@pytest.mark.parametrize("layout", ["rgb565le", "rgb555le"])
def test_bitmaps_of_16_bits_a_pixel(tmp_path, layout):
    path = encode(tmp_path / "a.bmp", moving(1), "-pix_fmt", layout, "-frames:v", "1")
    read, expected = open_video(path).frames([0]).astype(int), reference_frames(path)
    np.testing.assert_allclose(read, expected, rtol=0, atol=1)  # 5 bits are rounded to 8


def _png_16_bit(pixels) -> bytes:
    """A PNG file of uint16 [height, width, 3], which Pillow cannot write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + kind + data
        out += struct.pack(">I", zlib.crc32(kind + data))
    return out


@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "float.tif", "colour.png"])
def test_refuses_more_than_8_bits_by_name(tmp_path, kind):
    wide = np.random.default_rng(0).integers(0, 2**16, (6, 8, 3), dtype=np.uint16)
    path = tmp_path / kind
    if kind == "colour.png":
        path.write_bytes(_png_16_bit(wide))
    else:
        grey = wide[..., 0]
        Image.fromarray(grey.astype(np.float32) if kind == "float.tif" else grey).save(path)
    for source in (path, tmp_path):
        with pytest.raises(UnreadableVideoError, match=kind):
            open_video(source)


def test_names_frames_of_another_size(tmp_path):
    for number, height in enumerate((10, 10, 12)):
        Image.fromarray(moving(1, height, 14)[0]).save(tmp_path / f"frame{number}.png")
    with pytest.raises(UnreadableVideoError, match=r"frame2\.png") as caught:
        open_video(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_frames_are_in_natural_order(tmp_path):
    frames = moving(12, 10, 14)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{number}.png")
    np.testing.assert_array_equal(open_video(tmp_path).frames(range(12)), frames)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.apng", "a.bmp", "a.tif"])
def test_names_truncated_images(tmp_path, name, share):
    frames = moving(6, 40, 56)
    path = tmp_path / name
    if name in ("a.gif", "a.webp", "a.apng"):
        _save(path, frames, 40, format={"a.apng": "PNG"}.get(name))
    else:
        Image.fromarray(frames[0]).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableVideoError, match=name.replace(".", r"\.")):
        open_video(path)


def test_names_a_file_that_is_not_an_image(tmp_path):
    Image.fromarray(_pixels()).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(UnreadableVideoError, match=r"1\.png"):
        open_video(tmp_path)


@pytest.mark.parametrize("change", ["removed", "resized"])
def test_names_images_that_change_after_opening(tmp_path, change):
    for number in range(3):
        Image.fromarray(_pixels(number)).save(tmp_path / f"{number}.png")
    video = open_video(tmp_path)
    if change == "removed":
        (tmp_path / "1.png").unlink()
    else:
        Image.fromarray(moving(1, 20, 30)[0]).save(tmp_path / "1.png")
    with pytest.raises(UnreadableVideoError, match=r"1\.png"):
        video.frames([1])
