"""Ctrl-C and a closed output end commands as docs/troubleshooting.md says, without traceback."""

import importlib
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vdm.configuration.command_line import parse

TABLES = [sys.executable, "-m", "vdm.evaluation.tables"]
# {module: (a function that works, arguments of the command)}.
COMMANDS = {
    "vdm.data.encode_text": ("encode_data_set", []),
    "vdm.data.prepare": ("prepare_pusht", ["pusht"]),
    "vdm.demo.__main__": ("parse", []),
    "vdm.evaluation.digit_network": ("train_digit_network", []),
    "vdm.evaluation.tables": ("load_results", ["runs"]),
    "vdm.gallery": ("write_gallery", []),
    "vdm.hub.__main__": ("push", ["push", "model.safetensors", "OWNER/NAME"]),
    "vdm.metrics.import_weights": ("import_weights", ["--network=i3d", "--path=weights"]),
}


@pytest.mark.parametrize("module", COMMANDS)
def test_an_interruption_is_one_line(module, monkeypatch, tmp_path, capsys):
    command, (name, arguments) = importlib.import_module(module), COMMANDS[module]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, name, interrupted)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    if module == "vdm.data.encode_text":
        flags = SimpleNamespace(FLAGS=SimpleNamespace(batch_size=1))
        monkeypatch.setattr(command, "flags", flags)
    with pytest.raises(SystemExit) as stopped:
        command.main(*[] if module.endswith("import_weights") else [arguments])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_interrupted_download_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vdm.hub.download.pull", interrupted)
    with pytest.raises(SystemExit) as stopped:
        parse(["vdm", "--config.checkpoint=hf://OWNER/NAME"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_signal_to_a_process_that_reads(tmp_path):
    os.mkfifo(tmp_path / "result.json")  # which nobody writes: reading it waits
    process = subprocess.Popen([*TABLES, tmp_path], stderr=subprocess.PIPE, text=True)
    with (tmp_path / "result.json").open("w"):  # waits until the process has opened it, too
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and printed == "error: interrupted\n"


def test_an_output_that_is_closed_needs_no_message():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(TABLES, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""
