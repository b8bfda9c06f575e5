"""Prints the paper's tables with our results.

    python -m vdm.evaluation.tables DIR... --output=FOLDER

writes and prints tables with the results of workdirs. Without a DIR, it prints the miniature tables
on moving digits, whether the paper's claims hold there, and the paper's rows.
"""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterable, Sequence

from vdm import markdown
from vdm.evaluation import miniature_tables
from vdm.evaluation.paper_tables import NOT_RUN, TABLES, Table
from vdm.files import (
    AnyPath,
    as_path,
    find_files,
    make_folder,
    printable,
    read_record,
    write_text,
)
from vdm.interruptible import interruptible

# What the +- of one set of samples means, by prefix of the metric's name.
_KINDS_OF_ERROR = {
    ("fvd", "fid_"): "the standard error by the jackknife over 10 groups of samples",
    ("kvd",): "the standard error by the bootstrap",
    ("psnr", "ssim", "motion", "block_shape"): "the standard error over videos",
    ("is_",): "the standard deviation over splits",
}


def load_results(folders: Sequence[AnyPath]) -> list[dict]:
    """Loads the results of --mode=eval and vdm.metrics in folders, each with its 'path'.

    Raises:
      ValueError: a folder does not exist, or a .json file cannot be read.
    """
    results = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        for path in find_files(folder, ".json"):
            try:
                content = json.loads(path.read_text())
                if isinstance(content, dict) and isinstance(content.get("protocol"), dict):
                    result = read_record(path)
                    _check_result(result)
                    results.append({**result, "path": path})
            except (OSError, ValueError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
    return results


def _check_result(result: dict) -> None:
    """Raises ValueError unless the fields that the tables use have the right types."""
    protocol, config = result["protocol"], result.get("config", {})
    metrics = protocol.get("metrics", [])
    if not isinstance(config, dict) or not all(isinstance(x, dict) for x in _sections(config)):
        raise ValueError("its 'config' is no configuration")
    if not isinstance(protocol.get("name"), str) or not isinstance(metrics, list):
        raise ValueError("its 'protocol' has no name, or no list of metrics")
    lists = {"metrics": metrics, "splits": protocol.get("splits", [])}
    for name, values in (lists | {"warnings": result.get("warnings", [])}).items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"its '{name}' is {values!r}, and must be a list of texts")
    if not isinstance(repeats := protocol.get("repeats", 1), int):
        raise ValueError(f"its 'repeats' is {repeats!r}, and must be an integer")
    for metric in _metrics_of(result):
        for suffix in ("", "_standard_error", "_standard_deviation", "_10_splits"):
            value = result.get(f"{metric}{suffix}", 0.0)
            if not isinstance(value, int | float):
                raise ValueError(f"its '{metric}{suffix}' is {value!r}, and must be a number")


def _sections(config: dict) -> list[object]:
    names = ("data", "eval", "extend", "model", "predict", "sample")
    return [config.get(name, {}) for name in names]


def belongs(result: dict, table: Table) -> bool:
    """Returns whether a result belongs in a table, by its protocol and required settings."""
    return result["protocol"].get("name") in table.protocols and all(
        _value(result, field) in values for field, values in table.requires.items()
    )


def rows_of(table: Table, results: list[dict]) -> list[list[str]]:
    """Returns the rows of a table: the paper's, then ours, or one row of 'not run'."""
    rows = [list(row) for row in table.rows]
    ours = [result for result in results if belongs(result, table)]
    for result in ours:
        settings = [_setting(result, field) for field in table.settings]
        rows.append(
            [f"{_maker(result)}, {_run(result)}", *settings]
            + [_cell(result, metric) for metric in table.metrics]
        )
    if not ours:
        rows.append(["this project"] + [NOT_RUN] * (len(table.settings) + len(table.metrics)))
    return rows


def to_markdown(results: list[dict]) -> str:
    """Returns all tables as a Markdown page."""
    lines = ["# The tables of Video Diffusion Models (Ho et al. 2022)", ""]
    for table in TABLES:
        lines += [f"## {table.name}: {table.title}", ""]
        lines += markdown.table(table.header, rows_of(table, results))
        lines += ["", *_notes(table, [result for result in results if belongs(result, table)])]
    others = [r for r in results if not any(belongs(r, table) for table in TABLES)]
    if others:
        lines += _other_results(others)
    return "\n".join(lines).rstrip() + "\n"


