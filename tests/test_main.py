"""The command line: modes, files written, and one-line errors."""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from vdm.video import open_video

CONFIG = "--config=configs/moving_digits.py"


def _run(*arguments, module="vdm.main", platforms="cpu", max_file_bytes=None):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    environment = os.environ | {
        "JAX_PLATFORMS": platforms,
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles faster
    }
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit if max_file_bytes else None,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tiny_overrides):
    """The workdir of a run that the command line trained for three steps."""
    path = tmp_path_factory.mktemp("run") / "workdir"
    steps = ["--config.training.num_steps=3", "--config.training.sample_every=2"]
    done = _run(CONFIG, f"--workdir={path}", "--mode=train", *tiny_overrides, *steps)
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stdout
    return path


def test_train_writes_metrics_and_previews(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3 and {"loss", "grad_norm"} <= lines[-1].keys()
    assert [p.name for p in sorted((workdir / "previews").iterdir())] == [
        "step_00000002.gif",
        "step_00000002.mp4",
        "step_00000002.txt",
        "step_00000003.gif",
        "step_00000003.mp4",
        "step_00000003.txt",
    ]
    events = next((workdir / "tensorboard").iterdir()).read_bytes()
    assert b"GIF89a" in events and b"grad_norm" in events


@pytest.mark.slow
def test_figure4_shows_replacement_and_reconstruction_guidance(workdir, tiny_overrides):
    done = _run(
        CONFIG,
        f"--workdir={workdir}",
        *tiny_overrides,
        "--config.sample.num_videos=2",
        "--config.extend.num_frames=10",
        "--config.extend.overlap=1",
        "--config.extend.stride=3",
        module="vdm.evaluation.figure4",
    )
    assert done.returncode == 0, done.stderr
    folder = workdir / "figure4"
    assert str(folder / "figure4.png") in done.stdout
    videos = {
        method: np.load(folder / method / "samples.npz")["video"]
        for method in ("replacement", "reconstruction")
    }
    assert {video.shape for video in videos.values()} == {(2, 10, 8, 8, 1)}
    first = [
        video[:, :4].astype(int) for video in videos.values()
    ]  # compiled twice: equal to rounding
    np.testing.assert_allclose(*first, atol=1)
    with Image.open(folder / "figure4.gif") as video:
        assert video.n_frames == 10
    assert open_video(folder / "figure4.mp4").num_frames == 10
    with Image.open(folder / "figure4.png") as sheet:
        assert sheet.width > 10 * 48 and sheet.height > 4 * 48


def test_sample_writes_arrays_videos_and_a_contact_sheet(workdir, tiny_overrides):
    done = _run(
        CONFIG,
        f"--workdir={workdir}",
        "--mode=sample",
        *tiny_overrides,
        "--config.sample.num_videos=3",
        "--config.sample.max_video_files=2",
        "--config.sample.seed=7",
    )
    assert done.returncode == 0, done.stderr
    folder = workdir / "samples"
    assert str(folder / "contact_sheet.png") in done.stdout.splitlines()[-1]
    arrays = np.load(folder / "samples.npz")
    assert arrays["video"].shape == (3, 4, 8, 8, 1) and arrays["video"].dtype == np.uint8
    assert arrays["seed"] == 7
    assert sorted(p.name for p in folder.glob("video_*")) == [
        f"video_{index:04}.{suffix}" for index in range(2) for suffix in ("gif", "mp4")
    ]
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.height * 4 == pytest.approx(sheet.width * 3, rel=0.02)


def test_eval_reports_loss_and_persistence(workdir, tiny_overrides):
    done = _run(CONFIG, f"--workdir={workdir}", "--mode=eval", *tiny_overrides)
    assert done.returncode == 0, done.stderr
    result = json.loads(next((workdir / "eval").glob("moving_digits_*.json")).read_text())
    bins = result["held_out_loss"]["bins"]
    assert len(bins) == 10 and bins[0]["log_snr_from"] == -22 and bins[-1]["log_snr_to"] == 18
    persistence = result["digit_persistence"]
    assert persistence["noise"]["persistence"] == 0 and persistence["real"]["persistence"] > 0.7
    assert "| real |" in next((workdir / "eval").glob("moving_digits_*.md")).read_text()


def test_sample_reads_an_exported_file(workdir, tiny_overrides, tmp_path):
    done = _run(CONFIG, f"--workdir={workdir}", "--mode=export", *tiny_overrides)
    assert done.returncode == 0, done.stderr
    exported = workdir / "model.safetensors"
    arguments = [CONFIG, "--mode=sample", f"--config.checkpoint={exported}", *tiny_overrides]
    done = _run(*arguments, f"--workdir={tmp_path}", "--config.sample.num_videos=3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "samples" / "contact_sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=train", "--config.model.base_chanels=8"], "base_chanels"),
        (["--mode=train", "--config.diffusion.target=noise"], "config.diffusion.target is 'noise'"),
        (["--mode=dream"], "--mode=dream"),
        (["--mode=sample"], "no checkpoint in"),
        (["--workdir=run\udcff"], r"--workdir is 'run\udcff', and must be UTF-8"),
        ([r"--workdir=runs\bair"], r"--workdir is 'runs\\bair', and must be UTF-8 without a"),
        (["--mode=sample", "--config.checkpoint=missing.safetensors"], "missing.safetensors"),
        (["--mode=train", "--config.training.batch_size=3"], "a multiple of the 2 devices"),
        (["--mode=train", "--config.seed=4294967296"], "config.seed is 4294967296, and must be"),
        (["--mode=plan", "--config.plan.topology=v4:4x4x7"], "config.plan.topology is 'v4:4x4x7'"),
        *(
            pytest.param([f"--mode={mode}", f"--config.{field}"], message, marks=pytest.mark.slow)
            for mode, field, message in (
                ("train", "model.base_channels=many", "base_channels"),
                ("eval", "mesh.fsdp=3", "config.mesh.fsdp is 3, and must be a divisor"),
                ("sample", "sample.task=dream", "config.sample.task is 'dream'"),
                ("train", "data.name=ucf102", "config.data.name is 'ucf102'"),
                ("train", "training.init_from=gone", "config.training.init_from gone does not"),
                ("rehearse", "rehearse.data=none", "config.rehearse.data is 'none'"),
            )
        ),
    ],
)
def test_prints_a_one_line_error_and_writes_nothing(arguments, message, tmp_path):
    path = tmp_path / "workdir"
    start = time.monotonic()
    done = _run(CONFIG, f"--workdir={path}", *arguments)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert not path.exists()
    print(f"{time.monotonic() - start:.1f} s")


