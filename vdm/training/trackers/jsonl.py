"""metrics.jsonl: one JSON object per logged step."""

import json
from collections.abc import Mapping
from pathlib import Path

from vdm.files import write_text
from vdm.training.trackers.interface import Tracker


class JsonLines(Tracker):
    """Appends {"step": n, "loss": ..., ...} to WORKDIR/metrics.jsonl."""

    def __init__(self, workdir: Path, first_step: int) -> None:
        """Resumes the file of an existing workdir, dropping lines after `first_step`."""
        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _drop_after(path: Path, step: int) -> None:
    """Keeps the complete lines of metrics.jsonl up to a step; a killed process may leave others."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            is_kept = json.loads(line)["step"] <= step
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if is_kept:
            kept.append(line)
    write_text(path, "".join(kept))