def _other_results(results: list[dict]) -> list[str]:
    """Returns a table of the results that belong in no table of the paper."""
    lines = ["## Other results", ""]
    lines += ["Their protocols or settings match no table above.", ""]
    rows = [
        [
            _run(result),
            str(result["protocol"].get("name")),
            _settings(result),
            metric,
            _cell(result, metric),
        ]
        for result in results
        for metric in _metrics_of(result)
    ]
    return [*lines, *markdown.table(("result", "protocol", "samples", "metric", "value"), rows), ""]


def _metrics_of(result: dict) -> list[str]:
    """Returns the names of a result's metrics; one per block for FVD by block."""
    blocks = [name for name in result if re.fullmatch(r"fvd_block_\d+", name)]
    names = [[m] if m != "fvd_by_block" else blocks for m in result["protocol"].get("metrics", ())]
    return list(itertools.chain.from_iterable(names))


def _settings(result: dict) -> str:
    """Describes the origin of a result's generated videos."""
    config = result.get("config", {})
    sample = config.get("sample", {})
    if baseline := config.get("eval", {}).get("baseline"):
        return str(baseline)
    fields = ["task", "sampler", "num_steps", "guidance_weight"]
    if sample.get("task") != "generate":
        is_forced = sample.get("conditioning") == "diffusion_forcing"
        weight = "history_guidance_weight" if is_forced else "reconstruction_weight"
        fields += ["conditioning", weight]
    return ", ".join(f"{field} {sample[field]}" for field in fields if field in sample)


def _notes(table: Table, ours: list[dict]) -> list[str]:
    notes = [table.note, ""] if table.note else []
    for result in ours:
        for note in [*kinds_of_error(result, table.metrics), *result.get("warnings", [])]:
            notes += [f"{_run(result)}: {note}.", ""]
    return notes


def kinds_of_error(result: dict, metrics: Iterable[str]) -> list[str]:
    """Returns what each +- of a result means: phrases without a full stop."""
    repeats = result["protocol"].get("repeats", 1)
    if repeats > 1:
        return [f"+- is the standard deviation over {repeats} sets of samples, with other seeds"]
    notes = []
    for starts, kind in _KINDS_OF_ERROR.items():
        names = [
            name
            for name in metrics
            if name.startswith(starts) and error_of(result, name) is not None
        ]
        if names:
            notes.append(f"+- of {', '.join(names)} is {kind}")
    return notes


def _maker(result: dict) -> str:
    baseline = _value(result, "eval.baseline")
    return f"baseline {baseline}" if baseline else "this project"


def _run(result: dict) -> str:
    return str(result["path"].with_suffix(""))


def _value(result: dict, field: str) -> object:
    section, name = field.split(".")
    return result.get("config", {}).get(section, {}).get(name)


def _setting(result: dict, field: str) -> str:
    """Formats a setting as in the paper's tables: Langevin steps are '256 + 256'."""
    value = _value(result, field)
    if field == "sample.num_steps" and _value(result, "sample.sampler") == "langevin":
        return f"{value} + {value}"
    return "?" if value is None else str(value)


def _cell(result: dict, metric: str) -> str:
    if metric not in result:
        return NOT_RUN
    splits = [f"{metric}_{split}" for split in result["protocol"].get("splits", ())[1:]]
    numbers = [_number(result, name) for name in (metric, *splits) if name in result]
    # As in the paper, a cell has two splits of real videos, or IS over 1 and 10 splits.
    if f"{metric}_10_splits" in result:
        numbers.append(f"{result[f'{metric}_10_splits']:.2f}")
    return " / ".join(numbers)


def _number(result: dict, name: str) -> str:
    error = error_of(result, name)
    return f"{result[name]:.2f}" + (f" +- {error:.2f}" if error is not None else "")


def error_of(result: dict, name: str) -> float | None:
    """Returns the error of a metric of a result, None if it has none."""
    return result.get(f"{name}_standard_deviation", result.get(f"{name}_standard_error"))


@interruptible()
def main(argv: list[str] | None = None) -> None:
    """Writes tables.md and prints it, or prints the miniature tables."""
    parser = argparse.ArgumentParser(
        prog="python -m vdm.evaluation.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="DIR",
        help="workdirs of runs; default: none, prints the miniature tables",
    )
    parser.add_argument("--output", default=".", help="output folder, default: %(default)s")
    flags = parser.parse_args(argv)
    try:
        if flags.folders:
            results = load_results([as_path(folder) for folder in flags.folders])
            make_folder(output := as_path(flags.output))
            write_text(output / "tables.md", page := printable(to_markdown(results)))
        else:
            page = miniature_tables.to_markdown()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(page)


if __name__ == "__main__":
    main()
