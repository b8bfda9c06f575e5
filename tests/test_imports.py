"""Importing vdm imports no large package, and modules import each other in one direction."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import vdm

_LARGE = (
    "jax",
    "flax",
    "tensorflow",
    "torch",
    "orbax",
    "sklearn",
    "scipy",
    "cv2",
    "huggingface_hub",
)


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import vdm", ()),
        ("import vdm; vdm.metrics", ()),
        ("import vdm.diffusion.samplers", ("jax",)),
        ("import vdm.shipped", ()),
        ("import vdm.main, vdm.preflight", ("jax", "flax", "orbax")),
        ("import vdm; vdm.load", ("jax", "flax", "orbax", "sklearn", "scipy", "cv2")),
    ],
)
def test_large_packages_are_imported_at_first_use(statement, allowed):
    excluded = [name for name in _LARGE if name not in allowed]
    code = f"{statement}\nimport sys\nprint([m for m in {excluded!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = vdm.laod


def test_no_module_imports_itself_through_others():
    root = Path(vdm.__file__).parents[1]
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in Path(vdm.__file__).parent.rglob("*.py")
    }
    imports = {name: set() for name in modules}
    for name, path in modules.items():
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if "TYPE_CHECKING" not in ast.dump(node)]
        for node in ast.walk(tree):  # also imports inside functions
            if isinstance(node, ast.Import):
                imports[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                imports[name] |= (names & modules.keys()) or {node.module}
        imports[name] = (imports[name] & modules.keys()) - {name}
    assert len(imports["vdm.main"]) > 5
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a circle
