"""launch/tpu_vm.sh, with commands that stand for gcloud, and for Python and uv of the hosts."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Runs a host's command here, in a home folder of its own.
GCLOUD = """#!/usr/bin/env bash
set -euo pipefail
echo "gcloud $*" >>"$LOG"
case $* in
*" scp "*) cp "$5" "$HOST/${6#*:}" ;;
*) command=${*: -1} && HOME=$HOST PATH=$HOST/bin:$PATH bash -c "${command#--command=}" ;;
esac
"""
# Python 3.10 of the image, which installs uv for the user.
PYTHON = """#!/usr/bin/env bash
echo "python3 $*" >>"$LOG"
[[ $* == "-m pip install "*" uv" ]] || exit 1
mkdir -p ~/.local/bin && cp "$HOST/bin/stub_uv" ~/.local/bin/uv
"""
UV = """#!/usr/bin/env bash
echo "uv $*" >>"$LOG"
[ "$1" = venv ] || exit 0
mkdir -p .venv/bin && cp "$HOST/bin/stub_vdm" .venv/bin/python
"""
# That of macOS, from where gcloud is often called, has no long options.
MKTEMP = """#!/usr/bin/env bash
[[ $* != *--* ]] || exit 1
PATH=${PATH#*:} exec mktemp "$@"
"""
VDM = """#!/usr/bin/env bash
[ -f setup.py ] || exit 1
printf '%s\\n' "$@" >"$HOST/arguments"
"""


@pytest.fixture
def checkout(tmp_path):
    """A repository of few files, with one commit."""
    checkout = tmp_path / "checkout"
    for name in ("launch/tpu_vm.sh", "setup.py", "vdm/main.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=one"]):
        subprocess.run(["git", *identity, *command], cwd=checkout, check=True)
    return checkout


def test_hosts_get_a_recent_python_and_the_arguments(checkout, tmp_path):
    host, local = tmp_path / "host", tmp_path / "local"
    for path, script in (
        (local / "gcloud", GCLOUD),
        (local / "mktemp", MKTEMP),
        (host / "bin" / "python3", PYTHON),
        (host / "bin" / "stub_uv", UV),
        (host / "bin" / "stub_vdm", VDM),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    log = tmp_path / "log"
    environment = os.environ | {
        "PATH": f"{local}:{os.environ['PATH']}",
        "HOST": str(host),
        "LOG": str(log),
    }
    arguments = [
        "--config=configs/ucf101.py",
        "--config.sample.caption=a dog's $HOME",
        "--mode=a b",
    ]
    for change in ("", "?? mine.py\n"):  # the second call updates the first
        if change:
            (checkout / "mine.py").touch()
        done = subprocess.run(
            ["bash", checkout / "launch" / "tpu_vm.sh", "pod", "zone-a", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        warning = f"warning: not committed, so not copied:\n{change}" if change else ""
        assert done.stderr == warning
    found = (host / "arguments").read_text().splitlines()
    assert found == ["-m", "vdm.main", "--connect_timeout=300", *arguments]
    lines = log.read_text().splitlines()
    calls = [line for line in lines if line.startswith(("gcloud ", "python3 ", "uv "))]
    assert [line.split()[0] for line in calls[:6]] == [
        *("gcloud", "gcloud", "python3", "uv", "uv", "gcloud")
    ]
    assert all("pod" in line and "--worker=all" in line for line in calls[:2])
    assert "--python 3.12" in calls[3] and "--editable .[tpu,gcs]" in calls[4]
    assert (host / "vdm" / "vdm" / "main.py").exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is missing")
def test_shellcheck_finds_no_error():
    names = ("local_processes", "slurm.sbatch", "tpu_vm.sh")
    scripts = [ROOT / "launch" / name for name in names]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_has_every_file_that_setup_reads():
    """.dockerignore excludes all but a few paths."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "vdm", "configs"} <= kept
    assert all((ROOT / path).exists() for path in kept)
