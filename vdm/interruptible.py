"""Exit statuses of the smaller commands when they are interrupted or their output is closed."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Decorates a command's `main`, to exit as `vdm.parallel.processes.Processes.run` does.

    Exits with 130 and one line after Ctrl-C, and with 141 if the output was closed.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads the output any more, and flushing at exit would fail
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(128 + signal.SIGPIPE)
