"""The watchdog prints an error message for a process that was aborted or killed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from vdm.parallel.watchdog import Watchdog

watchdog = Watchdog()
watchdog.set_messages(if_aborted="early", if_killed="early")
watchdog.set_messages(if_aborted="it was aborted", if_killed="it was killed")
{end}
"""


@pytest.mark.parametrize(
    ("end", "status", "printed"),
    [
        ("os.abort()", -6, "error: it was aborted\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "error: it was killed\n"),
        ("watchdog.stop(); os._exit(3)", 3, ""),
    ],
)
def test_prints_the_message_of_a_sudden_end_and_none_after_stop(end, status, printed):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, printed)
