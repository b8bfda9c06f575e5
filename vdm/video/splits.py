"""Recognises the splits of a set of videos by the names of its folders or array files."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from vdm.video.formats import arrays

TRAIN = ("train", "training")
TEST = ("test", "testing")
VALIDATION = ("val", "valid", "validation")
KNOWN = (*TRAIN, *TEST, *VALIDATION)


def split_names(names: Iterable[str]) -> tuple[int, dict[str, str]]:
    """Returns the level of folders that are splits, and the name of each video's folder there.

    Level 0 of 'train/a/x.mp4' is 'train', and level 1 is 'a'. At the level of the splits, a folder
    is for training and another one is held out. Below level 0, all folders of the level must be
    splits: 'clips/train/x.mp4' and 'clips/test/y.mp4', for example, or 'a/train/x.mp4' and
    'b/test/y.mp4' of classes a and b. An array file, such as train.npz, is like a folder.

    Args:
      names: names of videos, as in `vdm.video.folders.Found`.

    Returns:
      (level, {name: folder in lower case, '' for none}); (0, {}) if no level has splits.
    """
    parts = {name: _folders(name) for name in names}
    for level in range(max(map(len, parts.values()), default=0)):
        found = {n: folders[level] if level < len(folders) else "" for n, folders in parts.items()}
        different = set(found.values())
        if level and not different.issubset(KNOWN):
            continue
        if different.intersection(TRAIN) and different.intersection((*TEST, *VALIDATION)):
            return level, found
    return 0, {}


def _folders(name: str) -> list[str]:
    """Returns the folders of a video's name in lower case; an array file is one, by its stem."""
    *folders, last = name.split("/")
    file = PurePosixPath(last.partition("#")[0])
    if file.suffix.lower() in arrays.SUFFIXES:
        folders.append(file.stem)
    return [folder.lower() for folder in folders]
