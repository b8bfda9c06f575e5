"""Each shipped checkpoint has a model card and a gallery section that agree with its file."""

import re
import resource
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


# pytest would write what is printed into a limited file, but for capsys.
@pytest.mark.usefixtures("quick_compilation_once", "capsys")
def test_the_command_writes_a_page_and_gifs(tiny_config, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    shapes = parameter_shapes(tiny_config)
    params = {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}
    export(tmp_path / "tiny", unflatten_dict(params, sep="/"), tiny_config, 1234)
    clips = random.integers(0, 255, (2, 4, 8, 8, tiny_config.data.channels), np.uint8)
    np.savez(tmp_path / "clips.npz", video=clips)
    monkeypatch.chdir(tmp_path)
    for found in (None, tmp_path / "clips.npz"):
        monkeypatch.setattr("vdm.gallery.find_clips", lambda data, found=found: found)
        page = write_gallery(tmp_path / "docs", ["tiny"]).read_text()
        assert "## tiny" in page and "| training steps | 1,234 |" in page
        assert ("a real video and 3 predictions" in page) == (found is not None)
        path = tmp_path / "docs" / "images" / "gallery_tiny.gif"
        with Image.open(path) as gif:
            assert gif.n_frames == 4
    before = path.read_bytes()
    monkeypatch.setattr(
        "vdm.gallery._with_predictions", lambda model, clips: np.load(clips)["video"]
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as a full disk
    try:
        with pytest.raises(OSError, match=r"gallery_tiny\.gif cannot be written: "):
            write_gallery(tmp_path / "docs", ["tiny"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("quick_compilation_once")
def test_clips_that_cannot_be_predicted_from_are_named(tiny_config, tmp_path, monkeypatch):
    tiny_config.sample.task = "predict"
    shapes = parameter_shapes(tiny_config)
    params = {name: np.zeros(shape) for name, shape in shapes.items()}
    export(tmp_path / "tiny", unflatten_dict(params, sep="/"), tiny_config, 1)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "moving_digits_clips.npz"
    monkeypatch.setattr("vdm.gallery.checkpoint_names", lambda: ["tiny"])
    monkeypatch.setattr("vdm.gallery.find_clips", lambda _: path if path.exists() else None)
    with pytest.raises(SystemExit, match=rf"^error: .* there is no checkpoints/{path.name}$"):
        main([f"--folder={tmp_path}"])
    good = np.zeros((2, 4, 8, 8, tiny_config.data.channels), np.uint8)
    np.savez_compressed(path, video=good)
    for content, reason in (
        (b"", "is damaged or of another type"),
        (path.read_bytes()[:-30], "is damaged or of another type"),
        ({"videos": good}, "`video` is needed"),
        ({"video": good / 255}, "holds float64"),
        ({"video": good[:, :3]}, "has 3 frames, and 4 are needed"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
        with pytest.raises(SystemExit, match=rf"^error: [^\n]*{path.name}[^\n]*{reason}[^\n]*$"):
            main([f"--folder={tmp_path}"])


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
