"""Files of runs, local and in an emulated object store."""

import json
import math
import os
import random

import pytest
from etils import epath

from vdm.files import (
    as_path,
    local_copy,
    make_folder,
    read_record,
    replacing,
    user_cache,
    write_bytes,
    write_record,
    write_text,
)
from vdm.training.lock import RunLock, WorkdirInUse
from vdm.training.mirror import Mirror


def test_the_cache_folder_is_that_of_the_first_variable_that_is_set(tmp_path, monkeypatch):
    variables = {"HOME": "home", "XDG_CACHE_HOME": "xdg", "VDM_CACHE": "ours"}
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    for (name, folder), parts in zip(variables.items(), (".cache/vdm", "vdm", ""), strict=True):
        monkeypatch.setenv(name, str(tmp_path / folder))
        assert user_cache() == tmp_path / folder / parts
    monkeypatch.setenv("VDM_CACHE", "~/weights")
    assert user_cache() == tmp_path / "home" / "weights"
    for name in ("VDM_CACHE", "XDG_CACHE_HOME"):  # an empty variable is one that is not set
        monkeypatch.setenv(name, "")
    assert user_cache() == tmp_path / "home" / ".cache" / "vdm"


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    """Returns a folder, local and in the bucket."""
    if request.param == "local":
        return epath.Path(tmp_path)
    return request.getfixturevalue("bucket") / tmp_path.name


def test_a_file_is_the_old_or_the_complete_new_one(folder):
    path = folder / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("ne")
        raise KeyError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(range(256)))
        assert path.read_text() == "old"
    assert path.read_bytes() == bytes(range(256))
    with local_copy(path) as copy:
        assert copy.read_bytes() == bytes(range(256))
    assert [found.name for found in folder.iterdir()] == ["a.txt"]


def test_a_full_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match=r"a\.npz cannot be written: No space left on device$"),
        replacing(tmp_path / "a.npz"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"0")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_created_is_named_without_its_temporary_name(tmp_path):
    for write, content in ((write_text, "text"), (write_bytes, b"content")):
        with pytest.raises(OSError, match=r"missing/a\.txt cannot be written: No such file or"):
            write(tmp_path / "missing" / "a.txt", content)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "a").write_text("text")
    with pytest.raises(NotADirectoryError, match=r"/a is a file, and must be a folder$"):
        make_folder(tmp_path / "a")


def test_a_device_or_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 99) == b"text" and pipe.is_fifo()
    os.close(reader)


def test_a_damaged_record_is_never_read_as_another_one(tmp_path):
    path, record = tmp_path / "r.json", {"b": [1, 2.5e-8, None], "a": {"text": "ä\n", "on": True}}
    write_record(path, record)
    assert read_record(path) == record
    content, draw, damaged = path.read_bytes(), random.Random(0), 0
    trials = [content[: draw.randrange(len(content))] for _ in range(50)]
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        trials.append(bytes(flipped))
    for trial in trials:
        path.write_bytes(trial)
        try:
            found = read_record(path)
        except ValueError as error:
            assert "r.json is damaged" in str(error)
            damaged += 1
        else:  # in white space, or in the name of the checksum
            assert {name: found[name] for name in record} == record
    assert damaged > 0.6 * len(trials)
    path.write_text(json.dumps(record))  # as earlier versions wrote it
    assert read_record(path) == record


def test_records_are_json_that_strict_parsers_read(tmp_path):
    """RFC 8259 has neither NaN nor Infinity."""
    undefined = {"error": math.nan, "peaks": {"memory": math.inf}, "each": (1.5, -math.inf)}
    write_record(tmp_path / "r.json", {"loss": 0.5, **undefined})

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert read_record(tmp_path / "r.json") == {"loss": 0.5, "peaks": {}, "each": [1.5, None]}


def test_a_path_of_an_object_store_says_what_it_needs(monkeypatch):
    assert os.fspath(as_path("~/runs")) == os.path.expanduser("~/runs")
    with pytest.raises(ValueError, match="http://x is not a path: object stores are gs://"):
        as_path("http://x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"gs://b/run needs gcsfs: pip install 'video-diffusion-jax\[gcs\]'"
    ):
        as_path("gs://b/run")


def test_the_lock_of_a_bucket_admits_one_training_and_is_taken_over(bucket):
    workdir = bucket / "locked"
    with RunLock(workdir):
        with pytest.raises(WorkdirInUse, match="in use: process"):
            RunLock(workdir).__enter__()
        write_record(
            workdir / "train.lock", read_record(workdir / "train.lock") | {"pid": 2**22 + 1}
        )
        with RunLock(workdir) as second:  # no process has that number
            second.check()
    assert not (workdir / "train.lock").exists()


def test_appended_files_reach_the_bucket(bucket):
    workdir = bucket / "mirrored"
    (workdir / "log.txt").write_text("one\n")
    mirror = Mirror(workdir)
    with mirror.fetch("log.txt").open("a") as file:
        file.write("two\n")
    (mirror.folder / "events").mkdir()
    (mirror.folder / "events" / "new").write_bytes(b"\0")
    mirror.push(at_once=False)  # not due yet
    assert (workdir / "log.txt").read_text() == "one\n"
    mirror.close()
    assert (workdir / "log.txt").read_text() == "one\ntwo\n"
    assert (workdir / "events" / "new").read_bytes() == b"\0"
