"""Damaged checkpoints, and checkpoints that cannot be written."""

import functools
import os
import resource
import shutil

import jax
import numpy as np
import pytest

from tests.training.random_state import random_state
from vdm.parallel.mesh import make_mesh
from vdm.training.checkpoints import Checkpoints, abstract_on

_state = functools.partial(random_state, size=256)  # its files are large


@pytest.fixture
def abstract(tiny_config):
    return abstract_on(make_mesh(tiny_config), jax.eval_shape(lambda: _state(0)))


@pytest.fixture
def workdir(tmp_path):
    """A workdir with checkpoints of steps 5 and 10."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (5, 10):
        checkpoints.save(_state(step))
    checkpoints.close()
    return tmp_path


def _damage(workdir, step, how):
    files = [p for p in (workdir / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    for path in files:
        if how == "emptied":
            path.write_bytes(b"")
        elif path.stat().st_size > 10_000:  # a file of parameters
            if how == "truncated":
                os.truncate(path, path.stat().st_size // 2)
            elif how == "flipped":
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
            else:
                path.unlink()


@pytest.mark.parametrize("how", ["truncated", "missing", "emptied", "flipped"])
def test_restores_the_checkpoint_before_a_damaged_one(workdir, abstract, how, capsys):
    _damage(workdir, 10, how)
    reader = Checkpoints(workdir)
    _, step = reader.restore_ema(abstract.ema_params)
    reader.close()
    assert step == 5 and "the checkpoint of step 10 is damaged" in capsys.readouterr().out

    checkpoints = Checkpoints(workdir, keep=3)
    state = checkpoints.restore(abstract)
    assert int(state.step) == 5 and "of step 10 is damaged" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, state, _state(5))
    checkpoints.save(_state(10))  # the damaged one was moved aside
    checkpoints.close()
    again = Checkpoints(workdir)
    jax.tree.map(np.testing.assert_array_equal, again.restore(abstract), _state(10))
    again.close()


def test_raises_if_all_checkpoints_are_damaged(workdir, abstract):
    for step in (5, 10):
        _damage(workdir, step, "emptied")
    message = r"all checkpoints in .* are damaged: \[10, 5\]"
    with pytest.raises(OSError, match=message + "; or of another configuration, since no config"):
        Checkpoints(workdir).restore(abstract)
    (workdir / "config.json").write_text("{}")
    with pytest.raises(OSError, match=f"{message}$"):
        Checkpoints(workdir).restore(abstract)


def test_a_reader_changes_nothing(workdir, abstract):
    unfinished = workdir / "checkpoints" / "15.orbax-checkpoint-tmp" / "ema"
    unfinished.mkdir(parents=True)  # as a training beside the reader has it
    before = sorted(workdir.rglob("*"))
    reader = Checkpoints(workdir, read_only=True)
    _, step = reader.restore_ema(abstract.ema_params)
    reader.close()
    assert step == 10 and sorted(workdir.rglob("*")) == before


def test_saves_though_a_folder_of_a_later_step_is_in_the_way(workdir, abstract):
    (workdir / "checkpoints" / "999").mkdir()
    checkpoints = Checkpoints(workdir, keep=3)
    assert int(checkpoints.restore(abstract).step) == 10
    checkpoints.save(_state(15))
    checkpoints.close()
    again = Checkpoints(workdir)
    jax.tree.map(np.testing.assert_array_equal, again.restore(abstract), _state(15))
    again.close()


def test_a_checkpoint_in_the_folder_of_another_step_is_not_restored(workdir, abstract, capsys):
    shutil.copytree(workdir / "checkpoints" / "5", workdir / "checkpoints" / "20")
    checkpoints = Checkpoints(workdir, keep=3)
    state = checkpoints.restore(abstract)
    assert int(state.step) == 10 and checkpoints.steps() == [5, 10]
    checkpoints.close()
    assert "named 20, and its state is of step 5" in capsys.readouterr().out
    assert (workdir / "checkpoints" / "damaged_20").is_dir()


def test_full_disk_raises_and_keeps_the_last_good_checkpoint(workdir, abstract):
    """A limit on file sizes stands for the full disk."""
    checkpoints = Checkpoints(workdir, keep=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"a checkpoint cannot be saved in .*step 10 is kept"):
            checkpoints.save(_state(15))
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    again = Checkpoints(workdir)
    jax.tree.map(np.testing.assert_array_equal, again.restore(abstract), _state(10))
    again.close()
