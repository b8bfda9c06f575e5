"""Reads a folder of video files as a data set, without preparation: config.data.name 'folder'."""

import dataclasses
import functools
import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vdm.data.folder.manifest import Entry, class_numbers, find_manifest, normalised, read_manifest
from vdm.files import make_folder, printable, write_text
from vdm.video.folders import manifests_of
from vdm.video.formats.arrays import SUFFIXES as ARRAY_SUFFIXES
from vdm.video.index import REPORT_NAME, FolderIndex, index_folder, state_of
from vdm.video.read import Video
from vdm.video.splits import KNOWN, TEST, TRAIN, VALIDATION, split_names
from vdm.video.timing import describe_length

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class FolderVideos:
    """A split of the videos of a folder: a `vdm.data.clips.VideoReader`."""

    index: FolderIndex
    names: tuple[str, ...]  # videos of this split, sorted
    labels: Mapping[str, int]  # by name; empty without condition 'label'
    captions: Mapping[str, str]  # by name; empty without condition 'text'
    classes: tuple[str, ...]  # names of all classes of the folder, by number

    def __len__(self) -> int:
        return len(self.names)

    @property
    def folder(self) -> Path:
        return self.index.folder

    def open(self, index: int) -> Video:
        return self.index.videos[self.names[index]]

    def name(self, index: int) -> str:
        return self.names[index]

    def state(self) -> str:
        """Returns a SHA-256 that changes if a video, its label or its caption changes."""
        states = {name: state_of(self.index.videos[name].path) for name in self.names}
        record = printable(json.dumps([states, dict(self.labels), dict(self.captions)]))
        return hashlib.sha256(record.encode()).hexdigest()

    def label(self, index: int) -> int:
        return self.labels[self.names[index]]

    def caption(self, index: int) -> str:
        return self.captions[self.names[index]]


# Cached, so that the folder is searched, and its summary printed, only once.
@functools.lru_cache(maxsize=8)
def open_folder(
    path: Path,
    *,
    needed_frames: int,
    frame_rate: float = 0.0,
    condition: str = "none",
    classes: tuple[str, ...] = (),
    test_share: float = 0.1,
) -> dict[str, FolderVideos]:
    """Opens the videos of a folder, split into 'train' and 'test'.

    `manifest.csv` or `manifest.jsonl` in the folder lists the videos to use, with labels, captions
    and splits. Of the videos without a split, the fraction `test_share` is held out, by a hash of
    the name, so that adding or removing videos does not move others; at least one video is held out
    and one is not, and a single video is not. A video without a label has the first folder of its
    path as its class. Without a manifest, folders named train/ and test/ are the splits (in the
    folder itself, or as in `vdm.video.splits.split_names`), and no video may be outside them; val/
    or validation/ is held out if there is no test/, and skipped otherwise. If all videos are in
    train/, it is neither a split nor a class.

    Videos with fewer than `needed_frames` frames at the frame rate are skipped; with condition
    'label' or 'text', so are videos without a label or caption. video_index.txt, next to the index,
    lists the skipped videos with the reasons. Classes have the numbers of their names in `classes`;
    if it is empty, they are numbered in alphabetical order.

    Raises:
      OSError: there is no such folder.
      ValueError: no video can be used, the manifest is invalid, or `classes` lacks a class.
    """
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file, and must be a folder of videos")
    index = index_folder(path, frame_rate=frame_rate)
    entries = _manifest_entries(path, index.videos)
    by_folder = _NO_FOLDERS if entries else _splits_by_folder(path, index.videos)
    described = {name: _described(name, entries, by_folder) for name in index.videos}

    skipped = {name: index.left_out[name] for name in index.unreadable}
    for name, video in index.videos.items():
        if reason := _reason_to_skip(video, described[name], needed_frames, condition):
            skipped[name] = reason
    found = {normalised(name) for name in (*index.videos, *index.left_out)}
    skipped |= {n: "is in the manifest and not in the folder" for n in entries.keys() - found}
    used = {n: e for n, e in described.items() if e is not None and n not in skipped}

    report = index.path.with_name(REPORT_NAME)
    _write_report(report, index, list(used), skipped)
    if not used:
        left_out = [*sorted(skipped.items()), *_other_files(index).items()]
        some = "; ".join(f"{name} {why}" for name, why in left_out[:4])
        raise ValueError(
            f"{path} has no video that can be used"
            + (f": {some} ({len(left_out)} left out, listed in {report})" if left_out else "")
            + f"; {_remedy(index, needed_frames, condition)}"
        )
    numbers = _classes(index, entries, by_folder) if condition == "label" else {}
    if numbers and classes:
        numbers = {name: number for number, name in enumerate(classes)}
        # Systems write accents in different ways; of names that differ in this only, the first.
        composed = {unicodedata.normalize("NFC", name): name for name in reversed(classes)}
        used = {name: _in_class(path, entry, classes, composed) for name, entry in used.items()}
    by_split = _split(used, test_share)
    _print_summary(path, by_split, skipped, report)
    return {
        split: FolderVideos(
            index,
            tuple(names),
            {name: numbers[used[name].label] for name in names} if numbers else {},
            {name: used[name].caption for name in names} if condition == "text" else {},
            tuple(numbers),
        )
        for split, names in by_split.items()
    }


