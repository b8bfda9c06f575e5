import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.video.written import reference_frames
from vdm.video import open_video
from vdm.video.display import (
    contact_sheet,
    gif_bytes,
    labelled_contact_sheet,
    mp4_bytes,
    video_grid,
)
from vdm.video.pixels import from_uint8, to_uint8


def _read(data, mode):
    picture = Image.open(io.BytesIO(data))
    frames = [np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(picture)]
    return np.stack(frames), picture.info


def _random(*shape):
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_uint8_rounds_clips_and_inverts():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(from_uint8(every)), every)
    assert from_uint8(every).dtype == np.float32
    np.testing.assert_allclose(from_uint8(every[[0, 255]]), [-1, 1])
    values = [-3, -1, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 7]
    assert to_uint8(np.array(values)).tolist() == [0, 0, 0, 1, 255, 255]


def test_a_grey_gif_is_lossless_enlarged_and_loops():
    video = _random(7, 16, 20, 1)
    frames, info = _read(gif_bytes(video), "L")
    np.testing.assert_array_equal(frames, np.kron(video[..., 0], np.ones((1, 8, 8), np.uint8)))
    assert info["loop"] == 0 and info["duration"] == 120  # 125 ms to whole hundredths, to even

    frames, info = _read(gif_bytes(video, frames_per_second=25, scale=1), "L")
    np.testing.assert_array_equal(frames, video[..., 0])
    assert info["duration"] == 40


def test_a_colour_gif_is_exact_in_few_colours_and_close_in_many():
    few = _random(3, 9, 9, 3)  # 81 colours a frame
    np.testing.assert_array_equal(_read(gif_bytes(few, scale=1), "RGB")[0], few)

    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    many = np.stack([np.stack([red, green, 255 - red], -1), np.stack([green, red, red], -1)])
    error = _read(gif_bytes(many, scale=2), "RGB")[0][:, ::2, ::2].astype(int) - many
    assert np.abs(error).mean() < 8


def test_a_contact_sheet_has_one_row_per_video_and_one_column_per_frame():
    videos = _random(2, 3, 5, 4, 1) % 200  # no tile as bright as a line is blue
    sheet = np.asarray(contact_sheet(videos))
    assert sheet.shape == (2 * (5 * 12 + 1) + 1, 3 * (4 * 12 + 1) + 1)  # 4 pixels to at least 48

    sheet = np.asarray(contact_sheet(videos, scale=2))
    covered = np.zeros(sheet.shape, bool)
    for video in range(2):
        for frame in range(3):
            tile = np.s_[1 + video * 11 : 11 + video * 11, 1 + frame * 9 : 9 + frame * 9]
            expected = np.kron(videos[video, frame, :, :, 0], np.ones((2, 2), np.uint8))
            np.testing.assert_array_equal(sheet[tile], expected)
            covered[tile] = True
    assert len(np.unique(sheet[~covered])) == 1 and (~covered).sum() == 3 * 28 + 4 * 20


def test_labels_are_beside_their_rows_and_above_their_columns():
    videos = _random(2, 3, 12, 12, 3)
    labels = {"rows": ["upper", "lower"], "columns": ["0", "", "9"], "corner": "frame"}
    sheet = np.asarray(contact_sheet(videos))
    labelled = np.asarray(labelled_contact_sheet(videos, **labels))
    left, top = labelled.shape[1] - sheet.shape[1], labelled.shape[0] - sheet.shape[0]
    np.testing.assert_array_equal(labelled[top:, left:], sheet)
    has_ink = [(part < 128).any() for part in np.split(labelled[top:-1, :left], 2)]
    has_ink += [(part < 128).any() for part in np.split(labelled[:top, left:-1], 3, axis=1)]
    assert has_ink == [True, True, True, False, True]
    with pytest.raises(ValueError, match=r"1 labels of rows and 3 of columns .* 2 videos of 3"):
        labelled_contact_sheet(videos, **labels | {"rows": ["upper"]})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_video_grid_is_nearly_square_and_unused_cells_are_black(channels):
    videos = _random(5, 4, 3, 6, channels)
    grid = video_grid(videos)
    assert grid.shape == (4, 2 * 4 + 1, 3 * 7 + 1, channels) and grid.dtype == np.uint8
    for place in range(6):
        y, x = 1 + place // 3 * 4, 1 + place % 3 * 7
        expected = videos[place] if place < 5 else np.zeros((4, 3, 6, channels))
        np.testing.assert_array_equal(grid[:, y : y + 3, x : x + 6], expected)
    assert _read(gif_bytes(grid, scale=1), "RGB")[0].shape == (4, 9, 22, 3)


def test_refuses_other_shapes_by_name():
    for function in (contact_sheet, video_grid):
        with pytest.raises(ValueError, match=r"1 or 3 channels.*\(2, 3, 8, 8, 2\)"):
            function(_random(2, 3, 8, 8, 2))
        with pytest.raises(ValueError, match=r"\(3, 8, 8, 1\)"):
            function(_random(3, 8, 8, 1))
    for function in (gif_bytes, mp4_bytes):
        with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
            function(_random(3, 8, 8))
        with pytest.raises(ValueError, match="float64"):
            function(np.zeros((3, 8, 8, 1)))
    with pytest.raises(ValueError, match="frames_per_second is 0, and must be positive"):
        mp4_bytes(_random(3, 8, 8, 1), frames_per_second=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_ffmpeg_decodes_an_mp4_to_the_video(tmp_path, channels):
    waves = np.sin(
        np.arange(20)[:, None] / 5 + np.arange(31)[None] / 7 + np.arange(3)[:, None, None]
    )
    grey = np.round(127.5 * (waves + 1)).astype(np.uint8)
    colours = (grey, 255 - grey, grey // 2 + 100)[:channels]
    video = np.stack(colours, -1)
    video[2] = (230, 30, 60)[:channels]  # flat, so that 4:2:0 loses nothing
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4_bytes(video, frames_per_second=Fraction(30000, 1001)))
    # 20 x 31 pixels, each as 7 x 7, and a column more.
    expected = np.kron(np.broadcast_to(video, (*video.shape[:-1], 3)), np.ones((1, 7, 7, 1), int))
    expected = np.concatenate([expected, expected[:, :, -1:]], 2)
    shown = reference_frames(path)
    assert shown.shape == (3, 140, 218, 3)
    error = np.abs(shown.astype(int) - expected)
    # At the edges of enlarged pixels, 4:2:0 mixes colours.
    assert error[:2].mean() < (1, None, 4)[channels - 1] and error[2].max() <= 2
    assert error[:2, :, -2:].mean() < 4
    with av.open(str(path)) as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert context.colorspace == context.color_primaries == context.color_trc == 1  # BT.709
        assert context.color_range == 1 and stream.average_rate == Fraction(30000, 1001)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_mp4_is_deterministic_and_starts_with_its_index(tmp_path, count):
    video = _random(count, 9, 6, 3)
    written = mp4_bytes(video, frames_per_second=2.5, scale=1)
    assert written == mp4_bytes(video, frames_per_second=2.5, scale=1)
    assert written.index(b"moov") < written.index(b"mdat")
    (tmp_path / "a.mp4").write_bytes(written)
    read = open_video(tmp_path / "a.mp4")
    assert (read.num_frames, read.height, read.width) == (count, 10, 6)
    np.testing.assert_allclose(read.times, np.arange(count) / 2.5)
