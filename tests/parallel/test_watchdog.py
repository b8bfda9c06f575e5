"""A process that is ended from outside has its last sentence all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from vdm.parallel.watchdog import LastWords

words = LastWords()
words.are(if_aborted="early", if_killed="early")
words.are(if_aborted="it was aborted", if_killed="it was killed")
{end}
"""


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("os.abort()", -6, "error: it was aborted\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "error: it was killed\n"),
        ("words.not_needed(); os._exit(3)", 3, ""),
    ],
)
def test_what_is_said_in_the_end(end, status, said):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, said)
