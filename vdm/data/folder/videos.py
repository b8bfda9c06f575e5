"""A folder of video files as a data set, without any preparation: `config.data.name` 'folder'."""

import dataclasses
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from vdm.data.folder.manifest import SUFFIXES, Entry, class_numbers, normalised, read_manifest
from vdm.files import write_text
from vdm.video.folders import MANIFEST_NAMES
from vdm.video.index import REPORT_NAME, FolderIndex, index_folder
from vdm.video.read import Video
from vdm.video.timing import describe_length

MANIFEST = "manifest"
SPLITS = ("train", "test")

# Names of folders that are splits where all videos of a folder lie in such ones.
_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("test", "testing")
_VALIDATION_FOLDERS = ("val", "valid", "validation")


@dataclasses.dataclass(frozen=True)
class FolderVideos:
    """A split of a folder's videos, as `vdm.data.clips.VideoReader` says.

    Attributes:
      index: what is in the folder.
      names: of the videos of this split, sorted.
      labels: class of each, by name; empty where none was asked for.
      captions: likewise.
      classes: the names of all classes of the folder, by number.
    """

    index: FolderIndex
    names: tuple[str, ...]
    labels: Mapping[str, int]
    captions: Mapping[str, str]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def folder(self) -> Path:
        """Where the videos are."""
        return self.index.folder

    def open(self, index: int) -> Video:
        """Video `index`; nothing is read yet."""
        return self.index.videos[self.names[index]]

    def name(self, index: int) -> str:
        """The path from the folder on."""
        return self.names[index]

    def label(self, index: int) -> int:
        """The number of the video's class."""
        return self.labels[self.names[index]]

    def caption(self, index: int) -> str:
        """What the manifest says that the video shows."""
        return self.captions[self.names[index]]


# What is found is kept, so that it is said once, and nothing is looked for again.
@functools.lru_cache(maxsize=8)
def open_folder(
    path: Path,
    *,
    needed_frames: int,
    frame_rate: float = 0.0,
    condition: str = "none",
    test_share: float = 0.1,
) -> dict[str, FolderVideos]:
    """The videos of a folder, split into 'train' and 'test'.

    `manifest.csv` or `manifest.jsonl` in the folder, where there is one, says which videos are
    taken, and their labels, captions and splits. A video without a split there, or without a
    manifest, is held out by a digest of its name, so that it stays where it is when others come or
    go; at least one is held out, and one is not. Without labels there, the class of a video is the
    first folder on the way to it. Without a manifest, folders named train/ and test/ are the
    splits; val/ or validation/ is held out where there is no test/, and is skipped otherwise.

    What is left out, and why, is written to video_index.txt beside the index.

    Args:
      path: the folder.
      needed_frames: that a video must have at least, at the frame rate.
      frame_rate: frames per second at which videos are sampled, 0 for frames as stored.
      condition: 'none'; or 'label' or 'text', which every video must have then.
      test_share: the share of videos that is held out.

    Raises:
      OSError: no such folder.
      ValueError: no video can be used, or the manifest is wrong.
    """
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file, and a folder of videos is needed")
    index = index_folder(path, frame_rate=frame_rate)
    skipped = {name: index.left_out[name] for name in index.unreadable}
    other = {
        name: why
        for name, why in index.left_out.items()
        if name not in skipped and name not in MANIFEST_NAMES
    }
    entries = _manifest_entries(path)
    labels, captions = {}, {}
    by_folder = {} if entries else _splits_by_folder(index.videos)
    splits = dict(by_folder)
    for name, video in index.videos.items():
        entry = entries.get(normalised(name))
        labels[name] = _label(name, entry, by_folder)
        captions[name] = entry.caption if entry else ""
        splits[name] = entry.split if entry else by_folder.get(name, "")
        problem = _problem(video, needed_frames, labels[name], captions[name], condition)
        if entries and entry is None:
            problem = "is not in the manifest"
        elif by_folder and not splits[name]:
            problem = "is for validation, and there is a folder of test videos"
        elif splits[name] not in ("", *SPLITS):
            problem = f"has the split {splits[name]!r}, which is neither 'train' nor 'test'"
        if problem:
            skipped[name] = problem
    listed = {normalised(name) for name in (*index.videos, *index.left_out)}
    for name in entries.keys() - listed:
        skipped[name] = "is in the manifest and not in the folder"

    used = [name for name in index.videos if name not in skipped]
    report = index.path.with_name(REPORT_NAME)
    notes = {name: index.videos[name].note for name in used if index.videos[name].note}
    _write_report(report, path, used, skipped | other, len(skipped), notes)
    if not used:
        reasons = [*sorted(skipped.items()), *other.items()]
        some = "; ".join(f"{name} {why}" for name, why in reasons[:4])
        raise ValueError(
            f"{path} has no video that can be used"
            + (f": {some} ({len(reasons)} left out, all of them in {report})" if reasons else "")
        )
    classes = {}
    if condition == "label":
        # Of all videos, so that a class has its number whatever is skipped.
        everything = entries or index.videos.keys() | index.unreadable
        named = {_label(name, entries.get(name), by_folder) for name in everything}
        classes = class_numbers(named - {""})
    by_split = _split(used, splits, test_share)
    _say(path, by_split, skipped, report)
    return {
        split: FolderVideos(
            index,
            tuple(names),
            {name: classes[labels[name]] for name in names} if classes else {},
            captions if condition == "text" else {},
            tuple(classes),
        )
        for split, names in by_split.items()
    }


