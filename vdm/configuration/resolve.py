"""Resolves a command's configuration from a file, run or exported file, plus overrides."""

import difflib
import importlib.util
import inspect
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from vdm.config import default_config
from vdm.configuration.stored import fields_of, from_record, load_run_config, set_field
from vdm.exported import load_exported_config
from vdm.files import AnyPath, as_path, entries, local_path
from vdm.shipped import check_exists, find_checkpoint, package_folders

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(=.*)?", re.DOTALL)
# Fields that may name a shipped checkpoint or a Hugging Face Hub repository.
_CHECKPOINTS = (
    "checkpoint",
    "training.init_from",
    "cascade.base_checkpoint",
    "extend.key_frame_checkpoint",
)
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    tuple: "a tuple, such as '(1, 2)'",
}
_FOLDERS = package_folders("configs")


def available() -> list[str]:
    """Returns the names of the configurations that come with the package."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("[!_]*.py")})


def split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separates --config.FIELD=TEXT from other arguments; returns (others, {field: text}).

    Also accepts '--config.FIELD TEXT' and, for booleans, '--config.FIELD' and '--noconfig.FIELD'.
    If a field is given twice, the last one wins.

    Raises:
      ValueError: a field that is no boolean has no text, or is negated.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    defaults = fields_of(default_config())
    remaining = list(flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False))
    while remaining:
        argument = remaining.pop(0)
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        negated, field, text = match.groups()
        if text is None and not negated and remaining and not remaining[0].startswith("--"):
            text = "=" + remaining.pop(0)
        if negated and text is not None:
            raise ValueError(f"--noconfig.{field} takes no value, and has {text[1:]!r}")
        # `override` names fields that do not exist.
        if text is None and not isinstance(default := defaults.get(field, True), bool):
            kind = _KINDS.get(type(default), "a string")
            raise ValueError(
                f"--{negated or ''}config.{field} has no value, and must be --config.{field}=VALUE "
                f"with {kind}"
            )
        overrides[field] = text[1:] if text is not None else str(not negated).lower()
    return rest, overrides


def resolve(
    name: str | None, workdir: AnyPath | None, overrides: Mapping[str, str]
) -> ml_collections.ConfigDict:
    """Returns the configuration of a command.

    The configuration comes from the file `name`, else from the exported file config.checkpoint,
    else from the run in the workdir. Overrides are then applied, '~' in paths is expanded, and
    names of shipped checkpoints and of Hugging Face Hub repositories are replaced by their paths.
    If a file does not name the classes of the labels, the trained weights do.

    Args:
      name: path of a file or name of a configuration in configs/, optionally followed by a colon
        and the argument of its `get_config`; None if not given.
      workdir: folder of the run, None if not given.
      overrides: {'section.field': text}.

    Raises:
      ValueError, OSError: the message names the file or the field.
    """
    if found := find_checkpoint(overrides.get("checkpoint", "")):
        overrides = {**overrides, "checkpoint": str(found)}
    if name is not None:
        file, argument = _split_argument(name)
        config = load_file(find_file(file), argument)
    elif overrides.get("checkpoint"):  # '': the workdir's own
        path = as_path(overrides["checkpoint"])
        check_exists(path)
        config = from_record(load_exported_config(path)[0], path)
    elif workdir is not None and (saved := load_run_config(workdir)) is not None:
        config = saved
    else:
        where = f"{workdir} holds no run" if workdir else "there is no --workdir of a run"
        raise ValueError(
            f"--config is required, since {where}: check --workdir, or start a run with "
            f"--config=NAME; configs/ has {_listed()}"
        )
    config = _expanded(override(config, overrides))
    if name is not None and "data.classes" not in overrides and config.data.condition == "label":
        config.data.classes = config.data.classes or _stored_classes(config, workdir)
    _check_guidance(config, overrides)
    return config


def _split_argument(name: str) -> tuple[str, str]:
    """Splits FILE:ARGUMENT; a colon that is part of a path, as in runs/12:30/a.py, does not."""
    file, colon, argument = name.rpartition(":")
    is_path = not colon or "/" in argument or local_path(name).is_file()
    return (name, "") if is_path else (file, argument)


def _stored_classes(config: ml_collections.ConfigDict, workdir: AnyPath | None) -> tuple[str, ...]:
    """Returns the classes of config.checkpoint, or of the run in the workdir; () if there are none.

    Without checkpoints, a run can still change its classes.
    """
    if config.checkpoint:
        path = as_path(config.checkpoint)
        check_exists(path)
        return from_record(load_exported_config(path)[0], path).data.classes
    has_checkpoints = workdir is not None and entries(workdir / "checkpoints")
    saved = load_run_config(workdir) if workdir and has_checkpoints else None
    return saved.data.classes if saved else ()


def _check_guidance(config: ml_collections.ConfigDict, overrides: Mapping[str, str]) -> None:
    # Only for overrides: an unconditional variant of a configuration keeps the unused weight.
    weight = config.sample.guidance_weight
    is_set = "sample.guidance_weight" in overrides
    if is_set and config.data.condition == "none" and weight not in (0, 1):
        raise ValueError(
            f"config.sample.guidance_weight is {weight}, and must be 1 where "
            "config.data.condition is 'none': classifier-free guidance needs a condition"
        )


def find_file(name: str) -> Path:
    """Finds a configuration file by its path, or by its name in configs/.

    Raises:
      FileNotFoundError: there is no such file; the message lists configs/.
    """
    path = local_path(name)
    if path.is_file():
        return path
    if str(path.parent) in (".", "configs") and path.suffix in ("", ".py"):
        for folder in _FOLDERS:
            if (folder / f"{path.stem}.py").is_file():
                return folder / f"{path.stem}.py"
    close = difflib.get_close_matches(path.stem, available(), 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise FileNotFoundError(f"no configuration file {name}; {hint}configs/ has {_listed()}")


def load_file(path: Path, argument: str = "") -> ml_collections.ConfigDict:
    """Returns the result of `get_config` in a Python file, called with `argument` if not empty.

    Raises:
      ValueError: the file or its function raises an error, a field is None, or the fields differ
        from those of `vdm.config.default_config`.
    """
    spec = importlib.util.spec_from_file_location("configuration_file", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if argument else []))
    except Exception as error:  # It may raise any exception.
        raise ValueError(f"{_place(error, path)}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(f"{path}: get_config() returns {type(config).__name__}, not a ConfigDict")
    defaults, values = fields_of(default_config()), fields_of(config)
    if wrong := sorted(defaults.keys() ^ values.keys()):
        verb = "lacks" if wrong[0] in defaults else "has an unknown field"
        raise ValueError(f"{path}: the configuration {verb} {wrong[0]} (vdm/config.py)")
    for field, value in values.items():
        if value is None:  # ml_collections accepts None for every type
            kind = _KINDS.get(type(defaults[field]), "a string")
            raise ValueError(
                f"{path}: config.{field} is None, and must be {kind}; the default is "
                f"{defaults[field]!r}"
            )
    return config


def override(
    config: ml_collections.ConfigDict, overrides: Mapping[str, str]
) -> ml_collections.ConfigDict:
    """Returns a configuration with fields set from text, converted to the defaults' types.

    Raises:
      ValueError: a field does not exist, or its text has another type.
    """
    fields = list(fields_of(config))
    for field in overrides:
        if field in config and field not in fields:
            first = next(name for name in fields if name.startswith(f"{field}."))
            raise ValueError(
                f"config.{field} is a section: set its fields one by one, as --config.{first}=VALUE"
            )
        if field not in fields:
            close = difflib.get_close_matches(field, fields, 1, cutoff=0.8)
            hint = f"did you mean config.{close[0]}?" if close else "vdm/config.py lists all fields"
            raise ValueError(f"config.{field} does not exist: {hint}")
    defaults, values = fields_of(config), flags.FlagValues()
    argv = []
    for field, text in overrides.items():
        if not text.strip() and isinstance(defaults.get(field), tuple):
            text = "()"  # ml_collections would read a tuple of one empty string
        argv.append(f"--config.{field}={text}")
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(["", *argv])
    except flags.Error as error:
        reason = str(error).strip().splitlines()[0]
        field, _, text = reason.removeprefix("flag --config.").partition("=")
        kind = _KINDS.get(type(defaults.get(field)))
        if kind is None:
            raise ValueError(reason) from error
        text = text.partition(": ")[0]
        raise ValueError(f"config.{field} is {text!r}, and must be {kind}") from error
    return values["config"].value


def page(config: ml_collections.ConfigDict) -> str:
    """Returns the lines of vdm/config.py, with the values of a configuration."""
    values, sections, lines = fields_of(config), {"config": ""}, []
    for line in inspect.getsource(default_config).splitlines():
        line = line.strip()
        if section := re.match(r"config\.(\w+) = (\w+) = ", line):
            sections[section[2]] = f"{section[1]}."
        elif field := re.match(r"(\w+)\.(\w+) = [^#]*", line):
            name = sections[field[1]] + field[2]
            lines.append(f"config.{name} = {values[name]!r}  {line[field.end() :]}".rstrip())
        elif line.startswith("#") or not line:
            lines.append(line)
    return "\n".join(lines).strip()


def _expanded(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    for field, value in fields_of(config).items():
        if field in _CHECKPOINTS and (found := find_checkpoint(str(value))):
            set_field(config, field, str(found))
        elif isinstance(value, str) and value.startswith("~"):
            set_field(config, field, str(local_path(value)))
    return config


def _place(error: Exception, path: Path) -> str:
    """Returns the file name, and the line number of an error that was raised in the file."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    file = os.path.abspath(path)  # importlib has made a relative path absolute
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == file]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _listed() -> str:
    return ", ".join(available())
