"""Opens the videos of a folder, with an index file so that each is decoded only once.

The index is a JSON file in the folder; or in the user's cache, if the folder is read-only or
has another program's file of that name. A video is decoded again if its size or modification time
changes; all are if the index is damaged.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from vdm.files import printable, sealed, unsealed, user_cache, write_text
from vdm.video.errors import UnreadableVideoError
from vdm.video.folders import INDEX_NAMES, Found, find_videos
from vdm.video.formats import arrays, images
from vdm.video.formats.containers import Orientation
from vdm.video.formats.random_access import ContainerVideo
from vdm.video.read import Video, open_video
from vdm.video.timing import at_rate, check_frame_rate

INDEX_NAME, REPORT_NAME = INDEX_NAMES
# First lines of our own files; files that start differently are never overwritten.
_INDEX_START = r'\{"version": \d+, "videos": '
REPORT_START = r".*: \d+ videos are used, and \d+ skipped$"
_VERSION = 6
_SAVE_INTERVAL = 60  # seconds between saves, so that interrupted indexing can resume
_PROGRESS_INTERVAL = 10


@dataclasses.dataclass(frozen=True)
class FolderIndex:
    """The opened videos of a folder, keyed by `vdm.video.folders.Found.name`.

    Attributes:
      folder: path of the folder.
      path: path of the index file.
      videos: {name: video} of the readable videos.
      left_out: {name: reason} of the other files.
      unreadable: names in `left_out` of videos that are damaged, have another layout, or lack the
        timestamps that a frame rate requires; and of files and folders without read permission.
    """

    folder: Path
    path: Path
    videos: dict[str, Video]
    left_out: dict[str, str]
    unreadable: frozenset[str]

    def check_readable(self) -> None:
        """Raises ValueError if a video is unreadable, or if there are no videos."""
        for name in sorted(self.unreadable):
            where = self.folder / name if self.folder.is_dir() else self.folder
            raise ValueError(f"{where} {self.left_out[name]}")
        if not self.videos:
            some = "; ".join(f"{name} {why}" for name, why in [*self.left_out.items()][:4])
            raise ValueError(f"{self.folder} has no videos" + (f": {some}" if some else ""))


def index_folder(folder: Path, *, save: bool = True, frame_rate: float = 0.0) -> FolderIndex:
    """Opens the videos of a folder; decodes only those that are new or have changed.

    Args:
      folder: path of a folder, or of a single file.
      save: whether to write the index file, default True; an existing one is always read.
      frame_rate: frames per second, as in `vdm.video.timing.at_rate`; default 0, frames as stored.
        The index file does not depend on it.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: the frame rate is not in [0, 1000].
    """
    check_frame_rate(frame_rate)
    found = find_videos(folder)
    path = _index_path(folder)
    states = {video.name: state_of(video.path) for video in found.videos}
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
            # Array files need no index: their headers suffice. Videos of a file share one reader.
            file = files.setdefault(video.path, arrays.ArrayFile(video.path))
            opened[video.name] = arrays.ArrayVideo(file, video.index or 0)
        elif video.name not in known:
            missing.append(video)
    if missing:
        if save:
            line = f"indexing {len(missing)} videos of {folder}: each is decoded once"
            print(printable(line), flush=True)
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
    ordered = {}
    for video in found.videos:
        if video.name not in opened:
            continue
        try:
            ordered[video.name] = at_rate(opened[video.name], frame_rate)
        except UnreadableVideoError as error:
            left_out[video.name] = error.reason
            unreadable.add(video.name)
    return FolderIndex(folder, path, ordered, left_out, frozenset(unreadable))


def _open_all(
    missing: list[Found],
    states: dict[str, list],
    known: dict[str, dict],
    opened: dict[str, Video],
    path: Path | None,
) -> None:
    """Opens videos in threads, adds them to `known` and `opened`, and saves the index."""
    printed = saved = time.monotonic()
    # Decoding releases the global interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        tasks = {workers.submit(_opened_or_error, video): video for video in missing}
        try:
            for count, task in enumerate(as_completed(tasks), start=1):
                name, result = tasks[task].name, task.result()
                if isinstance(result, Exception):
                    # Not stored: permissions and networks change without changing `state_of`.
                    state = None if _is_of_the_system(result) else states[name]
                    known[name] = {"state": state, "left_out": _reason(tasks[task], result)}
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


def _opened_or_error(found: Found) -> Video | UnreadableVideoError | OSError:
    try:
        return open_video(found.path, found.index)
    except (UnreadableVideoError, OSError) as error:
        return error


def _reason(found: Found, error: Exception) -> str:
    if isinstance(error, UnreadableVideoError):
        if error.path == found.path:
            return error.reason
        return f"has an unusable image: {error.path.name} {error.reason}"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _is_of_the_system(error: Exception) -> bool:
    """Whether an error is, or was caused by, an operating-system error, not a decoder error."""
    cause = error.__cause__ or error
    return isinstance(cause, OSError) and bool(cause.errno)


def state_of(path: Path) -> list[int]:
    """Returns numbers that change if a video changes: bytes, latest file time, number of images."""
    if path.is_dir():
        status = [(path / name).stat() for name in images.image_names(path)]
    else:
        status = [path.stat()]
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
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return user_cache() / digest / INDEX_NAME


def _is_ours(path: Path, start: str) -> bool:
    """Returns whether a file does not exist or starts with our first line."""
    if not path.is_file():
        return not path.exists()
    with path.open(encoding="utf-8", errors="replace") as file:
        return re.match(start, file.readline(10_000)) is not None


def _load(path: Path) -> dict[str, dict]:
    """Returns the records of an index file, {} if it is damaged or has an older version."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return unsealed(index, required=True)["videos"] if index["version"] == _VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _save(path: Path, records: dict[str, dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One line per video, so that people can read and search the file.
    lines = [f"{json.dumps(name)}: {json.dumps(records[name])}" for name in sorted(records)]
    body = ",\n".join(lines)
    digest = sealed({"version": _VERSION, "videos": records})["sha256"]
    write_text(path, f'{{"version": {_VERSION}, "videos": {{\n{body}\n}}, "sha256": "{digest}"}}\n')


