import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from vdm.video.display import contact_sheet, gif_bytes, video_grid
from vdm.video.pixels import from_uint8, to_uint8


def _read(data, mode):
    picture = Image.open(io.BytesIO(data))
    frames = [np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(picture)]
    return np.stack(frames), picture.info


def _random(*shape):
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_uint8_rounds_clips_and_is_undone():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(from_uint8(every)), every)
    assert from_uint8(every).dtype == np.float32
    np.testing.assert_allclose(from_uint8(every[[0, 255]]), [-1, 1])
    values = [-3, -1, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 7]
    assert to_uint8(np.array(values)).tolist() == [0, 0, 0, 1, 255, 255]


def test_a_grey_gif_holds_the_pixels_enlarged_and_loops():
    video = _random(7, 16, 20, 1)
    frames, info = _read(gif_bytes(video), "L")
    np.testing.assert_array_equal(frames, np.kron(video[..., 0], np.ones((1, 8, 8), np.uint8)))
    assert info["loop"] == 0 and info["duration"] == 120  # 125 ms to whole hundredths, to even

    frames, info = _read(gif_bytes(video, frames_per_second=25, scale=1), "L")
    np.testing.assert_array_equal(frames, video[..., 0])
    assert info["duration"] == 40


def test_a_colour_gif_is_exact_in_few_colours_and_near_in_many():
    few = _random(3, 9, 9, 3)  # 81 colours a frame
    np.testing.assert_array_equal(_read(gif_bytes(few, scale=1), "RGB")[0], few)

    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    many = np.stack([np.stack([red, green, 255 - red], -1), np.stack([green, red, red], -1)])
    error = _read(gif_bytes(many, scale=2), "RGB")[0][:, ::2, ::2].astype(int) - many
    assert np.abs(error).mean() < 8


def test_a_contact_sheet_has_a_row_a_video_and_a_column_a_frame():
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


@pytest.mark.parametrize("channels", [1, 3])
def test_a_video_grid_is_near_square_with_black_for_what_is_left_over(channels):
    videos = _random(5, 4, 3, 6, channels)
    grid = video_grid(videos)
    assert grid.shape == (4, 2 * 4 + 1, 3 * 7 + 1, channels) and grid.dtype == np.uint8
    for place in range(6):
        y, x = 1 + place // 3 * 4, 1 + place % 3 * 7
        expected = videos[place] if place < 5 else np.zeros((4, 3, 6, channels))
        np.testing.assert_array_equal(grid[:, y : y + 3, x : x + 6], expected)
    assert _read(gif_bytes(grid, scale=1), "RGB")[0].shape == (4, 9, 22, 3)


def test_other_shapes_are_refused_by_name():
    for function in (contact_sheet, video_grid):
        with pytest.raises(ValueError, match=r"1 or 3 channels.*\(2, 3, 8, 8, 2\)"):
            function(_random(2, 3, 8, 8, 2))
        with pytest.raises(ValueError, match=r"\(3, 8, 8, 1\)"):
            function(_random(3, 8, 8, 1))
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        gif_bytes(_random(3, 8, 8))
    with pytest.raises(ValueError, match="float64"):
        gif_bytes(np.zeros((3, 8, 8, 1)))
