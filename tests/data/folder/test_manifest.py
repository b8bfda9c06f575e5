"""Manifests: both formats give the same entries, and errors name the line."""

import dataclasses
import json
import re

import numpy as np
import pytest

from vdm.data.folder.manifest import Entry, class_numbers, find_manifest, read_manifest
from vdm.data.folder.videos import open_folder

ENTRIES = [
    Entry("walk/a.mp4", "walk", 'a man, "walking"', "train"),
    Entry("b.avi", "run", "ein Läufer\nim Regen", ""),
    Entry("c.webm", "3", "", "test"),
]


def _write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])  # a byte order mark, as spreadsheets write it
def test_csv(tmp_path, newline, mark):
    rows = [
        "file,split,caption,label,views",
        'walk/a.mp4,train,"a man, ""walking""",walk,7',
        'b.avi,,"ein Läufer\nim Regen",run,',
        "c.webm,test,,3,0",
    ]
    path = _write(tmp_path, "videos.csv", mark + newline.join(rows))
    assert read_manifest(path) == ENTRIES


def test_json_lines(tmp_path):
    rows = [
        {"file": "walk/a.mp4", "label": "walk", "caption": 'a man, "walking"', "split": "train"},
        {"file": "b.avi", "label": "run", "caption": "ein Läufer\nim Regen", "views": None},
        {"file": "c.webm", "label": 3, "split": "test"},
    ]
    path = _write(tmp_path, "videos.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n")
    assert read_manifest(path) == ENTRIES


@pytest.mark.parametrize("blanks", ["", " ", "\t ", "\u3000"])
def test_blanks_around_names_and_values_are_ignored(tmp_path, blanks):
    """As in tables that people align; else 'run' and 'run ' would be two classes."""
    rows = [("file", "label", "caption", "split"), ("b.avi", "run", "ein Läufer", "test")]
    csv = "\n".join(",".join(f"{value}{blanks}" for value in row) for row in rows)
    json_lines = json.dumps({name: blanks + value for name, value in zip(*rows, strict=True)})
    for name, text in (("a.csv", csv), ("a.jsonl", json_lines)):
        (entry,) = read_manifest(_write(tmp_path, name, text))
        assert dataclasses.astuple(entry) == rows[1]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "file,label,label\nx,y,z\n", "and must have `label` once"),
        ("a.csv", "file,label\n  ,y\n", "`file` in line 2 of .* is empty"),
        ("a.txt", "file\nx", "a.txt is of another type"),
        ("a.csv", "", "a column `file` is required"),
        ("a.csv", "path,label\nx,y\n", "has the columns ['path', 'label'], and a column `file`"),
        ("a.csv", "file,label\n", "lists no videos"),
        ("a.csv", "file,label\nx,y\nz\n", "line 3 of .*another number of columns"),
        ("a.csv", "file,label\nx,y\nz,y,w\n", "line 3 of .*another number of columns"),
        ("a.csv", "file,label\nx,y\n,y\n", "`file` in line 3 of .* is empty"),
        ("a.csv", 'file,caption\nx,y\nz,"a "red" ball"\nw,y\n', "line 3 of .*, check its quotes"),
        ("a.csv", 'file,caption\nx,y\nz,"open\nv,y\nw,y\n', "line 3 of .*, check its quotes"),
        ("a.csv", 'file,caption\nx,"y\ny"\nz,"open\nv,"y"\n', "line 4 of .*, check its quotes"),
        ("a.csv", "file,label\nx,1\ny,1\nx,2\n", "line 4 of .* has 'x', as line 2 has"),
        ("a.jsonl", '{"file": "x"}\n{"file": \n', "line 2 of .* is not valid JSON"),
        ("a.jsonl", '["x"]', "line 1 of .* is not an object with `file`"),
        ("a.jsonl", '{"file": "x", "caption": ["a"]}', "`caption` in line 1 of .* is ['a']"),
        (
            "a.jsonl",
            r'{"file": "x", "caption": "\ud83d"}',
            "`caption` in line 1 of .* valid Unicode",
        ),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, name, text, sentence):
    pattern = ".*".join(map(re.escape, sentence.split(".*")))
    with pytest.raises(ValueError, match=pattern):
        read_manifest(_write(tmp_path, name, text))


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("file,label\nä,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv cannot be read as a manifest"):
        read_manifest(path)


def test_classes_are_numbered_by_name():
    assert class_numbers(["walk", "jump", "run", "jump"]) == {"jump": 0, "run": 1, "walk": 2}


def test_the_manifest_of_a_folder_is_one_file_or_an_error(tmp_path):
    assert find_manifest(tmp_path) is None
    rows, listed = (tmp_path / name for name in ("manifest.csv", "manifest.jsonl"))
    rows.symlink_to(tmp_path / "unmounted" / "manifest.csv")
    with pytest.raises(FileNotFoundError, match=r"manifest\.csv is a dangling link"):
        find_manifest(tmp_path)
    rows.unlink()
    rows.touch()
    assert find_manifest(tmp_path) == rows
    listed.touch()
    with pytest.raises(ValueError, match=r"has manifest\.csv and manifest\.jsonl, and must have"):
        find_manifest(tmp_path)


@pytest.mark.parametrize("name", ["Manifest.csv", "MANIFEST.CSV"])
def test_a_manifest_in_upper_case_is_one(name, tmp_path):
    # Ignored, its held-out videos would be trained on.
    for index in range(4):
        np.save(tmp_path / f"{index}.npy", np.zeros((4, 8, 8, 3), np.uint8))
    rows = ["file,split", "0.npy,test", "1.npy,test", "2.npy,train"]
    (tmp_path / name).write_bytes("\r\n".join(rows).encode())
    splits = open_folder(tmp_path, needed_frames=4)
    assert splits["test"].names == ("0.npy", "1.npy") and splits["train"].names == ("2.npy",)
    report = (tmp_path / "video_index.txt").read_text().splitlines()
    assert report[1:] == ["3.npy is not in the manifest"]
    (tmp_path / "manifest.jsonl").touch()
    with pytest.raises(ValueError, match=rf"has {name} and manifest\.jsonl, and must have one"):
        find_manifest(tmp_path)
