"""Two processes compute what one does, and both end when one is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vdm import main
from vdm.checks import validate
from vdm.data.batches import Batches
from vdm.data.clips import ClipDataSet
from vdm.data.folder.videos import FolderVideos
from vdm.exported import load_exported
from vdm.parallel.processes import Processes
from vdm.training.checkpoints import saved_steps
from vdm.video.display import gif_bytes, mp4_bytes
from vdm.video.index import index_folder

# One launch for all modes: these tests spend their time on start-up and compilation.
ALL_MODES = """
import json, pathlib, sys
import ml_collections
from vdm import main
from vdm.parallel.processes import ConnectOptions, Processes

config, workdir, coordinator, process_id = sys.argv[1:]
processes = Processes()
processes.connect(ConnectOptions(coordinator, 2, int(process_id)), preemptible=True)
config = json.loads(config)
for name, value in config["model"].items():
    config["model"][name] = tuple(value) if isinstance(value, list) else value
config = ml_collections.ConfigDict(config)
for mode in (main.train, main.sample, main.evaluate, main.export):
    mode(config, pathlib.Path(workdir))
processes.finish()
"""


def _coordinator():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def _start(*arguments):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles faster
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _start_training(workdir, overrides):
    coordinator = _coordinator()
    arguments = ["-m", "vdm.main", "--config=configs/moving_digits.py", f"--workdir={workdir}"]
    arguments += ["--mode=train", f"--coordinator={coordinator}", "--num_processes=2", *overrides]
    arguments += ["--heartbeat_timeout=10", "--config.mesh.fsdp=2"]
    return [_start(*arguments, f"--process_id={index}") for index in range(2)]


def _wait_for_checkpoint(workdir, processes, after=-1):
    deadline = time.monotonic() + 300
    while max(_steps(workdir), default=-1) <= after:
        for process in processes:
            assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.05)


def _steps(workdir):
    return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]


@pytest.fixture(scope="module")
def config(tiny_config_of_module):
    config = tiny_config_of_module
    config.training.update(num_steps=20, log_every=1, checkpoint_every=10, optimizer="adam")
    config.training.update(eval_every=10, sample_every=20)
    config.eval.update(log_snr_bins=1, num_videos=4, shard_size=2)
    validate(config)
    return config


@pytest.fixture(scope="module")
def by_one(tmp_path_factory, config):
    """The workdir of a run in this process."""
    workdir = tmp_path_factory.mktemp("one")
    jax.config.update("jax_disable_most_optimizations", True)
    for mode in (main.train, main.sample, main.evaluate, main.export):
        mode(config, workdir)
    jax.config.update("jax_disable_most_optimizations", False)
    return workdir


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, config):
    """The workdir of a run in two processes, with sharded parameters."""
    workdir = tmp_path_factory.mktemp("two")
    config = config.copy_and_resolve_references()
    config.mesh.fsdp = 2
    coordinator, settings = _coordinator(), json.dumps(config.to_dict())
    processes = [_start("-c", ALL_MODES, settings, workdir, coordinator, i) for i in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "step 20/20" in outputs[0] and "step 20/20" not in outputs[1]
    return workdir


def _logged(workdir, name="loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    return [line[name] for line in lines if name in line]


@pytest.mark.slow
def test_losses_equal_those_of_one_process(by_one, by_two):
    np.testing.assert_allclose(_logged(by_two), _logged(by_one), rtol=1e-5)
    held_out = [_logged(workdir, "held_out_loss") for workdir in (by_one, by_two)]
    assert len(held_out[0]) == 2
    np.testing.assert_allclose(*held_out, rtol=1e-4)
    assert saved_steps(by_one) == saved_steps(by_two)


@pytest.mark.slow
def test_weights_equal_those_of_one_process(by_one, by_two):
    weights = [load_exported(path / "model.safetensors") for path in (by_one, by_two)]
    kernels = [tree["middle_0"]["residual"]["conv_2"]["conv"]["kernel"] for tree in weights]
    np.testing.assert_allclose(*kernels, atol=1e-4)


@pytest.mark.slow
def test_samples_of_the_same_weights_equal_those_of_one_process(by_two, config):
    """One process with replicated parameters reads the sharded checkpoint."""
    by_two_processes = np.load(by_two / "samples" / "samples.npz")["video"].astype(int)
    main.sample(config, by_two)
    by_this_process = np.load(by_two / "samples" / "samples.npz")["video"].astype(int)
    np.testing.assert_allclose(by_two_processes, by_this_process, atol=1)  # one uint8 level


@pytest.mark.slow
def test_evaluation_equals_that_of_one_process(by_one, by_two):
    one, two = (json.loads(next((p / "eval").glob("*.json")).read_text()) for p in (by_one, by_two))
    losses = [[row["loss"] for row in r["held_out_loss"]["bins"]] for r in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-3)  # the weights differ by rounding
    assert two["protocol"]["videos"] == one["protocol"]["videos"]
    assert one["digit_persistence"]["real"] == two["digit_persistence"]["real"]


@pytest.mark.slow
def test_sigterm_saves_and_sigkill_of_one_process_ends_the_other(tmp_path, tiny_overrides):
    overrides = [
        *tiny_overrides,
        "--config.training.num_steps=100000",
        "--config.training.optimizer=adam",
        "--config.training.checkpoint_every=4",
    ]
    processes = _start_training(tmp_path, overrides)
    _wait_for_checkpoint(tmp_path, processes)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    print(f"SIGTERM: out in {time.monotonic() - start:.1f} s")
    assert [process.returncode for process in processes] == [75, 75], outputs
    saved = max(_steps(tmp_path))
    assert f"preempted: step {saved} is saved" in outputs[0].splitlines()[-1]

    processes = _start_training(tmp_path, overrides)
    _wait_for_checkpoint(tmp_path, processes, after=saved)
    processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    output = processes[0].communicate(timeout=120)[0]
    processes[1].communicate()
    print(f"SIGKILL of the other: out in {time.monotonic() - start:.1f} s")
    assert f"from step {saved} to" in output
    assert processes[0].returncode not in (0, None)
    assert "another process was lost" in output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process_id=1", "--num_processes=2"], "cannot be reached in 2 s"),
        (["--process_id=0", "--num_processes=2"], "not all processes connected"),
        (["--num_processes=2"], "--process_id"),
    ],
)
def test_prints_that_processes_cannot_connect(tmp_path, arguments, message):
    arguments = [f"--coordinator={_coordinator()}", "--connect_timeout=2", *arguments]
    process = _start(
        *("-m", "vdm.main", "--config=configs/moving_digits.py", f"--workdir={tmp_path / 'none'}"),
        *arguments,
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode not in (0, None)
    assert message in output.strip().splitlines()[-1]
    assert not (tmp_path / "none").exists()


def test_commands_compute_in_32_bits():
    jax.config.update("jax_enable_x64", True)
    Processes()
    assert not jax.config.jax_enable_x64


def test_a_second_ctrl_c_ends_a_run_whose_other_threads_work():
    """As in the first compilation, which has no result to wait for and takes minutes."""
    code = """
