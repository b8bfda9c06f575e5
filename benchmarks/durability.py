"""Kills trainings and damages workdirs at random, and checks that no result is wrong.

    pip install -e ".[test]"
    python benchmarks/durability.py kills --trials=100
    python benchmarks/durability.py kills --trials=20 --bucket
    python benchmarks/durability.py damage --trials=200

`kills` repeatedly sends SIGKILL to a short training at a random time, and resumes the training. In
half of the cases, a sampler runs beside the training. The final state of each run must equal the
state of a run without kills, bit for bit. The newest checkpoint must never become older. `--bucket`
puts the workdir into an emulated object store.

`damage` flips one bit of a random file of a workdir, or truncates the file at a random position. It
then trains, samples or evaluates. There are three valid outcomes: the correct result, the correct
result of the previous checkpoint, or a one-line error.

Prints and writes benchmarks/results/durability_*.json. The three commands take half an hour on two
cores.
"""

import argparse
import contextlib
import io
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from etils import epath
from measuring import ROOT, write_result

from vdm.configuration.stored import load_run_config
from vdm.files import read_record
from vdm.parallel.mesh import make_mesh
from vdm.training.checkpoints import Checkpoints, abstract_on, has_checkpoints
from vdm.training.state import state_shapes

OPTIONS = [
    *("--config.data.condition=none", "--config.data.frames=4", "--config.data.resolution=8"),
    *("--config.model.channel_multipliers=(1,)", "--config.model.attention_resolutions=(4,)"),
    *("--config.model.embedding_dim=16", "--config.model.embedding_layers=1"),
    *("--config.model.head_dim=8", "--config.model.num_classes=0", "--config.model.patch_size=2"),
    *("--config.training.batch_size=4", "--config.training.warmup_steps=0"),
    *("--config.training.decay_steps=0", "--config.training.sample_every=0"),
    *("--config.training.log_every=10", "--config.sample.batch_size=4"),
    *("--config.sample.num_steps=2", "--config.sample.num_videos=4"),
    *("--config.eval.batch_size=4", "--config.eval.num_videos=6"),
]
KILLED_STEPS, KILLED_EVERY = 40, 4  # steps of a run, and between its checkpoints
DAMAGED_STEPS, DAMAGED_EVERY, RESUMED_STEPS = 20, 10, 30


class Commands:
    """Commands of vdm.main, with a shared compilation cache."""

    def __init__(self, cache: pathlib.Path, environment: dict[str, str]) -> None:
        self._environment = os.environ | environment
        self._environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        self._environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def start(self, workdir, mode: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "vdm.main", f"--workdir={workdir}", f"--mode={mode}"]
        return subprocess.Popen(
            [*command, *options],
            env=self._environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments) -> tuple[int, str]:
        """Returns the exit status and the output."""
        process = self.start(*arguments)
        output, _ = process.communicate()
        return process.returncode, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "damage"])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--bucket", action="store_true", help="the workdir is in an object store")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder, _store(arguments.bucket) as (root, environment):
        folder = pathlib.Path(folder)
        commands = Commands(folder / "cache", environment)
        if arguments.what == "kills":
            result = kills(commands, folder, root or epath.Path(folder), arguments.trials, draw)
        else:
            result = damage(commands, folder, arguments.trials, draw)
    name = arguments.what + ("_bucket" if arguments.bucket else "")
    write_result(f"durability_{name}", vars(arguments) | result)
    sys.exit(bool(result["wrong"]))


@contextlib.contextmanager
def _store(is_bucket: bool):
    """Yields (root, environment) of an emulated bucket; (None, {}) without one."""
    if not is_bucket:
        yield None, {}
        return
    sys.path.insert(0, str(ROOT))
    from tests import object_store
    from vdm.files import as_path

    with object_store.bucket("runs") as environment:
        os.environ.update(environment)
        yield as_path("gs://runs"), environment


def kills(commands, folder, root, trials, draw) -> dict:
    """Returns the counts of kills, of runs that ended, and of wrong results."""
    options = [*OPTIONS, f"--config.training.num_steps={KILLED_STEPS}"]
    options += [f"--config.training.checkpoint_every={KILLED_EVERY}", "--config=moving_digits"]
    for name in ("compiled", "reference"):
        training = commands.start(root / name, "train", *options)
        _wait_until_it_trains(training)
        start = time.monotonic()
        output, _ = training.communicate()
        assert training.returncode == 0, output
    whole_seconds = time.monotonic() - start
    reference = _state(root / "reference")
    result = {"kills": 0, "runs": 0, "samplers": 0, "samplers_that_sampled": 0, "wrong": []}
    workdir, newest = root / "run_0", -1
    while result["kills"] < trials or newest >= 0:
        is_last = result["kills"] >= trials
        training = commands.start(workdir, "train", *options)
        sampler, start = None, time.monotonic()
        seconds = 3600.0 if is_last else draw.uniform(0, whole_seconds)
        if newest >= 0 and draw.random() < 0.5:
            sampler = commands.start(workdir, "sample")
        if draw.random() < 0.9:
            _wait_until_it_trains(training)
        try:
            output, _ = training.communicate(timeout=seconds)
            if training.returncode:
                result["wrong"].append({"training": output[-500:]})
        except subprocess.TimeoutExpired:
            training.kill()
            training.communicate()
            result["kills"] += 1
        if sampler is not None:
            output, _ = sampler.communicate()
            result["samplers"] += 1
            result["samplers_that_sampled"] += sampler.returncode == 0
            if sampler.returncode:
                result["wrong"].append({"sampler": output[-500:]})
        steps = _steps(workdir)
        found = max(steps, default=-1)
        if found < newest:
            result["wrong"].append({"lost": f"step {newest} became {found}"})
        newest = found
        print(
            f"{result['kills']} kills: {time.monotonic() - start:.1f} s, step {newest}", flush=True
        )
        if newest == KILLED_STEPS and training.returncode == 0:
            result["runs"] += 1
            if not _equal(_state(workdir), reference):
                result["wrong"].append({"state": str(workdir)})
            workdir, newest = root / f"run_{result['runs']}", -1
    return result


