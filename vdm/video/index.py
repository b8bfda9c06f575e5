"""The videos of a folder, opened, and kept in a file so that they are decoded once.

The index is a JSON file in the folder, or in a cache folder where that cannot be written or has a
file of another program by that name. A video that changes its size or its time is opened again.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import re
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from vdm.video.errors import UnreadableVideoError
from vdm.video.folders import INDEX_NAMES, Found, find_videos
from vdm.video.formats import arrays, images
from vdm.video.formats.random_access import ContainerVideo
from vdm.video.read import Video, open_video

INDEX_NAME, REPORT_NAME = INDEX_NAMES
# By their first lines our files are told from those of other programs.
_INDEX_START = r'\{"version": \d+, "videos": '
REPORT_START = r".*: \d+ videos are used, and \d+ skipped$"
_VERSION = 3
_SAVE_INTERVAL = 60  # seconds, so that an interrupted indexing resumes
_PROGRESS_INTERVAL = 10


@dataclasses.dataclass(frozen=True)
class FolderIndex:
    """The videos of a folder by name (`vdm.video.folders.Found.name`).

    Attributes:
      folder: the folder.
      path: the index file.
      videos: those that can be used.
      left_out: why each other file cannot.
      unreadable: those names in `left_out` that are videos, but damaged or of another layout.
    """

    folder: Path
    path: Path
    videos: dict[str, Video]
    left_out: dict[str, str]
    unreadable: frozenset[str]

    def check_readable(self) -> None:
        """Raises ValueError, with the reason, where there is no video or an unreadable one."""
        for name in sorted(self.unreadable):
            where = self.folder / name if self.folder.is_dir() else self.folder
            raise ValueError(f"{where} {self.left_out[name]}")
        if not self.videos:
            some = "; ".join(f"{name} {why}" for name, why in [*self.left_out.items()][:4])
            raise ValueError(f"{self.folder} has no videos" + (f": {some}" if some else ""))


def index_folder(folder: Path, *, save: bool = True) -> FolderIndex:
    """Opens the videos of a folder; those that have not changed since the last time, by its index.

    Args:
      folder: a folder, or a single file.
      save: whether to write the index file; an existing one is read in any case.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    found = find_videos(folder)
    path = _index_path(folder)
    states = {video.name: _state(video) for video in found.videos}
    known = {
        name: record
        for name, record in _load(path).items()
        if name in states and record["state"] == states[name]
    }
    opened: dict[str, Video] = {}
    files: dict[Path, arrays.ArrayFile] = {}
    missing = []
    for video in found.videos:
        if video.path.suffix.lower() in arrays.SUFFIXES and not video.path.is_dir():
            # Their headers are the index, and the videos of a file share its position.
            file = files.setdefault(video.path, arrays.ArrayFile(video.path))
            opened[video.name] = arrays.ArrayVideo(file, video.index or 0)
        elif video.name not in known:
            missing.append(video)
    if missing:
        if save:
            print(f"indexing {len(missing)} videos of {folder}, once: all are decoded", flush=True)
        _open_all(missing, states, known, opened, path if save else None)
    unreadable = set(found.unreadable)
    left_out = {n: why for n, why in found.left_out.items() if n not in INDEX_NAMES}
    for video in found.videos:
        if video.name in opened:
            continue
        record = known[video.name]
        if "left_out" in record:
            left_out[video.name] = record["left_out"]
            unreadable.add(video.name)
        else:
            opened[video.name] = _from_record(video.path, record)
    ordered = {video.name: opened[video.name] for video in found.videos if video.name in opened}
    return FolderIndex(folder, path, ordered, left_out, frozenset(unreadable))


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file, of which other processes see all or nothing."""
    # Not the process's number: hosts that share a folder may have the same.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    # A file name that is not UTF-8 is written with escapes.
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def _open_all(
    missing: list[Found],
    states: dict[str, list],
    known: dict[str, dict],
    opened: dict[str, Video],
    path: Path | None,
) -> None:
    """Opens the missing videos, in threads; adds their records to the known ones, and saves."""
    printed = saved = time.monotonic()
    # Decoding runs outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        tasks = {workers.submit(_opened_or_reason, video): video for video in missing}
        try:
            for count, task in enumerate(as_completed(tasks), start=1):
                name, result = tasks[task].name, task.result()
                if isinstance(result, str):
                    known[name] = {"state": states[name], "left_out": result}
                else:
                    known[name] = {"state": states[name]} | _to_record(result)
                    opened[name] = result
                now = time.monotonic()
                if now - printed > _PROGRESS_INTERVAL:
                    print(f"  {count} of {len(missing)} videos", flush=True)
                    printed = now
                if path and now - saved > _SAVE_INTERVAL:
                    _save(path, known)
                    saved = now
        finally:
            workers.shutdown(wait=False, cancel_futures=True)
            if path:
                _save(path, known)


def _opened_or_reason(found: Found) -> Video | str:
    try:
        return open_video(found.path, found.index)
    except UnreadableVideoError as error:
        return error.reason if error.path == found.path else str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _state(found: Found) -> list[int]:
    """Numbers that change when a video does: bytes, newest time, and the count of images."""
    if found.path.is_dir():
        names = images.image_names(found.path)
        status = [(found.path / name).stat() for name in names]
    else:
        status = [found.path.stat()]
    newest = max((item.st_mtime_ns for item in status), default=0)
    return [sum(item.st_size for item in status), newest, len(status)]


def _index_path(folder: Path) -> Path:
    path = folder / INDEX_NAME
    report = folder / REPORT_NAME
    if (
        folder.is_dir()
        and os.access(path if path.exists() else folder, os.W_OK)
        and _is_ours(path, _INDEX_START)
        and _is_ours(report, REPORT_START)
    ):
        return path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return cache / "vdm" / digest / INDEX_NAME


def _is_ours(path: Path, start: str) -> bool:
    """Whether a file is missing, or its first line is one that we write."""
    if not path.is_file():
        return not path.exists()
    with path.open(encoding="utf-8", errors="replace") as file:
        return re.match(start, file.readline(10_000)) is not None


def _load(path: Path) -> dict[str, dict]:
    """The records of an index file: none of an older version or a damaged one."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return index["videos"] if index["version"] == _VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _save(path: Path, records: dict[str, dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One line per video, for people to read and search.
    lines = [f"{json.dumps(name)}: {json.dumps(records[name])}" for name in sorted(records)]
    body = ",\n".join(lines)
    write_atomically(path, f'{{"version": {_VERSION}, "videos": {{\n{body}\n}}}}\n')


