"""A rehearsal takes each phase of any configuration, and leaves no trace."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from vdm import preflight
from vdm.checks import validate
from vdm.data.datasets import make_data_set
from vdm.parallel.mesh import make_mesh
from vdm.planning.steps import make_step
from vdm.rehearse import rehearse
from vdm.training.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")
PHASES = (
    *("input: first batch", "initial state", "training step: compilation", "training step  "),
    *("checkpoint: save", "checkpoint: restore and compare", "preview, 2 sampler steps"),
    *("preview again", "evaluation: a batch of the held-out loss", "all  "),
)


def _hashes(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def test_a_run_beside_it_is_unchanged(tiny_config, tmp_path, capsys):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3" / "state").write_bytes(b"3")
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    before = _hashes(tmp_path)
    preflight.check(tiny_config, tmp_path, "rehearse")
    rehearse(tiny_config, tmp_path)
    assert _hashes(tmp_path) == before
    table = capsys.readouterr().out.partition("phase  ")[2]
    positions = [table.index(f"\n{name}") for name in PHASES]
    assert positions == sorted(positions)
    assert "note:" not in table and "its files are removed" in table


@pytest.mark.parametrize(
    ("condition", "num_images"), [("label", 0), ("text", 3), ("action", 0), ("action", 2)]
)
def test_zeros_have_the_shapes_of_the_planned_batch(tiny_config, condition, num_images):
    tiny_config.data.update(condition=condition, num_images=num_images, name="zeros", channels=3)
    tiny_config.model.update(
        num_classes=10 * (condition == "label"),
        text_width=8 * (condition == "text"),
        action_width=3 * (condition == "action"),
    )
    validate(tiny_config)
    batch = make_data_set(tiny_config, "train").batch(0, 4)
    _, planned = make_step(tiny_config, make_mesh(tiny_config), "train").arguments
    assert batch.keys() == planned.keys()
    for name, array in batch.items():
        assert (array.shape, array.dtype) == (planned[name].shape, planned[name].dtype)
    assert all(array.any() == name.endswith("mask") for name, array in batch.items())


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["text", "label"])
def test_conditions_without_data_or_workdir(tiny_config, condition, capsys):
    tiny_config.data.update(name="ucf101", channels=3, condition=condition, num_images=2)
    tiny_config.model.update(
        num_classes=101 * (condition == "label"), text_width=8 * (condition == "text")
    )
    tiny_config.sample.update(guidance_weight=2.0, batch_size=2)
    tiny_config.eval.protocol = "ucf101"
    with pytest.raises(ValueError, match=r"rehearse\.data=zeros rehearses without data"):
        preflight.check(tiny_config, None, "rehearse")
    tiny_config.rehearse.data = "zeros"
    preflight.check(tiny_config, None, "rehearse")
    rehearse(tiny_config, None)
    table = capsys.readouterr().out.partition("phase  ")[2]
    assert "held-out loss" in table and "note: --mode=eval would fail: " in table


def test_a_checkpoint_that_is_not_the_state_fails_and_is_removed(
    tiny_config, tmp_path, monkeypatch
):
    saved, restored = jnp.ones(3), jnp.zeros(3)
    monkeypatch.setattr("vdm.rehearse._train", lambda config, mesh, phases: saved)
    monkeypatch.setattr(Checkpoints, "save", lambda self, state: None)
    monkeypatch.setattr(Checkpoints, "restore", lambda self, state: restored)
    with pytest.raises(ArithmeticError, match="is not the one saved there"):
        rehearse(tiny_config, tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_names_a_folder_that_it_would_remove(tiny_config, tmp_path):
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"rehearsal has notes\.txt, and a rehearsal would remove"):
        preflight.check(tiny_config, tmp_path, "rehearse")


@pytest.mark.slow
def test_several_processes_rehearse_together(tiny_overrides, tmp_path):
    command = ["launch/local_processes", "2", "--config=moving_digits", "--mode=rehearse"]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}", "--config.mesh.fsdp=2", *tiny_overrides],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PATH": path},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the rehearsal is complete") == 1
    assert not (tmp_path / "run").exists()
