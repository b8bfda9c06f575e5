"""Notebooks are valid, stored without outputs, import what exists, and run top to bottom."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
OPTIONAL = {"torch", "IPython.display"}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_is_small_and_without_outputs(path):
    assert path.stat().st_size < 200_000
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@each_notebook
def test_is_valid(path):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(path, as_version=4))


@each_notebook
def test_imports_exist(path):
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name in OPTIONAL or importlib.util.find_spec(name), name


@pytest.mark.slow
@each_notebook
def test_runs_top_to_bottom(path, tmp_path):
    for package in ("nbconvert", "nbclient", "ipykernel"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"]
    subprocess.run([*command, f"--output-dir={tmp_path}", path], check=True)
