"""Trackers, read back by the readers of each format, after a run that was killed and resumed."""

import json
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vdm.training.trackers.interface import Clip, Tracker
from vdm.training.trackers.jsonl import JsonLines
from vdm.training.trackers.run import open_trackers
from vdm.training.trackers.wandb import check_installed
from vdm.video.display import gif_bytes

GIF = gif_bytes(np.zeros((2, 4, 6, 1), np.uint8), scale=1)
CLIP = Clip(GIF, 4, 6, caption="video 0: label 7")


def _log(tracker: Tracker, steps):
    for step in steps:
        tracker.scalars(step, {"loss": 1 / step, "grad_norm": 2.0 * step})
    tracker.clip(steps[-1], "samples", CLIP)


@pytest.fixture
def workdir(tmp_path, tiny_config):
    """A workdir whose first run logged steps 1 to 4, and whose second resumed from step 2."""
    with open_trackers(tiny_config, tmp_path, 0, enabled=True) as trackers:
        trackers.text(0, "parameters", "a table")
        _log(trackers, range(1, 5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # the first run was killed while it wrote
    with open_trackers(tiny_config, tmp_path, 2, enabled=True) as trackers:
        _log(trackers, range(3, 7))
    return tmp_path


def test_metrics_have_each_step_once(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": n, "loss": 1 / n, "grad_norm": 2.0 * n} for n in range(1, 7)]


def test_a_last_line_without_its_end_is_not_joined_to_the_next(tmp_path, tiny_config):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}')
    with open_trackers(tiny_config, tmp_path, 1, enabled=True) as trackers:
        trackers.scalars(2, {"loss": 0.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
def test_a_full_disk_names_metrics_jsonl(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", 0)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        OSError, match=r"metrics\.jsonl cannot be written: No space left on device$"
    ):
        lines.scalars(1, {"loss": 1.0})


def test_a_full_disk_names_the_events_of_tensorboard(tmp_path, tiny_config, capfd):
    """Once, without the traceback of a thread, and the events before remain."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = r"^\S+/tensorboard/events\.out\.tfevents\.\S+ cannot be written: File too large$"
    gif = GIF + bytes(20_000)  # larger than metrics.jsonl
    try:
        with (
            pytest.raises(OSError, match=message),
            open_trackers(tiny_config, tmp_path, 0, enabled=True) as trackers,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
            trackers.scalars(1, {"loss": 1.0})
            trackers.clip(1, "samples", Clip(gif, 4, 6, ""))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any("Traceback" in text for text in capfd.readouterr())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss")] == [1.0]


def test_tensorboard_reads_scalars_texts_and_videos(workdir):
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("grad_norm")]
    assert scalars == [(n, 2.0 * n) for n in range(1, 7)]
    image = events.Images("samples")[-1]
    assert (image.step, image.height, image.width) == (6, 4, 6)
    assert image.encoded_image_string == GIF
    texts = {
        name: [tensor.tensor_proto.string_val[0].decode() for tensor in events.Tensors(name)]
        for name in events.Tags()["tensors"]
    }
    assert texts["samples/text_summary"][-1] == CLIP.caption
    assert texts["parameters/text_summary"] == ["a table"]


def test_other_processes_write_nothing(tmp_path, tiny_config):
    with open_trackers(tiny_config, tmp_path, 0, enabled=False) as trackers:
        _log(trackers, range(1, 3))
    assert not list(tmp_path.iterdir())


def test_weights_and_biases_resumes_its_run_without_a_network(tmp_path, tiny_config, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb, an extra, is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tiny_config.training.wandb_project = "tests"
    for first, steps in ((0, range(1, 5)), (2, range(3, 7))):
        with open_trackers(tiny_config, tmp_path, first, enabled=True) as trackers:
            _log(trackers, steps)
            assert wandb.run.config["training"]["wandb_project"] == "tests"
        time.sleep(1.1)  # the names of its folders have seconds
    name = (tmp_path / "wandb_id.txt").read_text().strip()
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(f"-{name}") for folder in folders)
    for folder in folders:
        assert b"grad_norm" in (folder / f"run-{name}.wandb").read_bytes()
        assert {path.read_bytes() for path in folder.rglob("*.gif")} == {GIF}


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed("")
    with pytest.raises(ValueError, match=r"wandb_project is 'p', and needs .* pip install"):
        check_installed("p")
