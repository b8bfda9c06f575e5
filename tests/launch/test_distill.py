"""Each command of launch/distill passes the checks, and the stage before it is its teacher."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from vdm.checks import validate
from vdm.configuration.resolve import resolve, split_overrides
from vdm.configuration.stored import save_run_config
from vdm.exported import export
from vdm.training.warm_start import check_warm_start

ROOT = pathlib.Path(__file__).parents[2]


def _commands(arguments, tmp_path, **environment):
    """Runs the script with a substitute for Python that records its arguments; returns them."""
    recorder, log = tmp_path / "bin" / "python", tmp_path / "commands"
    recorder.parent.mkdir()
    recorder.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    recorder.chmod(recorder.stat().st_mode | stat.S_IEXEC)
    path = f"{recorder.parent}:{os.environ['PATH']}"
    subprocess.run(
        [ROOT / "launch" / "distill", *arguments],
        env=os.environ | {"PATH": path} | environment,
        check=True,
    )
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ["guided", *(f"steps_{n}" for n in (32, 16, 8, 4, 2, 1))]),
        ({"CONFIG": "pusht", "WEIGHTS": ""}, [f"steps_{n}" for n in (32, 16, 8, 4, 2, 1)]),
    ],
)
def test_each_stage_is_taught_by_the_one_before(environment, names, tmp_path):
    teacher, stages = tmp_path / "teacher.safetensors", tmp_path / "run"
    export(teacher, {}, resolve(environment.get("CONFIG", "moving_digits"), None, {}), 1)
    commands = _commands([stages, teacher, "--config.seed=7"], tmp_path, **environment)
    found = []
    for command in commands:
        assert command[:2] == ["-m", "vdm.main"]
        rest, overrides = split_overrides(command[2:])
        options = dict(argument.removeprefix("--").split("=", 1) for argument in rest)
        workdir = pathlib.Path(options["workdir"])
        config = resolve(options.get("config"), workdir, overrides)
        validate(config)
        if options.get("mode") == "export":
            export(workdir / "model.safetensors", {}, config, 1)
            continue
        found.append(workdir.name)
        check_warm_start(config, workdir)
        assert config.training.init_from == str(teacher) and config.seed == 7
        assert config.sample.num_steps == (config.training.distill_steps or 64)
        teacher = workdir / "model.safetensors"
        workdir.mkdir(parents=True)
        save_run_config(workdir, config)
    assert found == names and config.training.distill_steps == 1