def _wait_until_it_trains(training: subprocess.Popen) -> None:
    """Reads the output until the compilation of the step, which follows the start-up."""
    assert training.stdout is not None
    for line in training.stdout:
        if line.startswith("compiling"):
            return


def damage(commands, folder, trials, draw) -> dict:
    """Returns the counts of outcomes by command, and the wrong results."""
    whole = folder / "whole"
    training = ["train", f"--config.training.checkpoint_every={DAMAGED_EVERY}"]
    steps = "--config.training.num_steps={}".format
    for arguments in (
        [*training, steps(DAMAGED_EVERY), "--config=moving_digits", *OPTIONS],
        ["sample"],
        ["export"],
    ):
        status, output = commands.run(whole, *arguments)
        assert status == 0, output
    older = _outcome(whole, "sample")
    for arguments in ([*training, steps(DAMAGED_STEPS)], ["sample"], ["eval"]):
        status, output = commands.run(whole, *arguments)
        assert status == 0, output
    pristine = folder / "pristine"
    shutil.copytree(whole, pristine)
    exported = f"--config.checkpoint={whole}/model.safetensors"
    modes = {
        "train": [*training, steps(RESUMED_STEPS)],
        "sample": ["sample"],
        "eval": ["eval"],
        "sample exported": ["sample", exported],
    }
    allowed = {}
    for name, arguments in modes.items():
        _restore(pristine, whole)
        status, output = commands.run(whole, *arguments)
        assert status == 0, output
        allowed[name] = [_outcome(whole, arguments[0])]
    allowed["sample"].append(older)
    files = [path.relative_to(pristine) for path in pristine.rglob("*") if path.is_file()]
    counts: dict[str, dict[str, int]] = {}
    wrong = []
    for trial in range(trials):
        path = draw.choice(sorted(files))
        name = _reader(path, draw)
        _restore(pristine, whole)
        what = _damage(whole / path, draw)
        status, output = commands.run(whole, *modes[name])
        lines = output.strip().splitlines()
        if status:
            outcome = "sentence" if lines and lines[-1].startswith("error: ") else "traceback"
            if "Traceback" in output:
                outcome = "traceback"
        else:
            found = _outcome(whole, modes[name][0])
            equal = [index for index, right in enumerate(allowed[name]) if _equal(found, right)]
            outcome = ["the same", "the older"][equal[0]] if equal else "another result"
        if outcome in ("traceback", "another result"):
            wrong.append(
                {"file": str(path), "damage": what, "command": name, "output": output[-800:]}
            )
        counts.setdefault(name, {}).setdefault(outcome, 0)
        counts[name][outcome] += 1
        print(f"{trial + 1}: {name}, {path}, {what}: {outcome}", flush=True)
    return {"files": len(files), "outcomes": counts, "wrong": wrong}


def _reader(path: pathlib.Path, draw: random.Random) -> str:
    """Returns a command that reads a file of a workdir."""
    if path.name == "model.safetensors":
        return "sample exported"
    if path.parts[0] == "eval":
        return "eval"
    return draw.choice(["train", "sample"])


def _damage(path: pathlib.Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    if not content or draw.random() < 0.5:
        length = draw.randrange(len(content)) if content else 0
        path.write_bytes(content[:length])
        return f"cut at {length} of {len(content)}"
    position, bit = draw.randrange(len(content)), draw.randrange(8)
    content[position] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {position}"


def _restore(pristine: pathlib.Path, whole: pathlib.Path) -> None:
    shutil.rmtree(whole)
    shutil.copytree(pristine, whole)


def _outcome(workdir: pathlib.Path, mode: str):
    """Returns what a command has produced, as arrays."""
    if mode == "train":
        return _state(workdir)
    if mode == "eval":
        record = read_record(next((workdir / "eval").glob("*.json")))
        return np.frombuffer(repr(sorted(record.items())).encode(), np.uint8)
    with np.load(io.BytesIO((workdir / "samples" / "samples.npz").read_bytes())) as samples:
        return samples["video"]


def _state(workdir):
    """Returns the newest state of a workdir, as arrays."""
    config = load_run_config(workdir)
    abstract = abstract_on(make_mesh(config), state_shapes(config))
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return jax.tree.map(np.asarray, checkpoints.restore(abstract))
    finally:
        checkpoints.close()


def _steps(workdir) -> list[int]:
    if not has_checkpoints(workdir):
        return []
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return checkpoints.steps()
    finally:
        checkpoints.close()


def _equal(first, second) -> bool:
    leaves = [jax.tree.leaves(tree) for tree in (first, second)]
    return len(leaves[0]) == len(leaves[1]) and all(
        np.array_equal(a, b) for a, b in zip(*leaves, strict=True)
    )


if __name__ == "__main__":
    main()
