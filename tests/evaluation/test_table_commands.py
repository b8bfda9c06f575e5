"""Each command of launch/tables: its configuration, its checks, and a run at miniature size."""

import dataclasses
import json
import os
import pathlib
import stat
import subprocess
import sys

import numpy as np
import pytest

from vdm.checks import check_task, validate
from vdm.configuration.resolve import resolve, split_overrides
from vdm.configuration.stored import save_run_config
from vdm.evaluation import protocol
from vdm.evaluation.paper_tables import TABLES
from vdm.evaluation.report import evaluate_to_folder
from vdm.evaluation.tables import load_results, rows_of
from vdm.metrics.protocols import PROTOCOLS
from vdm.training.checkpoints import load_ema
from vdm.training.loop import train

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "launch" / "tables").iterdir())
# The rows of ours that a script leaves in each table.
ROWS = {
    "table_1": {"Table 1": 3},
    "table_2": {"Table 2": 4},
    "table_3": {"Table 3": 3},
    "table_4": {"Table 4": 3},
    "tables_5_and_6": {"Table 5": 6, "Table 6": 4},
    "figure_4": {},
}


def _commands(script, workdir, tmp_path):
    """Runs a script with a substitute for Python that records its arguments; returns them."""
    recorder = tmp_path / "bin" / "python"
    recorder.parent.mkdir()
    log = tmp_path / "commands"
    recorder.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    recorder.chmod(recorder.stat().st_mode | stat.S_IEXEC)
    videos = ["VIDEOS"] if "WORKDIR VIDEOS" in (ROOT / "launch/tables" / script).read_text() else []
    subprocess.run(
        [ROOT / "launch" / "tables" / script, workdir, *videos, "--config.seed=7"],
        env=os.environ | {"PATH": f"{recorder.parent}:{os.environ['PATH']}"},
        check=True,
    )
    return [json.loads(line) for line in log.read_text().splitlines()]


def _runs(commands):
    """Yields (mode, workdir, configuration) of each command of vdm.main."""
    for module, *arguments in (command[1:] for command in commands):
        if module != "vdm.main":
            continue
        rest, overrides = split_overrides(arguments)
        options = dict(argument.removeprefix("--").split("=", 1) for argument in rest)
        workdir, mode = pathlib.Path(options["workdir"]), options.get("mode", "train")
        config = resolve(options.get("config"), workdir, overrides)
        if mode == "train":
            workdir.mkdir(parents=True, exist_ok=True)
            save_run_config(workdir, config)
        yield mode, workdir, config


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_commands_pass_the_checks(script, tmp_path):
    commands = _commands(script, tmp_path / "run", tmp_path)
    runs = list(_runs(commands))
    for mode, _, config in runs:
        validate(config)
        assert config.seed == 7  # options reach every command
        if mode == "eval":
            check_task(config)
            assert protocol.protocol_of(config).name == config.eval.protocol
    evaluations = [config.to_json_best_effort() for mode, _, config in runs if mode == "eval"]
    assert len(set(evaluations)) == len(evaluations)
    encoding = [command for command in commands if "vdm.data.encode_text" in command]
    assert all("--config.seed=7" in command for command in encoding)
    assert len(encoding) == (script in ("table_4", "tables_5_and_6"))
    modules = [command[1] for command in commands]
    assert modules[-1] == f"vdm.evaluation.{'figure4' if script == 'figure_4' else 'tables'}"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_each_row_of_the_papers_models_has_a_command(table, tmp_path):
    """Results of the scripts' evaluations have the settings of the paper's rows, in its columns."""
    results = []
    for script in (name for name in SCRIPTS if table.name[-1] in name and name != "figure_4"):
        (tmp_path / script).mkdir()
        for mode, _, config in _runs(_commands(script, tmp_path / "run", tmp_path / script)):
            if mode == "eval":
                found = protocol.protocol_of(config).to_dict()
                results.append({"protocol": found, "config": config.to_dict(), "path": tmp_path})
    columns = slice(1, 1 + len(table.settings))
    theirs = [tuple(row[columns]) for row in table.rows if row[0].startswith("Video Diffusion")]
    ours = [tuple(row[columns]) for row in rows_of(table, results)[len(table.rows) :]]
    assert theirs and not set(theirs) - set(ours)
    made_by = {(r["protocol"]["name"], r["config"]["eval"]["baseline"]) for r in results}
    special = {
        "Table 1": [("real data at 64x64", "60.2", ("ucf101", "train_videos"))],
        "Table 3": [("with replacement", "16.9", ("kinetics600_with_replacement", ""))],
    }
    for label, number, command in special.get(table.name, ()):
        assert [number in row for row in table.rows if label in row[0]] == [True]
        assert command in made_by


