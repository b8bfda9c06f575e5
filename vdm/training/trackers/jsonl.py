"""metrics.jsonl: one JSON object per logged step."""

import json
from collections.abc import Mapping
from pathlib import Path

from vdm.files import defined, write_text
from vdm.training.trackers.interface import Tracker


class JsonLines(Tracker):
    """Appends {"step": n, "loss": ..., ...} to metrics.jsonl, a local file."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Resumes metrics.jsonl, dropping lines after `first_step`."""
        self._path = path
        _drop_after(path, first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(defined({"step": step, **values})) + "\n")
        except OSError as error:  # of a full disk, without the name
            raise OSError(f"{self._path} cannot be written: {error.strerror}") from error


def _drop_after(path: Path, step: int) -> None:
    """Drops the lines of metrics.jsonl after a step, and incomplete lines of a killed process."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            is_kept = json.loads(line)["step"] <= step
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if is_kept:
            kept.append(f"{line}\n")  # the last line may lack its newline
    write_text(path, "".join(kept))
