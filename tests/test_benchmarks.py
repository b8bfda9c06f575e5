"""Tables of the docs against the committed results, and the PyTorch network against ours."""

import importlib
import pathlib
import sys

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vdm.build import init_params, make_model

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/ as its scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_tables_agree_with_the_committed_results(benchmark):
    fill_tables = benchmark("fill_tables")
    for page in fill_tables.PAGES:
        text = page.read_text()
        assert text.count("<!-- table:") == text.count("<!-- end of table -->") > 0
        assert fill_tables.filled(text) == text


def test_fills_a_table(benchmark, tmp_path, monkeypatch):
    fill_tables = benchmark("fill_tables")
    monkeypatch.setattr(fill_tables, "ROOT", tmp_path)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    result = '{"command": "run", "sizes": {"a": {"bytes": 2e6}, "b": {"seconds": 0.25}}}'
    (tmp_path / "benchmarks/results/r.json").write_text(result)
    marker = (
        "<!-- table: r.json sizes sizes\nname: {key}\nMB: {bytes:/1e6:.0f}\ns: {seconds}\n-->\n"
    )
    table = "| name | MB | s |\n| --- | --- | --- |\n| a | 2 |  |\n| b |  | 0.25 |\n"
    source = "`run`; [r.json](../benchmarks/results/r.json)\n"
    page = f"text\n{marker}%s<!-- end of table -->\nrest\n"
    for before in ("", "| an | old |\n\ntable\n"):
        assert fill_tables.filled(page % before) == page % f"\n{table}\n{source}"


def test_the_direction_of_a_driven_disc(benchmark):
    pusht_actions = benchmark("pusht_actions")
    videos = {name: np.full((2, 3, 64, 64, 3), 255, np.uint8) for name in ("left", "right")}
    # (x, y) in each frame of two starts; None is a frame without a disc, here the last of a video.
    paths = {
        "left": [[(40, 20), (30, 24), None], [(9, 30), (9, 30), (9, 30)]],
        "right": [[(40, 20), (44, 20), (50, 18)], [(9, 30), (12, 30), (15, 30)]],
    }
    for name, starts in paths.items():
        for video, path in zip(videos[name], starts, strict=True):
            for frame, place in zip(video, path, strict=True):
                if place:
                    x, y = place
                    frame[y - 2 : y + 2, x - 2 : x + 2] = (77, 125, 255)
    moved = {name: pusht_actions.displacement(v) for name, v in videos.items()}
    np.testing.assert_allclose(moved["left"], [(-10, 4), (0, 0)], atol=1e-5)
    np.testing.assert_allclose(moved["right"], [(10, -2), (6, 0)], atol=1e-5)
    assert pusht_actions.shares(moved) == {"apart": 1.0, "each_as_pulled": 0.5}
    # To the wall, 33 / 8 pixels from the edge, or 2.56 pixels in each of two steps.
    np.testing.assert_allclose(
        pusht_actions.in_empty_space(videos["left"], (-1, 0), 3),
        [(-5.12, 0), (33 / 8 - 9, 0)],
        rtol=1e-5,
    )


@pytest.mark.parametrize("authors_layout", [False, True])
def test_torch_unet_agrees_with_ours(benchmark, tiny_config, authors_layout):
    torch = pytest.importorskip("torch")
    torch_unet = benchmark("torch_unet")
    config = tiny_config
    config.model.update(patch_size=1, channel_multipliers=(1, 2), film=authors_layout)
    config.model.update(attention_bias=authors_layout, narrow_upsampling=not authors_layout)
    keys = iter(jax.random.split(jax.random.key(0), 200))
    params = jax.tree.map(  # random, since a new network's output is zero
        lambda leaf: 0.2 * jax.random.normal(next(keys), leaf.shape), init_params(config)
    )
    z = np.random.default_rng(0).normal(size=(2, 6, 8, 8, 1)).astype(np.float32)
    log_snr = np.array([-3.0, 2.0], np.float32)
    ours = jax.jit(make_model(config).apply, static_argnames="num_images")(
        {"params": params}, z, log_snr, num_images=2
    )
    network = torch_unet.TorchSpaceTimeUNet(config.model, flatten_dict(params, sep="/")).eval()
    with torch.inference_mode():
        theirs = network(torch.tensor(z), torch.tensor(log_snr), num_images=2).numpy()
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