import concurrent.futures, itertools, time
import jax
from vdm.parallel.processes import Processes
def compile():
    for number in itertools.count():
        jax.jit(lambda x: x + number).lower(1.0).compile()
def work():
    with concurrent.futures.ThreadPoolExecutor() as executor:
        executor.submit(compile)
        print("started", flush=True)
        try:
            time.sleep(300)
        finally:
            print("interrupted once", flush=True)
Processes().run(work)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in ("started", "interrupted once"):
            assert process.stdout.readline() == f"{line}\n"
            time.sleep(1)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "error: interrupted\n")


def test_prints_that_the_port_is_taken(tmp_path):
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        listener.listen()
        port = listener.getsockname()[1]
        process = _start(
            *("-m", "vdm.main", "--config=moving_digits", f"--workdir={tmp_path / 'none'}"),
            *(f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=0"),
        )
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert f"process 0 cannot listen on port {port} of" in output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "error", [RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"), MemoryError()]
)
def test_prints_what_helps_against_too_little_memory(error, capsys):
    def work():
        raise error

    with pytest.raises(SystemExit) as end:
        Processes().run(work)
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: ") and "--mode=plan" in line


@pytest.mark.parametrize("kind", ["mp4", "gif", "npz"])
@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_video_that_changes_during_training_is_one_line(kind, change, tmp_path, capsys):
    path = tmp_path / f"video.{kind}"
    frames = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    if kind == "npz":
        np.savez(path, video=frames)
    else:
        path.write_bytes({"mp4": mp4_bytes, "gif": gif_bytes}[kind](frames))
    index = index_folder(tmp_path, save=False)
    reader = FolderVideos(index, (path.name,), {}, {}, ())
    clips = ClipDataSet(reader, seed=0, frames=16, resolution=8)

    def work():
        path.unlink()
        if change == "replaced":
            path.write_bytes(b"no video" * 100)
        with Batches(clips, range(1), 1, num_workers=1, prefetch=1) as batches:
            batches.next()

    with pytest.raises(SystemExit) as end:
        Processes().run(work)
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path} ")
