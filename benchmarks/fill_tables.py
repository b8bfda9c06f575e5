"""Fills the tables of docs/{speed,plan,tables,...}.md from benchmarks/results.

    python benchmarks/fill_tables.py

A table is between two comments. The first comment names a file in benchmarks/results, and the paths
of lists or dictionaries in this file. Their items are the rows. Each following line is a column:

    <!-- table: scaling.json frames.rows batch.rows
    frames: {frames}
    memory, MB: {planned_bytes:/1e6:.0f}
    -->
    <!-- end of table -->

A cell is a format string (str.format) over the fields of its row. `:/1e6:` divides by 1e6. An item
of a dictionary has the fields `key` and `value`. With the path `.`, the whole file is one row. A
missing field gives an empty cell. Repeated rows appear once.

The single-line comment `<!-- table: miniature N -->` precedes the miniature of the paper's table N.
"""

import argparse
import json
import pathlib
import re
import string

from vdm.evaluation.miniature_tables import load_records, table_markdown, table_of
from vdm.markdown import table

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = tuple(
    ROOT / "docs" / name
    for name in (
        "speed.md",
        "plan.md",
        "tables.md",
        "miniature_tables.md",
        "conditional_sampling.md",
        "pusht.md",
        "distillation.md",
    )
)
_TABLE = re.compile(
    r"(?P<marker><!-- table: (?P<file>\S+) (?P<paths>.+)\n(?P<columns>(?:.+\n)+?)-->\n)"
    r"(?:.*\n)*?(?P<end><!-- end of table -->)"
)
_MINIATURE = re.compile(
    r"(?P<marker><!-- table: miniature (?P<number>\d) -->\n)"
    r"(?:.*\n)*?(?P<end><!-- end of table -->)"
)


class _CellFormatter(string.Formatter):
    def get_field(self, name, args, row):
        try:
            return super().get_field(name, args, row)
        except (KeyError, IndexError, TypeError):
            return None, name

    def format_field(self, value, spec):
        if value is None:
            return ""
        if spec.startswith("/"):
            divisor, _, spec = spec[1:].partition(":")
            value /= float(divisor)
        return super().format_field(value, spec)


def filled(text: str) -> str:
    """Returns a page with all of its tables rewritten."""
    return _MINIATURE.sub(_fill_miniature, _TABLE.sub(_fill, text))


def _fill_miniature(match: re.Match) -> str:
    miniature = table_of(int(match["number"]))
    lines = table_markdown(miniature, load_records(miniature))
    return "\n".join([match["marker"], *lines, "", match["end"]])


def _fill(match: re.Match) -> str:
    result = json.loads((ROOT / "benchmarks/results" / match["file"]).read_text())
    columns = dict(line.split(": ", 1) for line in match["columns"].splitlines())
    rows = [row for path in match["paths"].split() for row in _rows(result, path)]
    fill = _CellFormatter().vformat
    cells = [tuple(fill(cell, (), row) for cell in columns.values()) for row in rows]
    lines = table(list(columns), dict.fromkeys(cells))
    return "\n".join([match["marker"], *lines, "", _source(match["file"], result), match["end"]])


def _rows(result: dict, path: str) -> list[dict]:
    if path == ".":
        return [result]
    for field in path.split("."):
        result = result[field]
    if isinstance(result, list):
        return result
    return [
        {"key": key, "value": value} | (value if isinstance(value, dict) else {})
        for key, value in result.items()
    ]


def _source(file: str, result: dict) -> str:
    versions = [f"{name} {version}" for name, version in result.get("versions", {}).items()]
    parts = [f"`{result['command']}`", result.get("hardware"), ", ".join(versions)]
    return "; ".join([*filter(None, parts), f"[{file}](../benchmarks/results/{file})"])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for page in PAGES:
        page.write_text(filled(page.read_text()))
        print(page)
