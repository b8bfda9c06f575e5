"""Copies of training clips are found in later windows and mirrored, and a picture shows them."""

import numpy as np
import pytest
from PIL import Image

from vdm.data.clips import ClipDataSet
from vdm.data.datasets import held_out_videos
from vdm.evaluation.baselines import pixels_of
from vdm.evaluation.memorisation import memorisation


@pytest.fixture
def training(tiny_config, tmp_path):
    """Two training videos of 40 frames of noise."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        video = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", video=video)
    (tmp_path / "manifest.csv").write_text("file,split\na.npz,train\nb.npz,train\n")
    data = {"name": "folder", "path": str(tmp_path), "frames": 4, "resolution": 8, "channels": 3}
    tiny_config.data.update(data)
    source = held_out_videos(tiny_config, 4, "train")
    assert isinstance(source, ClipDataSet) and len(source) == 2
    return source


def test_copies_are_found(training, tmp_path):
    copies = np.stack([pixels_of(training, index) for index in (0, 7, 100)])
    new = np.random.default_rng(1).integers(0, 256, copies.shape, np.uint8)
    figure = tmp_path / "pairs.png"
    numbers = memorisation(copies, new, training, mirrored=False, figure=figure)
    assert numbers["nearest"] == 0 and numbers["nearest_of_held_out"] > 50
    with Image.open(figure) as picture:
        assert picture.width > 4 * 48 and picture.height > 6 * 48

    flipped = copies[:, :, :, ::-1]
    found = [
        memorisation(flipped, new, training, mirrored=mirrored, figure=None)["nearest"]
        for mirrored in (False, True)
    ]
    assert found[0] > 50 and found[1] == 0
