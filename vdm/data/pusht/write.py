"""Prepares PushT: draws clips on all cores and writes them to shards."""

import multiprocessing
import os
import zipfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from vdm.data.pusht.environment import draw_clip, make_environment
from vdm.data.pusht.shards import FORMAT, RECORD, clip_name, read_description, shards_of
from vdm.files import DamagedFile, replacing, write_record
from vdm.metrics.weights.files import sha256_of
from vdm.progress import progress

# Packages that determine the pixels.
_PACKAGES = ("gym-pusht", "pymunk", "pygame", "opencv-python", "numpy")
_WINDOW = 16  # frames
_REMEDY = "choose another --data_dir, or delete that folder"


def prepare_pusht(
    folder: Path, *, seed: int, train: int, test: int, frames: int, workers: int = 0
) -> dict:
    """Draws the missing clips of a folder, and returns its record.

    An interrupted call resumes; a call for a complete folder only checks it.

    Args:
      folder: output folder, created if missing.
      seed: non-negative seed of the clips.
      train: number of clips for training.
      test: number of held-out clips.
      frames: number of frames per clip.
      workers: number of processes; 0: one per core.

    Returns:
      The content of pusht.json (vdm/data/pusht/shards.py), with `moving`, the mean of
      `moving_share` over all clips.

    Raises:
      ValueError: an argument is out of range, gym-pusht is missing, or the folder has clips with
        other settings or versions.
      OSError: the folder cannot be written.
    """
    minima = {"train": (train, 1), "test": (test, 1), "frames": (frames, 1)}
    for name, (value, minimum) in (minima | {"seed": (seed, 0), "workers": (workers, 0)}).items():
        if value < minimum:
            raise ValueError(f"--{name} is {value}, and must be at least {minimum}")
        if value >= 2**63:
            raise ValueError(f"--{name} is {value}, and must be less than 2**63")
    settings = {"format": FORMAT, "seed": seed, "train": train, "test": test, "frames": frames}
    try:
        record = _started(folder, settings)
        missing = {
            name: indices
            for name, indices in shards_of(settings).items()
            if not _is_whole(folder / name, record["shards"].get(name, ""))
        }
        if record["shards"] and not missing:
            return record
        _check_versions(folder, record["versions"])
        _write_shards(folder, missing, seed, frames, workers)
        record = _completed(folder, record)
        write_record(folder / RECORD, record)
    except DamagedFile as error:
        raise ValueError(f"{error}; {_REMEDY}") from error
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error.strerror or error}") from error
    return record


def moving_share(corners: np.ndarray) -> float:
    """Returns the fraction of a clip's windows of 16 frames in which the block moves.

    The block moves if a corner is at least one pixel away from its position in the first frame of
    the window. A shorter clip is one window.

    Args:
      corners: corners of the block in pixels, as in `Clip`.
    """
    count = max(1, len(corners) - _WINDOW + 1)
    windows = [corners[first : first + _WINDOW] for first in range(count)]
    return float(np.mean([np.linalg.norm(w - w[0], axis=-1).max() >= 1 for w in windows]))


def _started(folder: Path, settings: dict) -> dict:
    """Returns the record of a folder; for a new folder, writes a record without shards."""
    try:
        record = read_description(folder)
    except FileNotFoundError:
        record = {"settings": settings, "versions": _versions(), "shards": {}}
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / RECORD, record)
    for name, value in settings.items():
        if (found := record["settings"][name]) != value:
            raise ValueError(
                f"{folder} has PushT clips with {name} {found}, and {value} is required: {_REMEDY}"
            )
    return record


def _completed(folder: Path, record: dict) -> dict:
    names = shards_of(record["settings"])
    moving = []
    for name in names:
        with np.load(folder / name) as shard:
            moving.append(shard["moving"])
    return record | {
        "shards": {name: sha256_of(folder / name) for name in names},
        "moving": round(float(np.concatenate(moving).mean()), 4),
    }


def _is_whole(path: Path, digest: str) -> bool:
    """Returns whether a shard exists and matches its digest, or without one, its checksums."""
    if not path.exists():
        return False
    if digest:
        return sha256_of(path) == digest
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _versions() -> dict[str, str]:
    make_environment()  # raises if it is not installed
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV has several packages
        return ""


def _check_versions(folder: Path, drawn_with: Mapping[str, str]) -> None:
    for package, found in _versions().items():
        if drawn_with[package] != found:
            raise ValueError(
                f"{folder} has PushT clips drawn with {package} {drawn_with[package]}, and {found} "
                f"is installed: {_REMEDY}"
            )


def _write_shards(
    folder: Path, shards: Mapping[str, range], seed: int, frames: int, workers: int
) -> None:
    if not shards:
        return
    total = sum(map(len, shards.values()))
    tasks = [(folder / name, seed, indices, frames) for name, indices in shards.items()]
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    with progress("drawing PushT", total, "clips") as bar:
        if workers == 1:
            for task in tasks:
                bar.update(_write_shard(*task))
            return
        # Spawns processes, because a fork would copy locks held by other threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            started = [pool.submit(_write_shard, *task) for task in tasks]
            try:
                for shard in as_completed(started):
                    bar.update(shard.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _write_shard(path: Path, seed: int, indices: range, frames: int) -> int:
    """Writes a shard and returns its number of clips."""
    environment, split = make_environment(), path.name.partition("_")[0]
    clips = [draw_clip(environment, seed, split, index, frames) for index in indices]
    arrays = {clip_name(index): clip.video for index, clip in zip(indices, clips, strict=True)}
    arrays |= {name: np.stack([getattr(c, name) for c in clips]) for name in ("action", "state")}
    arrays["moving"] = np.array([moving_share(clip.corners) for clip in clips], np.float32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return len(clips)
