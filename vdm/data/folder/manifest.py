"""What a list beside video files says of them: label or caption, and split."""

import csv
import dataclasses
import json
import posixpath
import unicodedata
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".csv", ".jsonl")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One video of a manifest; what its row leaves out is empty.

    Attributes:
      file: relative to the folder of the videos, with forward slashes.
      label: name of the class.
      caption: what the video shows.
      split: for instance 'train' or 'test'.
    """

    file: str
    label: str = ""
    caption: str = ""
    split: str = ""


def read_manifest(path: Path) -> list[Entry]:
    """The videos of a manifest, in its order.

    Args:
      path: a .csv file whose first row names the columns, or a .jsonl file with an object a line;
        UTF-8. `file` is needed; `label`, `caption` and `split` may be there, and others are
        ignored.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: with the file's name and the number of the line, what is wrong with it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is of another type, and a manifest is a .csv or .jsonl file")
    entries, lines = [], {}
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for line, row in read(path, file):
                entry = _entry(f"line {line} of {path}", row)
                key = normalised(entry.file)
                if key in lines:
                    raise ValueError(
                        f"line {line} of {path} has {entry.file!r}, as line {lines[key]} has"
                    )
                entries.append(entry)
                lines[key] = line
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} cannot be read as a manifest: {error}") from error
    if not entries:
        raise ValueError(f"{path} lists no videos")
    return entries


def normalised(name: str) -> str:
    r"""A file's name below the folder, in the one form by which names are compared.

    Manifests are written by other programs and on other systems: './a.mp4', 'x\a.mp4', blanks at
    the end, and accents as characters of their own (NFD) stand for the same file.
    """
    return posixpath.normpath(unicodedata.normalize("NFC", name.strip()).replace("\\", "/"))


def class_numbers(labels: Iterable[str]) -> dict[str, int]:
    """The number of each class: 0 and up, in the order of their names."""
    return {label: number for number, label in enumerate(sorted(set(labels)))}


def _csv_rows(path: Path, file: Iterable[str]) -> Iterable[tuple[int, dict]]:
    reader = csv.DictReader(file, skipinitialspace=True, strict=True)
    if "file" not in (reader.fieldnames or ()):
        raise ValueError(
            f"{path} has the columns {reader.fieldnames or []}, and a column `file` is needed"
        )
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(
                f"line {reader.line_num} of {path} has another number of columns than its first"
            )
        yield reader.line_num, row


def _json_rows(path: Path, file: Iterable[str]) -> Iterable[tuple[int, dict]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is no JSON: {error}") from error
        if not isinstance(row, dict) or "file" not in row:
            raise ValueError(f"line {number} of {path} is no object with `file` in it")
        yield number, row


def _entry(line: str, row: dict) -> Entry:
    fields = {field.name: row.get(field.name, "") for field in dataclasses.fields(Entry)}
    # A class may be written as a number in JSON, and is a name all the same.
    if isinstance(fields["label"], int):
        fields["label"] = str(fields["label"])
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ValueError(f"`{name}` in {line} is {value!r}, and a text is needed")
    if not fields["file"]:
        raise ValueError(f"`file` in {line} is empty")
    return Entry(**fields)