def _manifest_entries(folder: Path) -> dict[str, Entry]:
    found = [path for suffix in SUFFIXES if (path := folder / f"{MANIFEST}{suffix}").exists()]
    if len(found) > 1:
        raise ValueError(f"{folder} has {found[0].name} and {found[1].name}: one is needed")
    return {normalised(entry.file): entry for entry in read_manifest(found[0])} if found else {}


def _splits_by_folder(names: Iterable[str]) -> dict[str, str]:
    """The split of each video by its first folder, '' if it has none; {} without such folders."""
    first = {name: name.split("/")[0].lower() if "/" in name else "" for name in names}
    tops = set(first.values())
    known = (*_TRAIN_FOLDERS, *_TEST_FOLDERS, *_VALIDATION_FOLDERS)
    if not tops.intersection(_TRAIN_FOLDERS) or len(tops) < 2 or not tops.issubset(known):
        return {}
    held_out = _TEST_FOLDERS if tops.intersection(_TEST_FOLDERS) else _VALIDATION_FOLDERS
    splits = dict.fromkeys(_TRAIN_FOLDERS, "train") | dict.fromkeys(held_out, "test")
    return {name: splits.get(top, "") for name, top in first.items()}


def _label(name: str, entry: Entry | None, by_folder: Mapping[str, str]) -> str:
    """The name of a video's class, by the manifest or else by its first folder below the split."""
    if entry and entry.label:
        return entry.label
    if by_folder:
        name = name.split("/", 1)[-1]
    return name.split("/")[0] if "/" in name else ""


def _problem(video: Video, needed_frames: int, label: str, caption: str, condition: str) -> str:
    """Why a sound video cannot be used, or nothing."""
    if video.num_frames < needed_frames:
        return f"has {describe_length(video)}, and {needed_frames} are needed"
    if condition == "label" and not label:
        return "has no label: it is in no sub-folder, and no manifest says one"
    if condition == "text" and not caption:
        return "has no caption in a manifest"
    return ""


def _split(names: list[str], splits: dict[str, str], test_share: float) -> dict[str, list[str]]:
    """Names by split; of those that have none, by a digest of the name."""
    free = sorted((name for name in names if not splits[name]), key=_digest)
    held_out = {name for name in free if _digest(name) < test_share}
    if test_share > 0 and len(names) > 1 and len(free) == len(names):
        # In a small folder the digests may all be on one side.
        held_out = (held_out | {free[0]}) - {free[-1]}
    chosen = {name: splits[name] or ("test" if name in held_out else "train") for name in names}
    return {split: sorted(n for n in names if chosen[n] == split) for split in SPLITS}


def _digest(name: str) -> float:
    """A number from [0, 1) that depends on a name alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _write_report(
    report: Path,
    folder: Path,
    used: list[str],
    left_out: dict[str, str],
    num_skipped: int,
    notes: dict[str, str],
) -> None:
    lines = [f"{folder}: {len(used)} videos are used, and {num_skipped} skipped"]
    lines += [f"{name} {why}" for name, why in sorted(left_out.items())]
    lines += [f"{name} is used, and {note}" for name, note in sorted(notes.items())]
    text = "\n".join(lines) + "\n"
    # As it is written: a name that is not UTF-8 has escapes.
    encoded = text.encode("utf-8", errors="backslashreplace")
    if not report.exists() or report.read_bytes() != encoded:
        write_text(report, text)


def _say(
    folder: Path, by_split: dict[str, list[str]], skipped: dict[str, str], report: Path
) -> None:
    counts = ", ".join(f"{len(names)} in {split!r}" for split, names in by_split.items())
    line = f"{folder}: {counts}"
    if skipped:
        # The first words, since what follows differs from one video to the next.
        kinds = Counter(" ".join(why.split()[:3]).rstrip(":,") for why in skipped.values())
        reasons = ", ".join(f"{count} {kind!r}" for kind, count in kinds.most_common(4))
        line += f"; {len(skipped)} skipped ({reasons}), which {report} names"
    print(line.encode("utf-8", errors="backslashreplace").decode(), flush=True)
