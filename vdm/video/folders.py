"""Which videos there are below a folder, and which files were left out, and why."""

import dataclasses
import os
import re
from pathlib import Path

from vdm.video.errors import UnreadableVideoError
from vdm.video.formats import arrays, containers, images

# Files that vdm writes beside videos, or reads as a list of them.
INDEX_NAMES = ("video_index.json", "video_index.txt")
MANIFEST_NAMES = ("manifest.csv", "manifest.jsonl")
# What --mode=sample leaves: all samples as arrays, and pictures of some.
_SAMPLES = "samples.npz"
# Stems of the GIF and the MP4 of one sample, preview or figure. Two files of users that have one
# stem may be different videos.
_WRITTEN_TWICE = re.compile(r"video_\d{4,}|step_\d{8,}|figure4")


@dataclasses.dataclass(frozen=True)
class Found:
    """One video below a folder.

    Attributes:
      name: the path below the folder, with forward slashes; of an array file that holds several
        videos with '#' and the index after it.
      path: the file, or the folder of images.
      index: of the video in an array file, None for all others.
    """

    name: str
    path: Path
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class FoundVideos:
    """The videos below a folder.

    Attributes:
      videos: in the natural order of their names, an array file's by index.
      left_out: why each other file or folder is not used, by name. Of a folder that is left out,
        the contents are not listed.
      unreadable: those names in `left_out` that should be videos: array files that are damaged or
        of another layout.
    """

    videos: tuple[Found, ...]
    left_out: dict[str, str]
    unreadable: frozenset[str]


def find_videos(path: str | Path) -> FoundVideos:
    """Finds the videos below a folder, to any depth; of a file, the videos in it.

    The name decides what a file is, and videos are not opened, but for the headers of arrays and
    of .png and .webp files, which may be animated. Symbolic links are followed, each folder once.
    A folder with images and without other videos is the frames of one video: its sub-folders,
    masks for example, are left out, unless they are more than the images. A folder with
    samples.npz, as --mode=sample leaves it, is that file alone. Of a sample or preview that is
    there as GIF and as MP4, by the names that vdm gives them, the MP4 is used, unless a manifest in
    the folder decides.

    Raises:
      FileNotFoundError: there is no such path.
      UnreadableVideoError: the path is a file that is no video.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, and videos are to be read from it")
    search = _Search(path)
    if path.is_dir():
        search.folder(path, "", frozenset())
    else:
        search.file(path, path.name, loose_images=True)
        if search.left_out:
            raise UnreadableVideoError(path, search.left_out[path.name])
    return FoundVideos(
        tuple(sorted(search.videos, key=_order)),
        dict(sorted(search.left_out.items())),
        frozenset(search.unreadable),
    )


def _gifs_of_mp4s(files: list[str]) -> set[str]:
    """Those GIFs among a folder's files of which the same sample is there as an MP4."""
    # The GIF is the one to leave out: it merges equal frames, and has 256 colours.
    stems = [name.removesuffix(".mp4") for name in files if name.endswith(".mp4")]
    return {f"{s}{images.GIF}" for s in stems if _WRITTEN_TWICE.fullmatch(s)}.intersection(files)


def _order(found: Found) -> tuple:
    """Folder by folder in the natural order of names, frame_10 after frame_9."""
    return [images.natural_order(part) for part in found.path.parts], found.index or 0


class _Search:
    def __init__(self, root: Path):
        self.root = root
        self.videos: list[Found] = []
        self.left_out: dict[str, str] = {}
        self.unreadable: set[str] = set()
        self.has_manifest = any((root / name).exists() for name in MANIFEST_NAMES)

    def folder(self, folder: Path, name: str, above: frozenset) -> None:
        """Searches a folder; `above` are the real paths of those that it lies in."""
        real = os.path.realpath(folder)
        if real in above:
            self.left_out[name] = "is a link to a folder that it lies in"
            return
        prefix = f"{name}/" if name else ""
        files, folders = [], []
        try:
            entries = sorted(os.listdir(folder))
        except OSError as error:
            self.left_out[name or "."] = f"cannot be listed: {error.strerror}"
            return
        for entry in entries:
            path = folder / entry
            if entry.startswith("."):
                self.left_out[prefix + entry] = "is hidden"
            elif not path.exists():
                self.left_out[prefix + entry] = "is a link to nothing"
            else:
                (folders if path.is_dir() else files).append(entry)
        if _SAMPLES in files:
            for entry in (*files, *folders):
                if entry != _SAMPLES:
                    self.left_out[prefix + entry] = f"is beside {_SAMPLES}, which holds the samples"
            self.file(folder / _SAMPLES, prefix + _SAMPLES, loose_images=False)
            return
        twins = set() if self.has_manifest else _gifs_of_mp4s(files)
        files = [entry for entry in files if entry not in twins]
        for entry in twins:
            self.left_out[prefix + entry] = f"is the sample of {Path(entry).stem}.mp4 as a GIF"
        is_frames = self._is_frames(folder, files, folders)
        if is_frames:
            self.videos.append(Found(name or ".", folder))
        for entry in files:
            if not (is_frames and images.is_image(folder / entry)):
                self.file(folder / entry, prefix + entry, loose_images=False)
        for entry in folders:
            if is_frames:
                self.left_out[prefix + entry] = "lies in a folder of the frames of one video"
            else:
                self.folder(folder / entry, prefix + entry, above | {real})

    def file(self, path: Path, name: str, *, loose_images: bool) -> None:
        """Adds the videos of a file, or its reason to be left out."""
        suffix = path.suffix.lower()
        if path.name in INDEX_NAMES:
            self.left_out[name] = "is the index of a folder of videos"
        elif path.name in MANIFEST_NAMES:
            self.left_out[name] = "is a manifest"
        elif not path.is_file():
            self.left_out[name] = "is no regular file"
        elif suffix in containers.SUFFIXES or suffix == images.GIF:
            self.videos.append(Found(name, path))
        elif suffix in arrays.SUFFIXES:
            self._arrays(path, name)
        elif suffix in images.SUFFIXES and (loose_images or images.is_animated(path)):
            self.videos.append(Found(name, path))
        elif suffix in images.SUFFIXES:
            self.left_out[name] = "is a single image beside videos"
        else:
            self.left_out[name] = "is no video or image by its name"

    def _arrays(self, path: Path, name: str) -> None:
        try:
            count = len(arrays.ArrayFile(path))
        except UnreadableVideoError as error:
            self.left_out[name] = error.reason
            self.unreadable.add(name)
            return
        if count == 1:
            self.videos.append(Found(name, path))
        else:
            self.videos += [Found(f"{name}#{index}", path, index) for index in range(count)]

    @staticmethod
    def _is_frames(folder: Path, files: list[str], folders: list[str]) -> bool:
        others = (*containers.SUFFIXES, images.GIF, *arrays.SUFFIXES)
        if any(Path(name).suffix.lower() in others for name in files):
            return False
        stills = [name for name in files if Path(name).suffix.lower() in images.SUFFIXES]
        return (
            bool(stills)
            and len(stills) > len(folders)
            and not images.is_animated(folder / min(stills, key=images.natural_order))
        )
