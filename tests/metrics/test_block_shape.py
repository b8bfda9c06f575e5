"""The shape of PushT's block, in frames that Pillow draws and in those of the environment."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from vdm.metrics.block_shape import block_overlap, block_shape, disc_positions

_SCALE = 8  # frames are drawn larger, then averaged
_GREY, _BLUE = (143, 163, 184), (77, 125, 255)
_TEE = ((-96, 0), (96, 0), (96, 48), (24, 48), (24, 192), (-24, 192), (-24, 48), (-96, 48))
_SHORT = tuple((x, min(y, 120)) for x, y in _TEE)
_BAR = ((-96, 0), (96, 0), (96, 84), (-96, 84))  # a rectangle of the T's area
_ELL = ((-96, 0), (96, 0), (96, 48), (-48, 48), (-48, 192), (-96, 192))


def frame(corners=(), position=(250.0, 240.0), angle=0.0, disc=None) -> np.ndarray:
    """Draws a polygon with the environment's colours: uint8 [64, 64, 3]."""
    image = Image.new("RGB", (64 * _SCALE,) * 2, "white")
    canvas = ImageDraw.Draw(image)
    if corners:
        cos, sin = np.cos(angle), np.sin(angle)
        placed = [
            (position[0] + cos * x - sin * y, position[1] + sin * x + cos * y) for x, y in corners
        ]
        canvas.polygon(placed, fill=_GREY)
        canvas.line([*placed, *placed[:2]], fill=_GREY, width=7, joint="curve")  # the outline
    if disc is not None:
        canvas.ellipse(
            [disc[0] - 24, disc[1] - 24, disc[0] + 24, disc[1] + 24], fill=(77, 125, 255)
        )
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX))


def overlap(*frames: np.ndarray) -> np.ndarray:
    return block_overlap(np.stack(frames)[None])[0]


def test_a_tee_keeps_its_shape_wherever_it_is():
    rng = np.random.default_rng(0)
    frames = [
        frame(_TEE, rng.uniform(200, 310, 2), rng.uniform(-np.pi, np.pi), rng.uniform(30, 60, 2))
        for _ in range(24)
    ]
    assert overlap(*frames).min() > 0.87
    assert block_shape(np.stack(frames)[None]) == [1.0]


def test_other_shapes_overlap_less():
    two = np.minimum(frame(_TEE, (130, 40)), frame(_TEE, (360, 270), 1.0))
    blurred = gaussian_filter(frame(_TEE).astype(float), (3, 3, 0)).astype(np.uint8)
    shapes = [frame(), frame(_SHORT), frame(_BAR), frame(_ELL), two, blurred]
    overlaps = overlap(*shapes)
    assert overlaps[0] == 0 and overlaps.max() < 0.8
    assert block_shape(np.stack([frame(_TEE), *shapes])[None]) == [pytest.approx(1 / 7)]


def test_the_disc_is_where_it_was_drawn():
    centres = np.array([(100.0, 300.0), (333.0, 77.0)])
    videos = np.stack([frame(_TEE, disc=centre) for centre in centres])[None]
    np.testing.assert_allclose(disc_positions(videos)[0], centres / _SCALE, atol=0.15)
    assert np.isnan(disc_positions(frame(_TEE)[None, None])).all()


def test_frames_of_the_environment_have_the_shape_and_the_disc():
    pytest.importorskip("gym_pusht")
    from vdm.data.pusht.environment import draw_clip, make_environment

    clip = draw_clip(make_environment(), 3, "test", 0, 8)
    assert block_overlap(clip.video[None]).min() > 0.9
    np.testing.assert_allclose(
        disc_positions(clip.video[None])[0], clip.state[:, :2] / _SCALE, atol=0.3
    )


@pytest.mark.parametrize("shape", [(1, 2, 32, 32, 3), (1, 2, 64, 64, 1), (2, 64, 64, 3)])
def test_videos_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="64, 64, 3"):
        block_overlap(np.zeros(shape, np.uint8))
