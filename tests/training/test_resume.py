"""A killed and resumed run equals the uninterrupted run, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest
from etils import epath

from vdm.exported import load_exported
from vdm.files import read_record
from vdm.parallel.mesh import make_mesh
from vdm.training.checkpoints import Checkpoints, abstract_on, has_checkpoints, saved_steps
from vdm.training.loop import train
from vdm.training.state import init_state


def _train(workdir, overrides):
    return _start(workdir, "train", "--config=configs/moving_digits.py", *overrides)


def _start(workdir, mode, *options):
    command = [sys.executable, "-m", "vdm.main", f"--workdir={workdir}", f"--mode={mode}", *options]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _state(workdir, config):
    abstract = jax.eval_shape(partial(init_state, config))
    mesh = make_mesh(config)
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore(abstract_on(mesh, abstract))
    finally:
        checkpoints.close()


def _logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    measured = ("steps_per_second", "input_wait_share", "process_peak_bytes", "device_peak_bytes")
    return [{k: v for k, v in line.items() if k not in measured} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["local", "gs"])
def test_sigkill_and_resume_changes_no_bit(place, request, tmp_path, tiny_config, tiny_overrides):
    # log_every does not divide checkpoint_every: metric sums must survive the restart too.
    overrides = [
        *tiny_overrides,
        "--config.training.num_steps=40",
        "--config.training.log_every=7",
        "--config.training.checkpoint_every=10",
        "--config.training.eval_every=8",
        "--config.model.dropout=0.1",
    ]
    whole = _train(tmp_path / "whole", overrides)

    killed = epath.Path(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    killed /= "killed"
    process = _train(killed, overrides)
    deadline = time.monotonic() + 300
    while not has_checkpoints(killed):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # There may also be an unfinished checkpoint.
    names = [path.name for path in (killed / "checkpoints").glob("*")]
    assert "40" not in names

    again = _train(killed, overrides)
    output, whole_output = again.communicate()[0], whole.communicate()[0]
    assert again.returncode == 0, output
    assert whole.returncode == 0, whole_output
    assert "from step 0 " in whole_output and "from step 0 " not in output

    tiny_config.model.dropout = 0.1
    first, second = _state(tmp_path / "whole", tiny_config), _state(killed, tiny_config)
    assert int(first.step) == 40
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert _logged(tmp_path / "whole") == _logged(killed)
    assert [line["step"] for line in _logged(killed)] == [7, 8, 14, 16, 21, 24, 28, 32, 35, 40]
    assert saved_steps(tmp_path / "whole") == saved_steps(killed)

    if place == "gs":
        for mode in ("export", "sample", "eval"):
            for workdir in (tmp_path / "whole", killed):
                process = _start(workdir, mode)
                output, _ = process.communicate()
                assert process.returncode == 0 and str(workdir) in output, output
        both = (tmp_path / "whole", killed)
        jax.tree.map(
            np.testing.assert_array_equal, *[load_exported(w / "model.safetensors") for w in both]
        )
        sheets = [(workdir / "samples" / "contact_sheet.png").read_bytes() for workdir in both]
        assert sheets[0] == sheets[1]
        reports = [read_record(next((w / "eval").glob("*.json"))) for w in map(epath.Path, both)]
        assert reports[0] == reports[1]
        held_out_loss = pytest.approx(_logged(killed)[-1]["held_out_loss"], rel=1e-6)
        assert reports[0]["held_out_loss"]["mean"] == held_out_loss


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, "closed pipe"])
def test_a_signal_or_a_closed_output_saves_the_step(tmp_path, tiny_overrides, end):
    steps = ["--config.training.num_steps=100000", "--config.training.log_every=1"]
    process = _train(tmp_path, [*tiny_overrides, *steps])
    while "step      3/" not in (line := process.stdout.readline()):
        assert line, process.wait()
    if end == "closed pipe":
        process.stdout.close()
    else:
        process.send_signal(end)
        last = process.stdout.read().splitlines()[-1]
        assert " is saved, and the same command resumes" in last
    assert process.wait() == 75
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert saved >= 3
    assert end == "closed pipe" or f"step {saved} is saved" in last
    assert not (tmp_path / "train.lock").exists()


@pytest.mark.slow
def test_a_changed_log_interval_logs_the_mean_of_its_steps(tmp_path, tiny_config):
    def losses(workdir, *runs):
        for num_steps, log_every in runs:
            tiny_config.training.update(
                num_steps=num_steps, log_every=log_every, checkpoint_every=5
            )
            train(tiny_config, workdir, preview=None)
        return {line["step"]: line["loss"] for line in _logged(workdir)}

    each = losses(tmp_path / "each", (12, 1))
    resumed = losses(tmp_path / "resumed", (5, 4), (12, 6))
    assert resumed[6] == pytest.approx((each[5] + each[6]) / 2, rel=1e-6)
    assert resumed[12] == pytest.approx(sum(each[step] for step in range(7, 13)) / 6, rel=1e-6)


def test_ctrl_c_does_not_end_the_last_save(tmp_path, tiny_config, monkeypatch):
    tiny_config.training.num_steps = 1
    close = Checkpoints.close

    def interrupted(checkpoints):
        os.kill(os.getpid(), signal.SIGINT)
        close(checkpoints)

    monkeypatch.setattr(Checkpoints, "close", interrupted)
    assert train(tiny_config, tmp_path, preview=None)
    assert saved_steps(tmp_path) == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_command_without_steps_to_take_changes_nothing(tmp_path, tiny_config, capsys):
    tiny_config.training.num_steps = 2
    assert train(tiny_config, tmp_path, preview=None)
    config = (tmp_path / "config.json").read_bytes()
    tiny_config.training.update(num_steps=1, log_every=7)
    assert not train(tiny_config, tmp_path, preview=None)
    assert "of step 2, and config.training.num_steps is 1" in capsys.readouterr().out
    assert (tmp_path / "config.json").read_bytes() == config
    (tmp_path / "config.json").unlink()  # as the message for a damaged one asks
    assert not train(tiny_config, tmp_path, preview=None)
    assert (tmp_path / "config.json").exists()