def _remedy(index: FolderIndex, needed_frames: int, condition: str) -> str:
    """Returns a hint on how to make the videos of a folder usable."""
    if not index.videos:
        return "docs/data.md lists the kinds of files that are read"
    most = max(video.num_frames for video in index.videos.values())
    if most < needed_frames:
        return f"the longest has {most} frames, which config.data.frames has to fit"
    if condition == "text":
        return "manifest.csv in the folder, with the columns file and caption, adds captions"
    if condition == "label":
        return "sub-folders, or manifest.csv with the columns file and label, add labels"
    return "docs/data.md describes the manifest and the splits"


def _manifest_entries(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Returns the rows of a folder's manifest by the names of its videos, {} without a manifest.

    A row of an array file of several videos is the row of each video that has none of its own.
    """
    path = find_manifest(folder)
    if path is None:
        return {}
    of_file: dict[str, list[str]] = {}
    for name in map(normalised, names):
        file, _, index = name.rpartition("#")
        if index.isdecimal() and PurePosixPath(file).suffix.lower() in ARRAY_SUFFIXES:
            of_file.setdefault(file, []).append(name)
    rows = {_relative(folder, normalised(entry.file)): entry for entry in read_manifest(path)}
    expanded = {name: rows[file] for file in of_file.keys() & rows for name in of_file[file]}
    return expanded | {name: entry for name, entry in rows.items() if name not in of_file}


def _relative(folder: Path, name: str) -> str:
    """Returns the path of a video relative to its folder, if it is an absolute path in it."""
    path = PurePosixPath(name)
    roots = (folder.absolute(), folder.resolve()) if path.is_absolute() else ()
    for root in map(normalised, map(str, roots)):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return name


class _ByFolder(NamedTuple):
    """The splits of a folder by the names of its sub-folders.

    Attributes:
      split: split of each video; '' if only a folder for training was found.
      levels: levels of folders that are no classes: that of the splits, and those above it if they
        hold all videos.
    """

    split: Mapping[str, str]
    levels: frozenset[int]


_NO_FOLDERS = _ByFolder({}, frozenset())


def _splits_by_folder(folder: Path, names: Collection[str]) -> _ByFolder:
    """Returns the splits by folder, `_NO_FOLDERS` if no folders are splits.

    Raises:
      ValueError: there are videos outside the split folders.
    """
    if names and all("/" in name and name.split("/")[0].lower() in TRAIN for name in names):
        return _ByFolder({}, frozenset([0]))
    level, found = split_names(names)
    if not found:
        return _NO_FOLDERS
    if beside := sorted(
        {name.split("/")[0] for name, split in found.items() if split not in KNOWN}
    ):
        splits = " and ".join(sorted(set(found.values()).intersection(KNOWN)))
        more = ", ..." if len(beside) > 4 else ""
        raise ValueError(
            f"{folder} has folders of splits, {splits}, and beside them "
            f"{', '.join(beside[:4])}{more}, in no split: move these into one of the folders, or "
            "assign the splits in manifest.csv"
        )
    held_out = TEST if set(found.values()).intersection(TEST) else VALIDATION
    of_folder = dict.fromkeys(TRAIN, "train") | dict.fromkeys(held_out, "test")
    above = {tuple(name.split("/")[:level]) for name in names}
    return _ByFolder(
        {name: of_folder.get(split, "validation") for name, split in found.items()},
        frozenset(range(level + 1) if len(above) == 1 else [level]),
    )


def _described(name: str, entries: Mapping[str, Entry], by_folder: _ByFolder) -> Entry | None:
    """Returns the label, caption and split of a video; None if a manifest does not list it."""
    entry = entries.get(normalised(name))
    if entries and entry is None:
        return None
    caption, split = (entry.caption, entry.split) if entry else ("", by_folder.split.get(name, ""))
    return Entry(name, _label(name, entry, by_folder), caption, split)


def _label(name: str, entry: Entry | None, by_folder: _ByFolder) -> str:
    """Returns the class name of a video: from the manifest, else its first folder."""
    if entry and entry.label:
        return entry.label
    folders = name.split("/")[:-1]
    classes = [f for level, f in enumerate(folders) if level not in by_folder.levels]
    return classes[0] if classes else ""


def _reason_to_skip(video: Video, entry: Entry | None, needed_frames: int, condition: str) -> str:
    """Returns why a readable video cannot be used, '' if it can."""
    if entry is None:
        return "is not in the manifest"
    if entry.split not in ("", *SPLITS):
        return f"has the split {entry.split!r}, which is neither 'train' nor 'test'"
    if video.num_frames < needed_frames:
        return f"has {describe_length(video)}, and {needed_frames} are needed"
    if condition == "label" and not entry.label:
        return "has no label: it is in no sub-folder, and has none in a manifest"
    if condition == "text" and not entry.caption:
        return "has no caption in a manifest"
    return ""


def _classes(
    index: FolderIndex, entries: Mapping[str, Entry], by_folder: _ByFolder
) -> dict[str, int]:
    # Skipped videos count, too, so that class numbers do not depend on them.
    names = entries or index.videos.keys() | index.unreadable
    return class_numbers({_label(n, entries.get(n), by_folder) for n in names} - {""})


def _in_class(
    folder: Path, entry: Entry, classes: tuple[str, ...], composed: Mapping[str, str]
) -> Entry:
    """Returns an entry whose label is the name of its class; `composed` has names by NFC form.

    Raises:
      ValueError: there is no such class.
    """
    label = composed.get(unicodedata.normalize("NFC", entry.label))
    if label is not None:
        return dataclasses.replace(entry, label=label)
    some = f"{', '.join(map(repr, classes[:4]))}{', ...' if len(classes) > 4 else ''}"
    raise ValueError(
        f"{folder / entry.file} has the class {entry.label!r}, and config.data.classes has {some}: "
        "give the class its former name, or start another run"
    )


def _split(entries: Mapping[str, Entry], test_share: float) -> dict[str, list[str]]:
    """Returns names by split; videos without a split are assigned by a hash of their name."""
    free = sorted((name for name in entries if not entries[name].split), key=_hash)
    held_out = {name for name in free if _hash(name) < test_share}
    if test_share > 0 and len(free) == len(entries):
        # In a small folder, all hashes may fall on one side. A single video is for training.
        held_out = (held_out | {free[0]}) - {free[-1]}
    chosen = {
        name: entry.split or ("test" if name in held_out else "train")
        for name, entry in entries.items()
    }
    return {split: sorted(n for n in entries if chosen[n] == split) for split in SPLITS}


def _hash(name: str) -> float:
    """Returns a number in [0, 1) that depends only on the name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _other_files(index: FolderIndex) -> dict[str, str]:
    """Returns {name: reason} of the files that are neither videos nor manifests."""
    ignored = {*index.unreadable, *(path.name for path in manifests_of(index.folder))}
    return {name: why for name, why in index.left_out.items() if name not in ignored}


def _write_report(
    report: Path, index: FolderIndex, used: list[str], skipped: dict[str, str]
) -> None:
    notes = {name: index.videos[name].note for name in used if index.videos[name].note}
    lines = [f"{index.folder}: {len(used)} videos are used, and {len(skipped)} skipped"]
    lines += [f"{name} {why}" for name, why in sorted((skipped | _other_files(index)).items())]
    lines += [f"{name} is used, and {note}" for name, note in sorted(notes.items())]
    # Names may have line breaks.
    text = "".join(line.replace("\n", "\\n").replace("\r", "\\r") + "\n" for line in lines)
    if not report.exists() or report.read_bytes() != printable(text).encode():
        make_folder(report.parent)  # may be missing: array files alone need no index
        write_text(report, text)


def _print_summary(
    folder: Path, by_split: Mapping[str, list[str]], skipped: Mapping[str, str], report: Path
) -> None:
    counts = ", ".join(f"{len(names)} in {split!r}" for split, names in by_split.items())
    line = f"{folder}: {counts}"
    if skipped:
        # Groups by the first three words of a reason, which are equal for all videos.
        kinds = Counter(" ".join(why.split()[:3]).rstrip(":,") for why in skipped.values())
        reasons = ", ".join(f"{count} {kind!r}" for kind, count in kinds.most_common(4))
        line += f"; {len(skipped)} skipped ({reasons}), listed in {report}"
    print(printable(line), flush=True)
