"""The checkpoint with the lowest held-out loss: kept, found again, and never confused."""

import functools

import jax
import numpy as np
import pytest

from tests.training.random_state import random_state
from vdm.parallel.mesh import make_mesh
from vdm.training.checkpoints import Checkpoints, abstract_on, saved_steps

# Of the equal losses of steps 2 and 5, the earlier one is the best.
LOSSES = {1: 0.5, 2: 0.3, 3: None, 4: 0.4, 5: 0.3, 6: 0.6}


_state = functools.partial(random_state, size=4)


@pytest.fixture
def abstract(tiny_config):
    return abstract_on(make_mesh(tiny_config), jax.eval_shape(lambda: _state(0)))


@pytest.fixture
def workdir(tmp_path):
    """A workdir whose training was resumed before each step, and keeps two checkpoints."""
    for step, loss in LOSSES.items():
        checkpoints = Checkpoints(tmp_path, keep=2)
        earlier = [LOSSES[n] for n in range(1, step) if LOSSES[n]]
        assert loss is None or checkpoints.is_best(loss) == all(loss < other for other in earlier)
        checkpoints.save(_state(step), loss)
        checkpoints.close()
    return tmp_path


def _ema(workdir, abstract, which):
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return checkpoints.restore_ema(abstract.ema_params, which)
    finally:
        checkpoints.close()


def test_the_best_is_kept_beside_the_newest(workdir, abstract):
    assert saved_steps(workdir) == [2, 5, 6]
    for which, step in (("", 6), ("best", 2), ("5", 5)):
        params, found = _ema(workdir, abstract, which)
        assert found == step
        jax.tree.map(np.testing.assert_array_equal, params, _state(step).ema_params)
    checkpoints = Checkpoints(workdir)
    assert int(checkpoints.restore(abstract).step) == 6
    checkpoints.close()


def test_an_unknown_step_lists_those_that_exist(workdir, abstract, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.step is '4', .* saved steps are 2, 5, 6$"):
        _ema(workdir, abstract, "4")
    checkpoints = Checkpoints(tmp_path / "other")
    checkpoints.save(_state(3))
    checkpoints.close()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint has a held-out loss .* are 3$"):
        _ema(tmp_path / "other", abstract, "best")


def test_a_flipped_bit_never_chooses_another_best(workdir, abstract):
    """Over bits of the record that holds the loss, of the best checkpoint and of another."""
    generator = np.random.default_rng(0)
    outcomes = set()
    for step in (2, 5):
        path = workdir / "checkpoints" / str(step) / "digests" / "metadata"
        content = path.read_bytes()
        for position in generator.choice(len(content), 25, replace=False):
            flipped = bytearray(content)
            flipped[position] ^= 1 << generator.integers(8)
            path.write_bytes(flipped)
            try:
                outcomes.add(_ema(workdir, abstract, "best")[1])
            except OSError as error:
                assert f"of step {step} is damaged: its held-out loss" in str(error)
                outcomes.add("error")
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(OSError, match=f"of step {step} is damaged"):
            _ema(workdir, abstract, "best")
        path.write_bytes(content)
    assert outcomes == {"error"}
