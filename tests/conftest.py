"""Fixtures, and the setup of every test: checked shape annotations and two devices."""

import atexit
import contextlib
import functools
import os
import pathlib
import shutil
import signal
import sys
import tempfile

# Has to precede the import of jax. The processes of a session share their compiled programs.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="vdm-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import jaxtyping
import pytest

# Has to precede the first import of vdm. Checks the annotated shape and dtype of every argument and
# result in these packages. Users need no beartype.
jaxtyping.install_import_hook(["vdm.diffusion", "vdm.metrics", "vdm.models"], "beartype.beartype")

# Has to precede the first use of a device. Tests of sharding need at least two devices.
# JAX_PLATFORMS=cuda (or tpu) in the environment runs the tests on an accelerator.
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)

# A shell starts background commands with Ctrl-C ignored, and tests of Ctrl-C would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from configs.moving_digits import get_config  # noqa: E402  after the import hook
from vdm.files import as_path  # noqa: E402

SHARED_DATA = ROOT.parent / "shared" / "data"
SHARED_FAULTS = ROOT.parent / "shared" / "faults" / "inputs"


def _path_or_skip(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / name
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return path


@pytest.fixture(scope="session")
def shared_data():
    """Returns the path of a file in ../shared/data, outside the repository, or skips the test."""
    return functools.partial(_path_or_skip, SHARED_DATA)


@pytest.fixture(scope="session")
def shared_faults():
    """Returns the path of a file in ../shared/faults/inputs, or skips the test."""
    return functools.partial(_path_or_skip, SHARED_FAULTS)


@pytest.fixture(scope="session")
def bucket():
    """Returns the path of an emulated bucket, for this process and those that it starts."""
    from tests import object_store

    with object_store.bucket("tests") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield as_path("gs://tests")


@pytest.fixture(scope="module")
def quick_compilation():
    """Disables most of XLA's optimizations, for modules that compile programs to run them once."""
    with _quick_compilation():
        yield


@pytest.fixture
def quick_compilation_once():
    """`quick_compilation` for a single test."""
    with _quick_compilation():
        yield


@contextlib.contextmanager
def _quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def _tiny_config():
    """Moving digits of 4 frames of 8x8 pixels, and a network of one level and 3 blocks."""
    config = get_config()
    config.data.update(frames=4, resolution=8, condition="none")
    config.model.update(
        num_classes=0,
        base_channels=16,
        channel_multipliers=(1,),
        blocks_per_resolution=1,
        attention_resolutions=(4,),
        head_dim=8,
        embedding_dim=16,
        embedding_layers=1,
        patch_size=2,
    )
    config.training.update(batch_size=4, warmup_steps=0, decay_steps=0, sample_every=0)
    config.sample.update(num_steps=2, num_videos=4, batch_size=4)
    config.eval.update(num_videos=6, batch_size=4)
    return config


@pytest.fixture
def tiny_config():
    return _tiny_config()


@pytest.fixture(scope="module")
def tiny_config_of_module():
    return _tiny_config()


@pytest.fixture(scope="session")
def tiny_overrides():
    """Flags that turn configs/moving_digits.py into the tiny configuration."""
    tiny, full = _tiny_config(), get_config()
    return [
        f"--config.{section}.{name}={value}"
        for section in ("data", "model", "training", "sample", "eval")
        for name, value in tiny[section].items()
        if value != full[section][name]
    ]
