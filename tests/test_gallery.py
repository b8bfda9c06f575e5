"""Each shipped checkpoint has a model card and a gallery section that agree with its file."""

import re
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from PIL import Image

from vdm.build import parameter_shapes
from vdm.configuration.stored import from_record
from vdm.exported import export, load_exported_config
from vdm.gallery import main, write_gallery
from vdm.shipped import checkpoint_names, find_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", checkpoint_names())
def test_cards_and_the_gallery_agree_with_the_files(name):
    record, step = load_exported_config(find_checkpoint(name))
    shapes = parameter_shapes(from_record(record, name))
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    card = (ROOT / "checkpoints" / f"{name}.md").read_text()
    section = (ROOT / "docs" / "gallery.md").read_text().partition(f"\n## {name}\n")[2]
    for page in (card, section.partition("\n## ")[0]):
        assert f"| parameters | {parameters:,} |" in page
        assert f"| training steps | {step:,} |" in page
    for word in ("Data", "Training", "Quality", "Limits"):
        assert f"**{word}" in card
    for target in re.findall(r"\]\(([^):#]+)\)", card):
        assert (ROOT / "checkpoints" / target).exists(), target


@pytest.mark.usefixtures("quick_compilation_once")
def test_the_command_writes_a_page_and_gifs(tiny_config, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    shapes = parameter_shapes(tiny_config)
    params = {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}
    export(tmp_path / "tiny", unflatten_dict(params, sep="/"), tiny_config, 1234)
    clips = random.integers(0, 255, (2, 4, 8, 8, tiny_config.data.channels), np.uint8)
    np.savez(tmp_path / "clips.npz", video=clips)
    monkeypatch.chdir(tmp_path)
    for found in (None, tmp_path / "clips.npz"):
        monkeypatch.setattr("vdm.gallery.find_clips", lambda name, found=found: found)
        page = write_gallery(tmp_path / "docs", ["tiny"]).read_text()
        assert "## tiny" in page and "| training steps | 1,234 |" in page
        assert ("a real video and 3 predictions" in page) == (found is not None)
        with Image.open(tmp_path / "docs" / "images" / "gallery_tiny.gif") as gif:
            assert gif.n_frames == 4


def test_an_error_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"^error: .*Not a directory.*file/images"):
        main([f"--folder={tmp_path / 'file'}"])
    monkeypatch.setattr("vdm.gallery.checkpoint_names", lambda: ["gone"])
    with pytest.raises(SystemExit, match=r"^error: gone does not exist, and must be"):
        main([f"--folder={tmp_path}"])
    monkeypatch.setattr("vdm.gallery.checkpoint_names", list)
    with pytest.raises(SystemExit, match=r"^error: there is no shipped checkpoint: checkpoints/"):
        main([f"--folder={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()
