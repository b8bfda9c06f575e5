"""Too little memory is one sentence that names --mode=plan and its suggestion, in every mode."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from vdm import main
from vdm.parallel.processes import Processes
from vdm.training.checkpoints import Checkpoints


def _allocate(*_, **__):
    jax.block_until_ready(jnp.zeros(2**45))


@pytest.mark.parametrize(
    ("mode", "function"),
    [
        (main.train, "vdm.training.loop.train"),
        (main.sample, "vdm.training.checkpoints.load_ema"),
        (main.evaluate, "vdm.training.checkpoints.load_ema"),
        (main.rehearse, "vdm.rehearse.make_first_state"),
    ],
)
def test_names_the_plan_and_its_suggestion(
    mode, function, tiny_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(function, _allocate)
    with pytest.raises(SystemExit) as end:
        Processes().run(partial(mode, tiny_config, tmp_path))
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: ") and "--mode=plan with the same options" in line
    assert "prints a suggestion" in line and "config.eval.batch_size for evaluation" in line


def test_a_checkpoint_that_does_not_fit_is_not_called_damaged(tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    monkeypatch.setattr(Checkpoints, "_restore", _allocate)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        checkpoints.restore_ema({})
    checkpoints.close()
    assert "damaged" not in capsys.readouterr().out
