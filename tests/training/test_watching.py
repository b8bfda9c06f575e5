"""Held-out loss during training, and the best checkpoint by it."""

import itertools
import json
import math
import os
import re
import shutil
import time

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vdm.build import parameter_shapes
from vdm.evaluation.held_out_loss import make_held_out_loss, make_mean_held_out_loss, mean_loss
from vdm.parallel.mesh import make_mesh
from vdm.preflight import check
from vdm.training.checkpoints import load_ema, saved_steps
from vdm.training.loop import train
from vdm.training.state import make_learning_rate

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEASURED = ("steps_per_second", "input_wait_share", "process_peak_bytes", "device_peak_bytes")


@pytest.fixture(scope="module")
def config(tiny_config_of_module):
    """Learns, and then unlearns: the lowest held-out loss is neither the first nor the last."""
    config = tiny_config_of_module.copy_and_resolve_references()
    config.training.update(optimizer="adam", learning_rate=0.3, warmup_steps=2, ema_decay=0.2)
    config.training.update(num_steps=8, log_every=4, checkpoint_every=5, keep_checkpoints=1)
    config.training.update(eval_every=2, profile_steps=(1, 3))
    return config


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory, quick_compilation):
    """Keeps compiled programs for the runs of this module."""
    folder = tmp_path_factory.mktemp("compiled")
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    compilation_cache.reset_cache()


def _copy(whole, killed):
    """Copies what SIGKILL would leave, with the lock of a process that is gone."""
    while True:
        while len(names := os.listdir(whole / "checkpoints")) > 2 or "tmp" in str(names):
            time.sleep(0.01)  # saves and deletions in the background
        try:
            shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("train.lock"))
            return
        except shutil.Error:  # a checkpoint that was deleted meanwhile
            shutil.rmtree(killed)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, config):
    """The workdirs of a whole run, and of one that was killed in its evaluation of step 8."""
    whole, killed = (tmp_path_factory.mktemp("runs") / name for name in ("whole", "killed"))
    held_out_loss, calls = make_mean_held_out_loss(config, make_mesh(config)), itertools.count(1)

    def evaluate(params):
        if next(calls) == 4:
            _copy(whole, killed)
        return held_out_loss(params)

    train(config, whole, preview=None, held_out_loss=evaluate)
    return whole, killed


@pytest.fixture(scope="module")
def whole(runs):
    return runs[0]


def _logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def _losses(workdir):
    return {
        line["step"]: line["held_out_loss"] for line in _logged(workdir) if "held_out_loss" in line
    }


def _chosen(config, workdir, which):
    config = config.copy_and_resolve_references()
    config.step = which
    check(config, workdir, "export")
    return load_ema(config, workdir)


def test_it_is_the_loss_of_an_evaluation_of_that_step(config, whole):
    params, step = _chosen(config, whole, "")
    rows = make_held_out_loss(config, make_mesh(config))(params)
    assert _losses(whole)[step] == pytest.approx(mean_loss(config, rows), rel=1e-6)


def test_the_best_step_is_that_of_the_lowest_loss(config, whole):
    losses = _losses(whole)
    assert list(losses) == [2, 4, 6, 8]
    best = min(losses, key=losses.get)
    assert 2 < best < 8, losses
    assert saved_steps(whole) == [best, 8]
    params, step = _chosen(config, whole, "best")
    assert step == best
    rows = make_held_out_loss(config, make_mesh(config))(params)
    assert losses[best] == pytest.approx(mean_loss(config, rows), rel=1e-6)
    with pytest.raises(ValueError, match=f"config.step is '5', .* saved steps are {best}, 8$"):
        _chosen(config, whole, "5")


def test_a_resumed_run_logs_and_keeps_the_same(config, runs):
    whole, killed = runs
    assert [line["step"] for line in _logged(killed)] == [2, 4, 6]
    assert max(saved_steps(killed)) < 8
    held_out_loss = make_mean_held_out_loss(config, make_mesh(config))
    train(config, killed, preview=None, held_out_loss=held_out_loss)
    assert _logged(killed) == _logged(whole)
    assert saved_steps(killed) == saved_steps(whole)


def test_evaluation_changes_no_bit_of_the_training(tmp_path, config, whole):
    without = config.copy_and_resolve_references()
    without.training.eval_every = 0
    train(without, tmp_path, preview=None)
    first, second = (_chosen(config, workdir, "8")[0] for workdir in (whole, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    losses = [[line["loss"] for line in _logged(w) if "loss" in line] for w in (whole, tmp_path)]
    assert losses[0] == losses[1]


def test_logs_the_learning_rate_and_whose_memory_it_measures(config, whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    rate = make_learning_rate(config)
    for line in (line for line in lines if "loss" in line):
        assert line["learning_rate"] == float(rate(line["step"] - 1))
        on_cpu = jax.devices()[0].platform == "cpu"
        assert line["process_peak_bytes" if on_cpu else "device_peak_bytes"] > 1e8


def test_the_workdir_lists_every_parameter(config, whole):
    text = (whole / "parameters.txt").read_text()
    rows = re.findall(r"^\| (\S+) +\| \(([\d, ]+)\) +\| float32 +\| [\d,]+ +\|$", text, re.M)
    listed = {name: tuple(map(int, shape.strip(",").split(","))) for name, shape in rows}
    assert listed == parameter_shapes(config)
    total = sum(math.prod(shape) for shape in listed.values())
    assert f"Total: {total:,} " in text


def test_the_profile_has_whole_steps_and_no_compilation(config, whole):
    """Steps 1 to 3 are asked for: 1 compiles, and the trace ends at the evaluation after 2."""
    (path,) = (whole / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    assert [dict(event.stats)["step_num"] for event in events if event.name == "train"] == [2]
    assert not any("compile" in event.name.lower() for event in events)
