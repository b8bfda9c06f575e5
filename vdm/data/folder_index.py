"""What is in a folder of videos, found by decoding all of it once.

The index is a JSON file in the folder, or in a cache folder where that cannot be written. A file
that changes its size or its time is decoded again.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from vdm.data import pictures, video_files
from vdm.data.video_files import CONTAINERS, Contents

INDEX_NAME = "video_index.json"
_VERSION = 1
_SAVED_EVERY = 60  # seconds, so that an index that is interrupted goes on
_SAID_EVERY = 10


@dataclasses.dataclass(frozen=True)
class FolderIndex:
    """The videos of a folder, by name: the path from the folder on, with forward slashes.

    Attributes:
      folder: the folder.
      path: the index file.
      videos: what is in each video that can be used.
      skipped: why each of the others cannot.
    """

    folder: Path
    path: Path
    videos: dict[str, Contents]
    skipped: dict[str, str]


def index_folder(folder: Path) -> FolderIndex:
    """The index of a folder, of which what has not changed since the last time is not decoded.

    A video is a file whose name ends as in `vdm.data.video_files.CONTAINERS` or in .gif, or a
    folder of images alone, one for each frame, in the natural order of their names. Folders are
    searched to any depth. Hidden entries are ignored, and other files too.

    Raises:
      FileNotFoundError: there is no such folder.
      NotADirectoryError: it is a file.
      ValueError: PyAV is needed and not installed.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist, and videos are to be read from it")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, and a folder of videos is needed")
    path = _index_path(folder)
    found = {name: _state(folder / name) for name in _video_names(folder)}
    known = {
        name: record
        for name, record in _load(path).items()
        if name in found and record["state"] == found[name]
    }
    missing = [name for name in found if name not in known]
    if missing:
        print(f"indexing {len(missing)} videos of {folder}, once: all are decoded", flush=True)
        _examine_all(folder, missing, found, known, path)
    records = {name: known[name] for name in found}
    return FolderIndex(
        folder,
        path,
        {name: _unpacked(record) for name, record in records.items() if "skipped" not in record},
        {name: record["skipped"] for name, record in records.items() if "skipped" in record},
    )


def examine(path: Path) -> Contents:
    """Decodes a whole video of any kind, and says what is in it.

    Of a GIF or a folder of images the timestamps are numbers of pictures.

    Raises:
      ValueError: it cannot be used.
    """
    if path.is_dir():
        images = pictures.entries_of(path)
        sizes = {pictures.read_image(image, 3).shape[:2] for image in images}
        if len(sizes) > 1:
            raise ValueError(f"{path} has images of different sizes, {sorted(sizes)}")
        return Contents(*sizes.pop(), tuple(range(len(images))), (0,))
    if path.suffix.lower() == ".gif":
        order = pictures.gif_order(path)
        height, width = pictures.read_gif(path, range(order[-1] + 1), 3).shape[1:3]
        return Contents(height, width, tuple(order), (0,))
    return video_files.examine(path)


def read_frames(path: Path, contents: Contents, numbers: list[int]) -> np.ndarray:
    """Frames of a video of any kind by their numbers, uint8 [n, height, width, 3].

    Raises:
      ValueError: it cannot be read any more, or has changed.
    """
    if path.is_dir():
        images = pictures.entries_of(path)
        if len(images) != contents.num_frames:
            raise ValueError(f"{path} has {len(images)} images, and had {contents.num_frames}")
        return np.stack([pictures.read_image(images[number], 3) for number in numbers])
    if path.suffix.lower() == ".gif":
        shown = [contents.timestamps[number] for number in numbers]
        stored, places = np.unique(shown, return_inverse=True)
        return pictures.read_gif(path, stored.tolist(), 3)[places]
    return video_files.read_frames(path, contents, numbers)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file, of which other processes see all or nothing."""
    # Not the process's number: hosts that share a folder may have the same.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _video_names(folder: Path) -> list[str]:
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [name for name in files if not name.startswith(".")]
        paths = [Path(place, name) for name in files]
        if files and not folders and all(map(pictures.is_image, paths)):
            names.append(Path(place).relative_to(folder).as_posix())
        names += [
            path.relative_to(folder).as_posix()
            for path in paths
            if path.suffix.lower() in (*CONTAINERS, ".gif")
        ]
    return sorted(names)


def _state(path: Path) -> list[int]:
    """What changes when a video does: its size, or number of images, and its time."""
    status = path.stat()
    size = len(os.listdir(path)) if path.is_dir() else status.st_size
    return [size, status.st_mtime_ns]


def _index_path(folder: Path) -> Path:
    path = folder / INDEX_NAME
    if os.access(path if path.exists() else folder, os.W_OK):
        return path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache / "vdm" / digest / INDEX_NAME


def _load(path: Path) -> dict[str, dict]:
    """The records of an index file, none where it is of another version or damaged."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return index["videos"] if index["version"] == _VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _save(path: Path, records: dict[str, dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line a video, to be read and searched.
    lines = [f"{json.dumps(name)}: {json.dumps(records[name])}" for name in sorted(records)]
    body = ",\n".join(lines)
    write_atomically(path, f'{{"version": {_VERSION}, "videos": {{\n{body}\n}}}}\n')


def _examine_all(
    folder: Path, missing: list[str], found: dict[str, list], known: dict[str, dict], path: Path
) -> None:
    """Adds the records of the missing videos to the known ones, and saves them."""
    said = saved = time.monotonic()
    # Decoding runs outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        tasks = {workers.submit(_record, folder / name): name for name in missing}
        try:
            for count, task in enumerate(as_completed(tasks), start=1):
                known[tasks[task]] = {"state": found[tasks[task]]} | task.result()
                now = time.monotonic()
                if now - said > _SAID_EVERY:
                    print(f"  {count} of {len(missing)} videos", flush=True)
                    said = now
                if now - saved > _SAVED_EVERY:
                    _save(path, known)
                    saved = now
        finally:
            workers.shutdown(wait=False, cancel_futures=True)
            _save(path, known)


def _record(path: Path) -> dict:
    try:
        return _packed(examine(path))
    except ValueError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        return {"skipped": str(error).removeprefix(f"{path} ")}


def _packed(contents: Contents) -> dict:
    return {
        "frames": contents.num_frames,
        "height": contents.height,
        "width": contents.width,
        "timestamps": _runs(contents.timestamps),
        "keyframes": list(contents.keyframes),
    }


def _unpacked(record: dict) -> Contents:
    first, *runs = record["timestamps"]
    steps = itertools.chain.from_iterable([step] * count for step, count in runs)
    timestamps = tuple(itertools.accumulate(steps, initial=first))
    return Contents(record["height"], record["width"], timestamps, tuple(record["keyframes"]))


def _runs(timestamps: Iterable[int]) -> list:
    """Timestamps as the first one, and [step, how many times] after it."""
    timestamps = list(timestamps)
    steps = (int(step) for step in np.diff(timestamps))
    return [timestamps[0]] + [[step, len(list(run))] for step, run in itertools.groupby(steps)]
