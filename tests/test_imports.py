"""Importing vdm imports no large package."""

import subprocess
import sys

import pytest

_LARGE = ("jax", "flax", "tensorflow", "torch", "orbax", "sklearn", "scipy", "cv2")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import vdm", ()),
        ("import vdm; vdm.metrics", ()),
        ("import vdm.diffusion.samplers", ("jax",)),
        ("import vdm; vdm.load", ("jax", "flax", "orbax", "sklearn", "scipy", "cv2")),
    ],
)
def test_large_packages_are_imported_at_first_use(statement, allowed):
    excluded = [name for name in _LARGE if name not in allowed]
    code = f"{statement}\nimport sys\nprint([m for m in {excluded!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    import vdm

    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = vdm.laod