def _to_record(video: Video) -> dict:
    record: dict[str, Any] = {
        "frames": video.num_frames,
        "height": video.height,
        "width": video.width,
    }
    if isinstance(video, ContainerVideo):
        record |= {
            "timestamps": _runs(video.timestamps),
            "time_base": list(video.time_base),
            "keyframes": list(video.keyframes),
            "orientation": list(video.orientation),
        }
    elif isinstance(video, images.AnimatedImage):
        delays = [[delay, len(list(run))] for delay, run in itertools.groupby(video.delays)]
        record |= {"pictures": _runs(video.pictures), "delays": delays, "note": video.note}
    return record


def _from_record(path: Path, record: dict) -> Video:
    size = (record["height"], record["width"])
    if "timestamps" in record:
        return ContainerVideo(
            path,
            *size,
            _from_runs(record["timestamps"]),
            tuple(record["time_base"]),
            tuple(record["keyframes"]),
            Orientation(*record["orientation"]),
        )
    if "pictures" in record:
        pictures = _from_runs(record["pictures"])
        delays = tuple(delay for delay, count in record["delays"] for _ in range(count))
        return images.AnimatedImage(path, *size, pictures, delays, record["note"])
    return images.ImageFolder(path, *size, tuple(images.image_names(path)))


def _runs(numbers: Iterable[int]) -> list:
    """Run-length encodes ascending numbers: the first one, followed by [step, count] pairs."""
    numbers = list(numbers)
    steps = (int(step) for step in np.diff(numbers))
    return [numbers[0]] + [[step, len(list(run))] for step, run in itertools.groupby(steps)]


def _from_runs(runs: list) -> tuple[int, ...]:
    first, *rest = runs
    steps = itertools.chain.from_iterable([step] * count for step, count in rest)
    return tuple(itertools.accumulate(steps, initial=first))
