"""Every command on every page: parsed, resolved and checked; and, slowly, run at two steps.

Commands on data sets that have to be downloaded, for other hardware and of other programs are
checked alone. tests/evaluation/test_table_commands.py runs the paper's evaluations at miniature
size.
"""

import os
import pathlib
import re
import shlex

import numpy as np
import pytest
from absl import flags

from configs.moving_digits import get_config
from vdm import gallery, main, preflight
from vdm.checks import check_task, validate
from vdm.configuration.resolve import resolve, split_overrides
from vdm.configuration.stored import save_run_config
from vdm.data import encode_text, prepare
from vdm.data.datasets import check_name
from vdm.demo import __main__ as demo
from vdm.evaluation import figure4, tables
from vdm.hub import __main__ as hub
from vdm.metrics import __main__ as metrics
from vdm.metrics import import_weights
from vdm.training.checkpoints import load_ema

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
CARDS = sorted((ROOT / "checkpoints").glob("*.md"))
EXTRAS = set(re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
LAUNCHERS = {"launch/local_processes": 1, "launch/slurm.sbatch": 0}  # arguments before vdm.main's
RESOLVED = {
    "vdm.main": None,
    "vdm.evaluation.figure4": figure4,
    "vdm.data.encode_text": encode_text,
}
PARSED = {
    "vdm.demo": demo.parse,
    "vdm.gallery": gallery.parse,
    "vdm.hub": hub.parse,
    "vdm.data.prepare": lambda argv: prepare._parser().parse_args(argv),
    "vdm.metrics": metrics.parse,
    # Its exit status is 2 if the arguments are invalid, and 1 if the folder has no result.
    "vdm.evaluation.tables": tables.main,
}

SHORT = {
    "training.num_steps": "2",
    "training.warmup_steps": "0",
    "training.decay_steps": "0",
    "training.batch_size": "2",
    "training.sample_every": "0",
    "sample.num_videos": "2",
    "sample.batch_size": "2",
    "sample.num_steps": "2",
    "sample.per_example": "1",
    "eval.num_videos": "4",
    "eval.batch_size": "2",
    "eval.log_snr_bins": "2",
}
SMALL = {
    "data.resolution": "12",
    "model.base_channels": "8",
    "model.channel_multipliers": "(1,)",
    "model.attention_resolutions": "()",
    "model.head_dim": "8",
    "model.embedding_dim": "8",
    "model.embedding_layers": "1",
}


def commands_of(text):
    """Returns the commands in the code blocks of a page, as lists of arguments."""
    lines, language = [], None  # of the open fence
    for line in text.splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language in ("", "bash", "sh"):
            lines.append(line)
        elif language is None and line.startswith("    "):
            lines.append(line[4:])
    lines = "\n".join(lines).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        if re.match(r"(\w+=\S+ )*(python|pip|launch/|sbatch|\. |python3|export)", line):
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                found.append(words)
    return found


def main_arguments(words):
    """Returns the module and arguments of a command of vdm, ('', []) of another."""
    if words[:1] == ["sbatch"]:
        words = words[1:]
    if words and words[0] in LAUNCHERS:
        return "vdm.main", words[1 + LAUNCHERS[words[0]] :]
    if words[:2] == ["python", "-m"] and words[2].startswith("vdm."):
        return words[2], words[3:]
    return "", []


class Placeholders:
    """Replaces the names of a user's files and folders by existing ones in a temporary folder."""

    def __init__(self, folder):
        self.folder = folder
        self.runs = 0
        self.workdirs = {}
        for label in ("a", "b"):
            (folder / "videos" / label).mkdir(parents=True)
            for index in range(8):
                noise = np.random.default_rng(index).integers(256, size=(16, 16, 16, 3))
                np.savez(folder / "videos" / label / f"{index}.npz", video=noise.astype(np.uint8))
        np.savez(folder / "clip.npz", video=np.zeros((16, 16, 16, 3), np.uint8))

    def workdir(self, name, *, is_new):
        """Returns the folder of a workdir on a page; another one for each new run."""
        if is_new or name not in self.workdirs:
            self.runs += 1
            self.workdirs[name] = self.folder / f"run_{self.runs}"
        return self.workdirs[name]

    def replace(self, arguments):
        """Returns the options of a command by name, and its overrides."""
        arguments = [
            each
            for argument in arguments
            for each in (("--config=moving_digits",) if argument == "..." else (argument,))
        ]
        rest, overrides = split_overrides(arguments)
        options = dict(argument.removeprefix("--").partition("=")[::2] for argument in rest)
        if options.get("config") in ("FILE", "NAME"):
            options["config"] = "moving_digits"
        values = {"VIDEOS": "videos", "CLIP": "clip.npz", "PATH": "videos"}
        for field, text in overrides.items():
            if text in values:
                overrides[field] = str(self.folder / values[text])
            elif text.endswith("FILE") or text.startswith(("runs/", "hf://")):
                overrides[field] = "moving_digits"  # the shipped model
            elif text.startswith("checkpoints/"):
                overrides[field] = str(ROOT / text)
        return options, overrides


def resolved(options, overrides, placeholders, *, new_run):
    """Returns the mode, the workdir and the configuration of a command of vdm.main."""
    mode = options.get("mode", "train")
    workdir = None
    if "workdir" in options:
        is_new = mode == "train" and "config" in options
        workdir = placeholders.workdir(options["workdir"], is_new=is_new)
        if "config" not in options and "checkpoint" not in overrides and not workdir.exists():
            new_run(workdir)
    return mode, workdir, resolve(options.get("config"), workdir, overrides)


@pytest.fixture(autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tests"])


@pytest.mark.parametrize("page", PAGES + CARDS, ids=IDS + [card.name for card in CARDS])
def test_the_commands_of_a_page_pass_the_checks(page, tmp_path):
    placeholders = Placeholders(tmp_path)

    def new_run(workdir):
        workdir.mkdir()
        save_run_config(workdir, get_config())

    for words in commands_of(page.read_text()):
        if words[:2] == ["pip", "install"]:
            for extras in re.findall(r"\[([\w,]+)\]", " ".join(words[2:])):
                assert set(extras.split(",")) <= EXTRAS, words
        script = next((word for word in words[:2] if "/" in word), "")
        if script.startswith(("launch/", "benchmarks/")):
            assert (ROOT / script).is_file(), words
            assert (
                script.startswith("benchmarks/")
                or os.access(ROOT / script, os.X_OK)
                or (words[0] == "sbatch")
            ), words
        module, arguments = main_arguments(words)
        if not module:
            continue
        if module in PARSED:
            try:
                PARSED[module]([argument.removesuffix("...") for argument in arguments])
            except SystemExit as error:
                assert error.code != 2, words
        elif module in RESOLVED:
            options, overrides = placeholders.replace(arguments)
            known = {"config", "workdir", "mode", "batch_size"}
            known |= {"coordinator", "num_processes", "process_id"}
            known |= {"connect_timeout", "heartbeat_timeout"}
            assert options.keys() <= known, words
            mode, workdir, config = resolved(options, overrides, placeholders, new_run=new_run)
            assert mode in main.MODES, words
            validate(config)
            check_name(config)
            if mode != "train":
                check_task(config)
            elif workdir:
                workdir.mkdir(parents=True, exist_ok=True)
                save_run_config(workdir, config)
        else:
            assert module == import_weights.__name__, f"this test has no check of {words}"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_the_commands_of_a_page_run_at_two_steps(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    placeholders = Placeholders(tmp_path)
    train_small = {"training.eval_every": "2"} | SHORT | SMALL

    def new_run(workdir):
        _run("train", workdir, resolve("moving_digits", workdir, train_small))

    untrained = set()  # workdirs of commands that are not run
    for words in commands_of(page.read_text()):
        module, arguments = main_arguments(words)
        if module not in ("vdm.main", "vdm.evaluation.figure4"):
            continue
        options, overrides = placeholders.replace(arguments)
        is_connected = {"coordinator", "num_processes"} & options.keys()
        if is_connected or "training.wandb_project" in overrides:
            continue
        if options.get("config") == "folder" and "training.init_from" in overrides:
            overrides["training.init_from"] = str(tmp_path / f"run_{placeholders.runs}")
        overrides |= _short(options, overrides)
        mode, workdir, config = resolved(options, overrides, placeholders, new_run=new_run)
        needs_weights = mode == "eval" and config.eval.protocol not in (
            "moving_digits",
            "memorisation",
        )
        stored = config.rehearse.data != "zeros" or mode != "rehearse"
        needs_data = stored and config.data.name not in ("moving_digits", "folder")
        if mode == "plan":
            config.plan.update(steps=("train",), max_trials=0)
        if needs_weights or (mode == "plan" and config.plan.topology):
            continue
        if "config" in options:
            untrained.discard(workdir)
            if needs_data:
                untrained.add(workdir)
        if mode != "plan" and (needs_data or workdir in untrained):
            continue
        print(*words)
        if module == "vdm.evaluation.figure4":
            if not workdir.exists():
                new_run(workdir)
            config.sample.update(task="extend")
            figure4.write_figure4(config, load_ema(config, workdir)[0], workdir / "figure4")
        else:
            _run(mode, workdir, config)


def _short(options, overrides):
    """Returns overrides that shorten a command, and shrink the network if it is a new one."""
    short = dict(SHORT)
    if "training.eval_every" in overrides:
        short["training.eval_every"] = "2"
    if steps := overrides.get("training.distill_steps"):
        short["sample.num_steps"] = steps
    # The shipped model keeps its network.
    is_shipped = "checkpoint" in overrides or "moving_digits" in overrides.get(
        "training.init_from", ""
    )
    return short | (SMALL if "config" in options and not is_shipped else {})


def _run(mode, workdir, config):
    if mode == "config":  # prints, before any check
        print(main.page(config))
        return
    preflight.check(config, workdir, mode)
    modes = {"train": main.train, "sample": main.sample, "eval": main.evaluate}
    modes |= {"export": main.export, "rehearse": main.rehearse, "plan": main.plan}
    if workdir:
        workdir.mkdir(parents=True, exist_ok=True)
    modes[mode](config, workdir)