def test_prints_what_the_terminal_cannot_encode(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = _run(CONFIG, "--mode=config", "--config.data.path=/videos/Übung")
    assert done.returncode == 0 and r"config.data.path = '/videos/\xdcbung'" in done.stdout


def test_a_missing_accelerator_is_one_sentence(tmp_path):
    done = _run("--config=moving_digits", f"--workdir={tmp_path / 'run'}", platforms="nobodys")
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: JAX has no devices of JAX_PLATFORMS='nobodys'")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(tmp_path, tiny_overrides):
    """A limit on file sizes stands for the full disk."""
    steps = ["--config.training.num_steps=20", "--config.training.checkpoint_every=10"]
    options = [f"--workdir={tmp_path}", *tiny_overrides, *steps]
    done = _run("--config=moving_digits", *options, max_file_bytes=30_000)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: a checkpoint cannot be saved in {tmp_path}/checkpoints: ")
    assert line.endswith("there is no earlier one")


def test_plan_needs_no_workdir(tiny_overrides, tmp_path):
    output = tmp_path / "plan.json"
    options = ["--config.plan.steps=('sample',)", f"--config.plan.output={output}"]
    done = _run(CONFIG, "--mode=plan", *tiny_overrides, *options)
    assert done.returncode == 0, done.stderr
    assert "everything fits" in done.stdout and str(output) in done.stdout.splitlines()[-1]
    result = json.loads(output.read_text())
    assert list(result["steps"]) == ["sample"] and "--mode=plan" in result["command"]


def test_leaves_a_checkpoint_of_a_different_model_unchanged(workdir, tiny_overrides):
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    arguments = [CONFIG, f"--workdir={workdir}", *tiny_overrides]
    done = _run(*arguments, "--mode=train", "--config.model.base_channels=32")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "config.model.base_channels is 16" in last and "this configuration has 32" in last
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before


def test_names_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "workdir", "/proc/workdir"):
        done = _run(CONFIG, f"--workdir={path}", "--mode=train")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert str(path) in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("module", ["vdm.main", "vdm.evaluation.figure4"])
def test_ctrl_c_during_the_checks_is_one_sentence(tmp_path, module):
    """They index the videos of a folder, which takes hours for large ones."""
    code = f"""
import runpy, sys
import vdm.preflight
def interrupted(*_):
    raise KeyboardInterrupt
vdm.preflight.check = interrupted
sys.argv = [{module!r}, {CONFIG!r}, "--workdir={tmp_path}"]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
