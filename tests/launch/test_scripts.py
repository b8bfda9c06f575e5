"""Launch files as a user meets them: without arguments, from other folders, with variables set."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Prints its arguments and the GPUs that it sees.
PYTHON = '#!/usr/bin/env bash\necho "python ${CUDA_VISIBLE_DEVICES-unset} $PYTHONPATH $*"\n'


def _executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _run(script, *arguments, path=(), cwd=None, **variables):
    path = os.pathsep.join([*map(str, path), os.environ["PATH"]])
    return subprocess.run(
        ["bash", script, *arguments],
        cwd=cwd,
        env=os.environ | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def clone(tmp_path):
    """A repository of launch files and setup.py alone, in a folder with a blank in its name."""
    clone = tmp_path / "my clone"
    shutil.copytree(ROOT / "launch", clone / "launch")
    shutil.copy(ROOT / "setup.py", clone)
    return clone


@pytest.mark.parametrize(
    ("script", "needed"),
    [
        ("distill", "WORKDIR CHECKPOINT"),
        ("local_processes", "NUMBER"),
        ("tables/figure_4", "WORKDIR"),
        ("tables/table_1", "WORKDIR"),
        ("tables/table_2", "WORKDIR"),
        ("tables/table_3", "WORKDIR VIDEOS"),
        ("tables/table_4", "WORKDIR VIDEOS"),
        ("tables/tables_5_and_6", "WORKDIR VIDEOS"),
    ],
)
def test_missing_arguments_are_the_usage_and_no_download(script, needed, tmp_path):
    _executable(tmp_path / "bin" / "python", PYTHON)
    *first, _ = needed.split()
    for arguments in ([], ["--help"], [*first, "--config.seed=1"]):
        done = _run(ROOT / "launch" / script, *arguments, path=[tmp_path / "bin"])
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert f"launch/{script} {needed} [" in line


def test_an_environment_without_pip_is_created_again(clone, tmp_path):
    """An interrupted `python -m venv` leaves one, which an installation by pip cannot use."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    # A Python whose environments record the installations in them.
    _executable(
        tmp_path / "bin" / "python3",
        "#!/usr/bin/env bash\n"
        '[ "$1 $2" = "-m venv" ] || exec true\n'
        "mkdir -p .venv/bin\n"
        "printf '#!/bin/sh\\necho \"installed $*\"\\n' >.venv/bin/python\n"
        "chmod +x .venv/bin/python\n",
    )
    _executable(tmp_path / "bin" / "uv", "#!/bin/sh\nexit 127\n")
    script = tmp_path / "script"
    script.write_text(f"set -euo pipefail\nsource '{clone}/launch/environment.sh'\n")
    with script.open("a") as file:
        file.write("make_environment .\n")
    done = _run(script, path=[tmp_path / "bin"], cwd=tmp_path, PYTHON="python3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("installed -m pip install") and "--editable ." in done.stdout


def test_cdpath_changes_no_folder(clone, tmp_path):
    """By an exported CDPATH, `cd` prints the folder, or finds another of the name."""
    (tmp_path / "other" / "launch").mkdir(parents=True)
    _executable(tmp_path / "bin" / "python3", PYTHON)
    variables = {"CDPATH": f".:{tmp_path / 'other'}", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    done = _run("launch/local_processes", "1", path=[tmp_path / "bin"], cwd=clone, **variables)
    assert f"python  {clone} -m vdm.main" in done.stdout
    (clone / "where").write_text('source launch/environment.sh\necho "$root"\n')
    assert _run("where", cwd=clone, **variables).stdout == f"{clone}\n"


@pytest.mark.parametrize(
    ("variables", "number", "expected"),
    [({}, 2, ["0", "1"]), ({"CUDA_VISIBLE_DEVICES": "5,3"}, 2, ["3", "5"])],
)
def test_processes_have_the_gpus_that_are_visible(variables, number, expected, tmp_path, clone):
    for name in ("python3", "nvidia-smi"):
        _executable(tmp_path / "bin" / name, PYTHON)
    if not variables and "CUDA_VISIBLE_DEVICES" in os.environ:
        pytest.skip("CUDA_VISIBLE_DEVICES is set")
    script = clone / "launch" / "local_processes"
    done = _run(script, str(number), path=[tmp_path / "bin"], **variables)
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == expected
    if variables:
        done = _run(script, "3", path=[tmp_path / "bin"], **variables)
        assert done.returncode == 2 and "is 5,3, and must name 3 GPUs" in done.stderr


@pytest.mark.parametrize(
    ("workdir", "expected"),
    [("gs://bucket/run", "gs://bucket/run"), ("my runs/1", "{}/my runs/1"), ("/a/b", "/a/b")],
)
def test_the_workdir_of_the_quick_start(workdir, expected, clone, tmp_path):
    """It is relative to the caller, and may be in an object store."""
    (clone / "setup.py").unlink()  # as in an installed package, whose scripts install nothing
    _executable(tmp_path / "bin" / "python", '#!/usr/bin/env bash\nprintf "%s|" "$@"\necho\n')
    caller = tmp_path / "caller"
    caller.mkdir()
    script = clone / "launch" / "quickstart"
    done = _run(script, path=[tmp_path / "bin"], cwd=caller, WORKDIR=workdir)
    assert done.returncode == 0, done.stderr
    expected = expected.format(caller)
    commands = [line for line in done.stdout.splitlines() if "vdm.main" in line]
    assert len(commands) == 3
    assert all(f"|--workdir={expected}|" in command for command in commands)
    assert done.stdout.splitlines()[-1] == f"{expected}/samples/contact_sheet.png"
    assert not list(caller.iterdir())
