"""Mirrors local files to an object store, for writers that append."""

import tempfile
import time
from pathlib import Path

from etils import epath

from vdm.files import AnyPath, is_remote
from vdm.parallel.processes import first_line

_INTERVAL = 60.0  # seconds between copies


class Mirror:
    """A local folder for writers that append, because object stores cannot append.

    For a local workdir, this is the workdir itself. Otherwise it is a temporary folder, and `push`
    copies its changed files to the workdir. A failed copy does not stop training; it is retried.
    """

    def __init__(self, workdir: AnyPath) -> None:
        self._workdir = workdir
        self._temporary = tempfile.TemporaryDirectory() if is_remote(workdir) else None
        self.folder = Path(self._temporary.name if self._temporary else workdir)
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last = time.monotonic()

    def fetch(self, name: str) -> Path:
        """Returns the local path of a file of the workdir; copies its content if it exists."""
        local, stored = self.folder / name, self._workdir / name
        if self._temporary and stored.exists():
            epath.Path(stored).copy(local, overwrite=True)
        return local

    def push(self, *, at_once: bool = True) -> None:
        """Copies changed files to the object store; with at_once=False, at most once a minute."""
        if not self._temporary or not (at_once or time.monotonic() > self._last + _INTERVAL):
            return
        self._last = time.monotonic()
        for path in filter(Path.is_file, sorted(self.folder.rglob("*"))):
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
            if self._copied.get(path) == state:
                continue
            target = self._workdir / path.relative_to(self.folder).as_posix()
            try:
                epath.Path(path).copy(target, overwrite=True)
            except Exception as error:  # Object stores raise exceptions of many types.
                print(f"{target} cannot be written now: {first_line(error)}", flush=True)
                return
            self._copied[path] = state

    def close(self) -> None:
        """Copies the remaining files and deletes the temporary folder."""
        self.push()
        if self._temporary:
            self._temporary.cleanup()
