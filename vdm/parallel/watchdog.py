"""Says why a process is gone that had no time to say so itself.

JAX ends a process from C++, by abort(), when another one is lost, and the system's SIGKILL leaves
no time at all. So a small process beside it waits at the other end of a pipe for the end.
"""

import faulthandler
import json
import signal
import subprocess
import sys

_ABORTED = "Fatal Python error: Aborted"  # what faulthandler writes when abort() is called


class LastWords:
    """What is to be said if this process ends without a word of its own."""

    def __init__(self):
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        faulthandler.enable(self._watcher.stdin, all_threads=False)

    def are(self, *, if_aborted: str, if_killed: str) -> None:
        """From here on: the sentence for abort(), and the one for any other sudden end."""
        line = json.dumps({"aborted": if_aborted, "killed": if_killed})
        self._watcher.stdin.write(line.encode() + b"\n")
        self._watcher.stdin.flush()

    def not_needed(self) -> None:
        """The process says itself how it ends, or has ended its work."""
        faulthandler.disable()
        self._watcher.stdin.write(b"{}\n")
        self._watcher.stdin.close()
        self._watcher.wait()


def _watch() -> None:
    # What is sent to the whole process group, Ctrl-C above all, is meant for the other one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sentences, how = {}, "killed"
    for line in sys.stdin:
        if line.startswith("{"):
            sentences = json.loads(line)
        elif line.startswith(_ABORTED):
            how = "aborted"
            break
        else:  # of a crash: where it was
            sys.stderr.write(line)
    if sentences:
        print(f"error: {sentences[how]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _watch()
