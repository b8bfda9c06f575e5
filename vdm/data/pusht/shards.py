"""Files of a prepared PushT data set: shards of clips, and pusht.json, which describes them.

A shard is an .npz file with the clips video_0000, ..., uint8 [frames, 64, 64, 3], and `action`
[n, frames, 2] and `state` [n, frames, 5] of all its clips. pusht.json has the settings, the package
versions and the SHA-256 of each shard; it lists no shards until all are written.
"""

import contextlib
from pathlib import Path

from vdm.data.pusht.environment import SPLITS
from vdm.files import DamagedFile, read_record, user_cache, xdg_cache

RECORD = "pusht.json"
FORMAT = 2  # version of the shards and of the disc's motions
SHARD_SIZE = 128  # clips
_SETTINGS = {"format", "seed", "frames", *SPLITS}


def default_folder() -> Path:
    """Returns the folder 'pusht' of the cache folder, or that of earlier versions if it exists.

    They kept clips in `xdg_cache`, whatever $VDM_CACHE was.

    Raises:
      RuntimeError: there is no cache folder.
    """
    folder = user_cache() / "pusht"
    if not folder.exists():
        with contextlib.suppress(RuntimeError):  # there is $VDM_CACHE, and no home folder
            if (earlier := xdg_cache() / "pusht").is_dir():
                return earlier
    return folder


def read_description(folder: Path) -> dict:
    """Returns the content of pusht.json.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFile: the file is damaged, or does not describe a PushT data set.
    """
    record = read_record(folder / RECORD)
    parts = [record.get(name) for name in ("versions", "shards", "settings")]
    are_dicts = all(isinstance(part, dict) for part in parts)
    if not are_dicts or not record["settings"].keys() >= _SETTINGS:
        raise DamagedFile(f"{folder / RECORD} is damaged: it does not describe a prepared PushT")
    return record


def shards_of(settings: dict) -> dict[str, range]:
    """Returns {name of a shard: indices of its clips}."""
    return {
        shard_name(split, first): range(first, min(first + SHARD_SIZE, settings[split]))
        for split in SPLITS
        for first in range(0, settings[split], SHARD_SIZE)
    }


def shard_name(split: str, index: int) -> str:
    """Returns the name of the shard that holds clip `index` of a split."""
    return f"{split}_{index // SHARD_SIZE:05}.npz"


def clip_name(index: int) -> str:
    """Returns the array name of clip `index` in its shard."""
    return f"video_{index % SHARD_SIZE:04}"
