"""Reads manifests: the label, caption and split of each video of a folder."""

import csv
import dataclasses
import json
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from vdm.video.folders import manifests_of

SUFFIXES = (".csv", ".jsonl")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One video of a manifest. Missing fields are empty."""

    file: str  # path relative to the folder of the videos, with forward slashes
    label: str = ""
    caption: str = ""
    split: str = ""  # for instance 'train' or 'test'


def find_manifest(folder: Path) -> Path | None:
    """Returns the path of manifest.csv or manifest.jsonl in a folder, None if it has neither.

    Upper case is accepted: the file is the same on macOS and Windows.

    Raises:
      FileNotFoundError: the manifest is a dangling link.
      ValueError: the folder has both.
    """
    found = manifests_of(folder)
    if found and not found[0].exists():
        raise FileNotFoundError(f"{found[0]} is a dangling link, and must be a manifest")
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ValueError(f"{folder} has {names}, and must have one of them")
    return found[0] if found else None


def read_manifest(path: Path) -> list[Entry]:
    """Returns the videos of a manifest in its order.

    A manifest is a UTF-8 .csv file whose first row names the columns, or a .jsonl file with one
    object per line. `file` is required; `label`, `caption` and `split` are optional; others are
    ignored. White space around column names and values is stripped.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is invalid; the message names the file and the line.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is of another type, and must be a .csv or .jsonl file")
    entries: list[Entry] = []
    lines: dict[str, int] = {}
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
    r"""Returns the canonical form of a relative path, for comparisons.

    For the same file, programs and systems may write './a.mp4', 'x\a.mp4', trailing blanks, or
    decomposed accents (NFD).
    """
    return posixpath.normpath(unicodedata.normalize("NFC", name.strip()).replace("\\", "/"))


def path_of(folder: Path, name: str) -> Path:
    """Returns the path of a video of a manifest, in the form of its name that exists."""
    plain = normalised(name)
    names = (name, plain, unicodedata.normalize("NFD", plain))
    return next((path for form in names if (path := folder / form).exists()), folder / name)


def class_numbers(labels: Iterable[str]) -> dict[str, int]:
    """Numbers the classes from 0, in alphabetical order."""
    return {label: number for number, label in enumerate(sorted(set(labels)))}


def _csv_rows(path: Path, file: Iterable[str]) -> Iterable[tuple[int, dict]]:
    reader = csv.DictReader(file, skipinitialspace=True, strict=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if "file" not in columns:
        raise ValueError(f"{path} has the columns {columns}, and a column `file` is required")
    for field in dataclasses.fields(Entry):
        if columns.count(field.name) > 1:
            raise ValueError(f"{path} has the columns {columns}, and must have `{field.name}` once")
    reader.fieldnames = columns
    for row in _named_rows(path, reader):
        if None in row or None in row.values():
            raise ValueError(
                f"line {reader.line_num} of {path} has another number of columns than the first"
            )
        yield reader.line_num, row


def _named_rows(path: Path, reader: csv.DictReader) -> Iterator[dict]:
    """Yields rows; the error of one with wrong quotes names its first line."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"the row from line {line} of {path} cannot be read, check its quotes: {error}"
            ) from error
        if row is None:
            return
        yield row


def _json_rows(path: Path, file: Iterable[str]) -> Iterable[tuple[int, dict]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is not valid JSON: {error}") from error
        if not isinstance(row, dict) or "file" not in row:
            raise ValueError(f"line {number} of {path} is not an object with `file`")
        yield number, row


def _entry(line: str, row: dict) -> Entry:
    fields = {field.name: row.get(field.name, "") for field in dataclasses.fields(Entry)}
    # Class names may be JSON numbers.
    if isinstance(fields["label"], int):
        fields["label"] = str(fields["label"])
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ValueError(f"`{name}` in {line} is {value!r}, and must be a string")
        fields[name] = value.strip()
        # JSON can have half a surrogate pair; in `file`, it stands for a byte that is not UTF-8.
        if name != "file" and value != value.encode("utf-8", "ignore").decode():
            raise ValueError(f"`{name}` in {line} is {value!r}, and must be valid Unicode")
    if not fields["file"]:
        raise ValueError(f"`file` in {line} is empty")
    return Entry(**fields)
