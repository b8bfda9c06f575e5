"""The wheel: its name, and files that users need without a clone."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("wheel") / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("vdm", "configs", "checkpoints", "launch"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir=dist", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if "Could not find a version" in done.stderr:
        pytest.skip("the package registry, which has setuptools to build with, is unreachable")
    assert done.returncode == 0, done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_has_configurations_launch_files_and_weights(wheel):
    assert wheel.name.startswith("video_diffusion_jax-")
    with zipfile.ZipFile(wheel) as archive:
        members = {member.filename: member for member in archive.infolist()}
        metadata = next(name for name in members if name.endswith(".dist-info/METADATA"))
        requirements = [
            line
            for line in archive.read(metadata).decode().splitlines()
            if line.startswith("Requires-Dist:")
        ]
    for folder in ("configs", "checkpoints", "launch", "launch/tables"):
        for path in (ROOT / folder).iterdir():
            if path.is_file():
                assert f"vdm/{folder}/{path.name}" in members
    for path in (ROOT / "vdm").rglob("*.py"):
        assert str(path.relative_to(ROOT)) in members
    assert not any(name.startswith(("tests/", "docs/", "benchmarks/")) for name in members)
    assert members["vdm/launch/local_processes"].external_attr >> 16 & 0o100  # executable
    # The weights of a model take at most 16 MB.
    assert sum(member.compress_size for member in members.values()) < 20e6
    of_metrics = [line for line in requirements if "metrics" in line]
    assert of_metrics and not any("torch" in line for line in of_metrics)
