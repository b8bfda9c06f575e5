"""One training per workdir, and takeover when the owner is gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vdm.files import read_record, write_record
from vdm.training import lock
from vdm.training.lock import RunLock, WorkdirInUse

_HOLD = """
import pathlib, sys, time
from vdm.training.lock import RunLock
with RunLock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("_SETTLING", 0.05), ("_HEARTBEAT", 0.1), ("_SILENCE", 1.5)):
        monkeypatch.setattr(lock, name, seconds)


@pytest.fixture
def owner(tmp_path):
    """Another process that has locked the workdir."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def _edit(tmp_path, **fields):
    path = tmp_path / "train.lock"
    write_record(path, read_record(path) | fields)


def test_a_second_training_is_refused_and_the_first_continues(tmp_path, owner):
    before = (tmp_path / "train.lock").read_text()
    with pytest.raises(WorkdirInUse, match=rf"in use: process {owner.pid} on .* a copy .* delete "):
        RunLock(tmp_path).__enter__()
    assert (tmp_path / "train.lock").read_text() == before and owner.poll() is None


@pytest.mark.parametrize("reaped", [True, False])
def test_takes_over_from_a_killed_process(tmp_path, owner, reaped):
    owner.send_signal(signal.SIGKILL)
    if reaped:
        owner.wait()
    else:
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    with RunLock(tmp_path) as held:
        held.check()
    assert not (tmp_path / "train.lock").exists()


def test_takes_over_from_a_process_whose_number_was_given_again(tmp_path, owner):
    _edit(tmp_path, born="1")
    with RunLock(tmp_path):
        pass


def test_waits_for_a_sign_of_life_from_another_machine(tmp_path, capsys):
    with RunLock(tmp_path) as held:
        _edit(tmp_path, machine="elsewhere", host="elsewhere")
        with pytest.raises(WorkdirInUse, match="on elsewhere has trained"):
            RunLock(tmp_path).__enter__()
        held._stop.set()  # no more heartbeats
        held._thread.join()
        _edit(tmp_path, machine="elsewhere")
        taken = pytest.raises(WorkdirInUse, match="taken over by another training")
        with RunLock(tmp_path), taken:
            held.check()
    assert "sign of life" in capsys.readouterr().out


_OTHER = b'{"token": "", "host": "", "machine": "%s", "started": "", "born": "", "pid": %s}'


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[1]", b'{"pid": 3}']
    + [_OTHER % (lock._machine().encode(), pid) for pid in (b'"3"', b"-1", b"0", b"9" * 20)],
)
def test_a_damaged_lock_is_no_lock(tmp_path, content):
    (tmp_path / "train.lock").write_bytes(content)
    with RunLock(tmp_path) as held:
        held.check()


def test_of_many_at_once_one_gets_the_lock(tmp_path, monkeypatch):
    script = _HOLD.replace("time.sleep(600)", "time.sleep(6)")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert outputs.count("locked\n") == 1


def test_a_full_disk_ends_no_heartbeat(tmp_path, monkeypatch):
    failures, write = [], RunLock._write

    def failing_twice(self):
        if self._thread.is_alive() and len(failures) < 2:
            failures.append(self._record.beat)
            raise OSError("No space left on device")
        write(self)

    monkeypatch.setattr(RunLock, "_write", failing_twice)
    with RunLock(tmp_path) as held:
        end = time.monotonic() + 20
        while read_record(tmp_path / "train.lock")["beat"] < 3 and time.monotonic() < end:
            time.sleep(0.05)
        held.check()
        assert len(failures) == 2 and read_record(tmp_path / "train.lock")["beat"] >= 3
