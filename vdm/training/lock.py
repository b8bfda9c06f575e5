"""A lock file that allows one training per workdir, and is taken over when its owner is gone."""

import contextlib
import dataclasses
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from vdm.files import AnyPath, read_record, write_record

_NAME = "train.lock"
_HEARTBEAT = 10.0  # seconds
_SILENCE = 30.0  # seconds without a heartbeat after which a remote owner counts as gone
_MAX_PID = 2**31 - 1  # limit of system calls
_SETTLING = 0.5  # seconds after which processes that lock simultaneously see each other


class WorkdirInUse(OSError):
    """Another training has locked the workdir."""


class RunLock:
    """Locks a workdir while the context is open.

    The lock is a file that its owner rewrites every 10 s. On the owner's machine it is stale once
    the owner's process has ended; for other machines, once they see no change for 30 s (clocks need
    not agree). The file system only has to replace files atomically, so the lock works on network
    folders and object stores.
    """

    def __init__(self, workdir: AnyPath, *, enabled: bool = True) -> None:
        """Prepares to lock an existing folder; with enabled=False, all methods do nothing."""
        self._enabled = enabled
        self._path = workdir / _NAME
        self._record = _Record.of_this_process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._is_lost = False

    def __enter__(self) -> "RunLock":
        """Locks the workdir.

        Raises:
          WorkdirInUse: another training has locked it.
        """
        if not self._enabled:
            return self
        if (owner := _read(self._path)) is not None and _is_alive(self._path, owner):
            raise WorkdirInUse(
                f"{self._path.parent} is in use: process {owner.pid} on {owner.host} has trained "
                f"in it since {owner.started}. Wait for it, or choose another --workdir; if this "
                f"folder is a copy of that run, delete {self._path}"
            )
        self._write()
        time.sleep(_SETTLING)
        self.check()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        if not self._enabled:
            return
        self._stop.set()
        self._thread.join()
        if not self._is_lost and self._is_ours():
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises WorkdirInUse if another training has taken the lock over."""
        if self._enabled and not self._is_ours():
            self._is_lost = True
            raise WorkdirInUse(
                f"{self._path.parent} was taken over by another training: this one stops, and "
                "writes nothing more"
            )

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT):
            # Of a full disk or an unreachable store, of many types: the next beat tries again.
            with contextlib.suppress(Exception):
                if not self._is_ours():
                    self._is_lost = True
                    return
                self._record = dataclasses.replace(self._record, beat=self._record.beat + 1)
                self._write()

    def _write(self) -> None:
        write_record(self._path, dataclasses.asdict(self._record))

    def _is_ours(self) -> bool:
        owner = _read(self._path)
        return owner is not None and owner.token == self._record.token


@dataclasses.dataclass(frozen=True)
class _Record:
    """The owner of a lock.

    Attributes:
      token: unique name of the lock.
      host: name of the machine.
      machine: identifier of the running system, within which `pid` is unique.
      pid: process id.
      started: local time at which the process took the lock.
      born: start time of the process in ticks of the system's clock, '' if unknown.
      beat: number of heartbeats.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: str
    born: str
    beat: int = 0

    @classmethod
    def of_this_process(cls) -> "_Record":
        pid, now = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        _, born = _process(pid)
        return cls(uuid.uuid4().hex, socket.gethostname(), _machine(), pid, now, born)


def _read(path: AnyPath) -> _Record | None:
    """Returns the owner in a lock file, None if there is none or it is damaged."""
    try:
        owner = _Record(**read_record(path))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    has_types = all(
        isinstance(value, int if name in ("pid", "beat") else str)
        for name, value in dataclasses.asdict(owner).items()
    )
    return owner if has_types and 0 < owner.pid <= _MAX_PID else None


def _is_alive(path: AnyPath, owner: _Record) -> bool:
    if owner.machine == _machine():
        is_running, born = _process(owner.pid)
        return is_running and born == owner.born
    print(
        f"{path} belongs to process {owner.pid} on {owner.host}: waiting {_SILENCE:.0f} s for a "
        "sign of life",
        flush=True,
    )
    end = time.monotonic() + _SILENCE
    while time.monotonic() < end:
        time.sleep(1)
        if (now := _read(path)) is None or now != owner:
            return now is not None
    return False


def _machine() -> str:
    """Returns an identifier of the running system, within which process ids are unique."""
    parts = [socket.gethostname()]
    try:
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        parts += [os.readlink("/proc/self/ns/pid")]
    except OSError:  # not Linux
        pass
    return " ".join(parts)


def _process(pid: int) -> tuple[bool, str]:
    """Returns whether a process runs, and its start time ('' if unknown)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False, ""
    except PermissionError:  # another user's
        pass
    try:
        # After the process name in parentheses: state, ..., start time in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True, ""
    return fields[0] != "Z", fields[19]
