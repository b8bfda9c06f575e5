"""Progress in a terminal and in a log file."""

import io
import re

import pytest

from vdm import progress as module
from vdm.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where a test sets it."""
    now = [100.0]
    monkeypatch.setattr(module.tqdm, "monitor_interval", 0)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def _work(stream, clock, seconds):
    with progress("sampling", 80, "videos", initial=10, stream=stream) as bar:
        for _ in range(7):
            clock[0] += seconds
            bar.update(10)
    return stream.getvalue()


def test_a_log_file_has_a_line_every_ten_seconds(clock):
    text = _work(io.StringIO(), clock, 4)
    assert "\r" not in text and text.endswith("\n")
    pattern = r"sampling: (\d+)/80 videos, 00:(\d+) elapsed, 00:(\d+) left\n"
    lines = [tuple(map(int, match)) for match in re.findall(pattern, text)]
    assert len(lines) == text.count("\n")
    # 10 videos in 4 s: at 12 s the last 40 take 16 s, rounded down from the smoothed speed.
    assert [(done, elapsed) for done, elapsed, _ in lines] == [(40, 12), (70, 24), (80, 28)]
    assert [left for *_, left in lines] == pytest.approx([16, 4, 0], abs=1)


def test_short_work_prints_no_lines(clock):
    assert _work(io.StringIO(), clock, 1) == ""


def test_a_terminal_has_a_bar_that_is_cleared(clock):
    text = _work(Terminal(), clock, 1)
    assert "50%" in text and text.endswith("\r")
    assert "\n" not in text


def test_other_processes_print_nothing(clock, monkeypatch):
    monkeypatch.setattr(module, "is_first_process", lambda: False)
    assert _work(io.StringIO(), clock, 4) == "" and _work(Terminal(), clock, 4) == ""
