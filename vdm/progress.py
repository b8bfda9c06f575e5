"""Progress with the remaining time: a bar in a terminal, lines in a log file."""

import shutil
import sys
from typing import TextIO

from tqdm import tqdm

from vdm.parallel.messages import is_first_process

_SECONDS = 10.0  # between the lines of a log file
_LINE = "{desc}: {n_fmt}/{total_fmt}{unit}, {elapsed} elapsed, {remaining} left"


def progress(
    description: str, total: int, unit: str, *, initial: int = 0, stream: TextIO | None = None
) -> tqdm:
    """Returns a progress bar as a context manager; call its `update(n)` after n units.

    In a terminal, it is a bar that is cleared at the end. Otherwise it prints a line every 10
    seconds, and none for shorter work. Only the first process prints.

    Args:
      description: name of the work, such as 'sampling'.
      total: number of units.
      unit: plural name of a unit, such as 'videos'.
      initial: number of units done before; default 0.
      stream: where to print; default stderr.
    """
    stream = stream or sys.stderr
    options = {"desc": description, "total": total, "initial": initial, "unit": f" {unit}"}
    options["disable"] = not is_first_process()
    if stream.isatty():
        columns, rows = shutil.get_terminal_size()  # tqdm prints nothing where both are 0
        return tqdm(file=stream, leave=False, ncols=columns, nrows=rows, **options)
    options |= {"delay": _SECONDS, "mininterval": _SECONDS, "miniters": 1}
    return tqdm(file=_Lines(stream), bar_format=_LINE, **options)


class _Lines:
    """Converts tqdm's output, which overwrites one line, to consecutive lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip():
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()