def _to_record(video: Video) -> dict:
    record = {"frames": video.num_frames, "height": video.height, "width": video.width}
    if video.note:
        record["note"] = video.note
    if isinstance(video, ContainerVideo):
        record |= {
            "timestamps": _runs(video.timestamps),
            "time_base": list(video.time_base),
            "keyframes": list(video.keyframes),
        }
    elif isinstance(video, images.AnimatedImage):
        record |= {"pictures": _runs(video.pictures), "delay": video.delay}
    return record


def _from_record(path: Path, record: dict) -> Video:
    size, note = (record["height"], record["width"]), record.get("note", "")
    if "timestamps" in record:
        return ContainerVideo(
            path,
            *size,
            _from_runs(record["timestamps"]),
            tuple(record["time_base"]),
            tuple(record["keyframes"]),
            note,
        )
    if "pictures" in record:
        pictures = _from_runs(record["pictures"])
        return images.AnimatedImage(path, *size, pictures, record["delay"], note)
    return images.ImageFolder(path, *size, tuple(images.image_names(path)))


def _runs(numbers: Iterable[int]) -> list:
    """Ascending numbers as the first one, and [step, how many times] after it."""
    numbers = list(numbers)
    steps = (int(step) for step in np.diff(numbers))
    return [numbers[0]] + [[step, len(list(run))] for step, run in itertools.groupby(steps)]


def _from_runs(runs: list) -> tuple[int, ...]:
    first, *rest = runs
    steps = itertools.chain.from_iterable([step] * count for step, count in rest)
    return tuple(itertools.accumulate(steps, initial=first))
