"""Prints an error message on behalf of a process that was killed or aborted.

JAX aborts a process from C++ when another process is lost, and SIGKILL cannot be caught. So a small
child process reads a pipe from this process, and prints if the pipe closes unexpectedly.
"""

import faulthandler
import json
import signal
import subprocess
import sys
from typing import IO

_ABORTED = "Fatal Python error: Aborted"  # faulthandler writes this when abort() is called


class Watchdog:
    """A child process that prints an error message if this process ends without one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        self._pipe: IO[bytes] = self._process.stdin
        faulthandler.enable(self._pipe, all_threads=False)

    def set_messages(self, *, if_aborted: str, if_killed: str) -> None:
        """Sets the messages: one for abort(), one for any other sudden death."""
        line = json.dumps({"aborted": if_aborted, "killed": if_killed})
        self._pipe.write(line.encode() + b"\n")
        self._pipe.flush()

    def stop(self) -> None:
        """Stops the child process, because this process finishes or prints its own error."""
        faulthandler.disable()
        self._pipe.write(b"{}\n")
        self._pipe.close()
        self._process.wait()


def _watch() -> None:
    # Ignores signals to the process group, such as Ctrl-C: the parent handles them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    messages, cause = {}, "killed"
    for line in sys.stdin:
        if line.startswith("{"):
            messages = json.loads(line)
        elif line.startswith(_ABORTED):
            # Waits until the process has printed its C++ stack, so that our message is last.
            cause = "aborted"
        elif cause != "aborted":  # faulthandler's traceback of a crash
            sys.stderr.write(line)
    if messages:
        print(f"error: {messages[cause]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _watch()
