"""The speed page says what the committed results say, and the peer's twin computes what it does."""

import importlib.util
import pathlib
import sys

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vdm.build import init_params, make_model

ROOT = pathlib.Path(__file__).parents[1]


# Of benchmarks/, and what stands in there for packages that are not used.
_OURS = ("measuring", "peer", "speed_page", "torch_unet", "torchvision", "video_diffusion_pytorch")


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/ as its scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in _OURS:
            del sys.modules[name]


def test_speed_page_is_rendered_from_the_results(benchmark):
    speed_page = benchmark("speed_page")
    assert speed_page.PAGE.read_text() == speed_page.page()


def test_twin_computes_what_the_peer_does(benchmark):
    torch = pytest.importorskip("torch")
    for package in ("video_diffusion_pytorch", "rotary_embedding_torch", "einops_exts"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing")
    steps = benchmark("peer.steps")
    layout = steps.Layout(dim=16, dim_mults=(1, 2), frames=4, resolution=8, batch=2)
    torch.manual_seed(0)
    network = steps.torch_network(layout)
    params = steps.flax_params(network)
    z = np.random.default_rng(0).normal(size=(2, 4, 8, 8, 3)).astype(np.float32)
    time = np.array([50.0, 900.0], np.float32)
    twin = steps.Unet3D(layout.dim, layout.dim_mults)

    def of_twin(params):
        return twin.apply({"params": params}, z, time)

    channels_first = torch.tensor(z).permute(0, 4, 1, 2, 3)
    theirs = network(channels_first, torch.tensor(time)).permute(0, 2, 3, 4, 1)
    assert_close(jax.jit(of_twin)(params), theirs.detach().numpy())

    (theirs**2).sum().backward()
    trained = [item for item in network.named_parameters() if item[1].requires_grad]
    gradients = steps.to_flax({name: value.grad.numpy() for name, value in trained})
    ours = jax.jit(jax.grad(lambda params: (of_twin(params) ** 2).sum()))(params)
    jax.tree.map(assert_close, ours, gradients)


@pytest.mark.parametrize("film", [False, True])
def test_torch_unet_computes_what_ours_does(benchmark, tiny_config, film):
    torch = pytest.importorskip("torch")
    torch_unet = benchmark("torch_unet")
    config = tiny_config
    config.model.update(patch_size=1, channel_multipliers=(1, 2), film=film)
    keys = iter(jax.random.split(jax.random.key(0), 200))
    params = jax.tree.map(  # random, for a new network's output is zero
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
    assert_close(ours, theirs)


def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