class Features:
    """Small features of any network, and probabilities of four classes."""

    digest, min_frames, has_classes = "none", 1, True

    def __call__(self, videos):
        features = videos.reshape(len(videos), -1)[:, :12].reshape(len(videos), 3, 4).mean(2)
        odds = np.exp(np.pad(features / 64, ((0, 0), (0, 1))))
        return {"features": features, "probabilities": odds / odds.sum(1, keepdims=True)}


def _miniature(config):
    """Changes a configuration of the paper to moving digits of 4 frames, and a tiny network."""
    config.data.update(name="moving_digits", tfds_config="", frames=4, resolution=8, channels=1)
    config.data.update(augment_flip=False, text_encoder="words", num_workers=1, text_tokens=4)
    config.model.update(base_channels=8, channel_multipliers=(1,), blocks_per_resolution=1)
    config.model.update(attention_resolutions=(4,), head_dim=8, embedding_dim=8, patch_size=2)
    config.model.update(embedding_layers=1, text_width=6 if config.data.condition == "text" else 0)
    config.model.update(num_classes=0, dtype="float32")
    config.training.update(num_steps=1, warmup_steps=0, batch_size=2, sample_every=0)
    config.training.update(checkpoint_every=1, log_every=1)
    config.sample.update(num_steps=1, batch_size=10)
    config.predict.num_given = min(config.predict.num_given, 2)
    config.extend.update(num_frames=6, overlap=2, stride=2)
    config.eval.update(batch_size=4)
    return config


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation_once")
@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "figure_4"])
def test_the_commands_run_at_miniature_size(script, tmp_path, monkeypatch):
    monkeypatch.setattr(
        protocol, "make_extractors", lambda p: {name: Features() for name in p.networks}
    )
    for name, full in list(PROTOCOLS.items()):
        given = min(full.frames_given, 2)
        small = {"num_real": 10, "num_generated": 10, "resolution": 8, "frames_given": given}
        if full.table:
            frames = {64: 6, 16: 4}[full.frames]
            small |= {"frames": frames, "samples_per_given": 1, "dataset": "moving_digits"}
            small |= {"splits": tuple("test" if s == "only_train" else s for s in full.splits)}
            monkeypatch.setitem(PROTOCOLS, name, dataclasses.replace(full, **small))
    channels = {}  # of the model whose results these stand for
    for mode, workdir, config in _runs(_commands(script, tmp_path / "run", tmp_path)):
        channels.setdefault(workdir, config.model.base_channels)
        config = _miniature(config)
        if mode == "train":
            train(config, workdir, preview=None)  # replaces the configuration of the workdir
        else:
            weights = ({}, 0) if config.eval.baseline else load_ema(config, workdir)
            evaluate_to_folder(config, *weights, workdir / "eval")
    results = load_results([tmp_path / "run"])
    for result in results:
        workdir = next(path for path in channels if path in result["path"].parents)
        result["config"]["model"]["base_channels"] = channels[workdir]
    for table in TABLES:
        ours = [row for row in rows_of(table, results) if str(tmp_path) in row[0]]
        assert len(ours) == ROWS[script].get(table.name, 0), table.name
        assert all("not run" not in cell for row in ours for cell in row)
