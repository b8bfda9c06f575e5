"""Finds the videos in a folder tree, and the reasons why other files are skipped."""

import dataclasses
import errno
import os
import re
import stat
from pathlib import Path

from vdm.files import local_path
from vdm.video.errors import UnreadableVideoError
from vdm.video.formats import arrays, containers, images

# Files that vdm writes next to videos, or reads as a list of videos.
INDEX_NAMES = ("video_index.json", "video_index.txt")
MANIFEST_NAMES = ("manifest.csv", "manifest.jsonl")  # or in upper case, as on macOS and Windows
CAPTION_NAMES = ("captions.npz", "tokens.bin")  # of vdm.data.encode_text, in its own folder
# --mode=sample writes all samples to this array file, and some also as GIF and MP4.
_SAMPLES = "samples.npz"
# Stems of files that vdm writes as both GIF and MP4. A user's GIF and MP4 of equal stem may be
# different videos.
_WRITTEN_TWICE = re.compile(r"video_\d{4,}|step_\d{8,}|figure4")


@dataclasses.dataclass(frozen=True)
class Found:
    """One video in a folder tree.

    Attributes:
      name: path relative to the folder, with forward slashes; '#INDEX' is appended in an array file
        of several videos.
      path: path of the file, or of the folder of images.
      index: index in an array file of several videos, otherwise None.
    """

    name: str
    path: Path
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class FoundVideos:
    """The videos in a folder tree.

    Attributes:
      videos: the videos in natural order of their names; videos of an array file by index.
      left_out: {name: reason} of other files and folders, without the contents of such folders.
      unreadable: names in `left_out` of array files that are damaged or may be videos in another
        layout, and of files and folders without read permission.
    """

    videos: tuple[Found, ...]
    left_out: dict[str, str]
    unreadable: frozenset[str]


def manifests_of(folder: Path) -> list[Path]:
    """Returns the paths of the manifests in a folder, sorted; none if it cannot be listed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if name.lower() in MANIFEST_NAMES]


def find_videos(path: str | Path) -> FoundVideos:
    """Finds the videos in a folder at any depth, or in a single file.

    Files are classified by suffix; only the headers of array files and of possibly animated images
    are read. Symbolic links are followed, except to a folder that contains them. In order of
    precedence:

    - In a folder with samples.npz (--mode=sample), only this array file is used.
    - A folder of images without other videos is one video. Its sub-folders (of masks, for example)
      are skipped, unless they outnumber the images. So are array files of another layout (camera
      poses, for example).
    - Array files in which no array has 4 axes (labels, for example) are skipped.
    - If vdm wrote a sample or preview as both GIF and MP4, the MP4 is used, unless the root has a
      manifest.

    Raises:
      FileNotFoundError: the path does not exist.
      UnreadableVideoError: the path is a file, and not a video.
    """
    path = local_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
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
    """Returns the GIFs among a folder's files that vdm also wrote as MP4."""
    # GIFs merge equal frames and have 256 colours, so MP4s are preferred.
    stems = [name.removesuffix(".mp4") for name in files if name.endswith(".mp4")]
    return {f"{s}{images.GIF}" for s in stems if _WRITTEN_TWICE.fullmatch(s)}.intersection(files)


def _order(found: Found) -> tuple:
    """Sorting key: folder by folder, in natural order of names."""
    return [images.natural_order(part) for part in found.path.parts], found.index or 0


class _Search:
    def __init__(self, root: Path):
        self.root = root
        self.videos: list[Found] = []
        self.left_out: dict[str, str] = {}
        self.unreadable: set[str] = set()
        self.has_manifest = bool(manifests_of(root))

    def folder(self, folder: Path, name: str, above: frozenset) -> None:
        """Searches a folder; `above` holds the real paths of its parents."""
        real = os.path.realpath(folder)
        if real in above:
            self.left_out[name] = "is a link to a folder that contains it"
            return
        prefix = f"{name}/" if name else ""
        files: list[str] = []
        folders: list[str] = []
        try:
            entries = sorted(os.listdir(folder))
        except OSError as error:
            self._unreadable(name or ".", f"cannot be listed: {error.strerror}")
            return
        for entry in entries:
            path = folder / entry
            if entry.startswith("."):
                self.left_out[prefix + entry] = "is hidden"
                continue
            try:
                (folders if stat.S_ISDIR(path.stat().st_mode) else files).append(entry)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    self.left_out[prefix + entry] = "is a dangling link"
                else:
                    self._unreadable(prefix + entry, f"cannot be read: {error.strerror}")
        if set(CAPTION_NAMES).issubset(files):
            self.left_out[name or "."] = "has encoded captions"
            return
        if _SAMPLES in files and _is_video(folder / _SAMPLES):
            for entry in (*files, *folders):
                if entry != _SAMPLES:
                    self.left_out[prefix + entry] = f"is beside {_SAMPLES}, which has all samples"
            self.file(folder / _SAMPLES, prefix + _SAMPLES, loose_images=False)
            return
        twins = set() if self.has_manifest else _gifs_of_mp4s(files)
        files = [entry for entry in files if entry not in twins]
        for entry in twins:
            self.left_out[prefix + entry] = f"is {Path(entry).stem}.mp4 as a GIF"
        is_frames = self._is_frames(folder, files, folders)
        if is_frames:
            self.videos.append(Found(name or ".", folder))
        for entry in files:
            if not (is_frames and images.is_image(folder / entry)):
                self.file(folder / entry, prefix + entry, loose_images=False, is_beside=is_frames)
        for entry in folders:
            if is_frames:
                self.left_out[prefix + entry] = "is in a folder of the frames of one video"
            else:
                self.folder(folder / entry, prefix + entry, above | {real})

    def file(self, path: Path, name: str, *, loose_images: bool, is_beside: bool = False) -> None:
        """Adds the videos of a file, or the reason why it is skipped.

        Args:
          path: path of the file.
          name: its name relative to the folder of the search.
          loose_images: whether a still image is a video.
          is_beside: whether the images of its folder are the frames of a video.
        """
        suffix = path.suffix.lower()
        if path.name in INDEX_NAMES:
            self.left_out[name] = "is the index of a folder of videos"
        elif path.name.lower() in MANIFEST_NAMES:
            self.left_out[name] = "is a manifest"
        elif not path.is_file():
            self.left_out[name] = "is not a regular file"
        elif suffix in containers.SUFFIXES or suffix == images.GIF:
            self.videos.append(Found(name, path))
        elif suffix in arrays.SUFFIXES:
            self._arrays(path, name, is_beside)
        elif suffix in images.SUFFIXES and (loose_images or images.is_animated(path)):
            self.videos.append(Found(name, path))
        elif suffix in images.SUFFIXES:
            self.left_out[name] = "is a single image beside videos"
        else:
            self.left_out[name] = "is no video or image by its name"

    def _arrays(self, path: Path, name: str, is_beside: bool) -> None:
        try:
            count = len(arrays.ArrayFile(path))
        except UnreadableVideoError as error:
            if isinstance(error, arrays.OtherArrayError) and (is_beside or error.max_axes < 4):
                self.left_out[name] = error.reason
                return
            self._unreadable(name, error.reason)
            return
        if count == 1:
            self.videos.append(Found(name, path))
        else:
            self.videos += [Found(f"{name}#{index}", path, index) for index in range(count)]

    def _unreadable(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        self.unreadable.add(name)

    @staticmethod
    def _is_frames(folder: Path, files: list[str], folders: list[str]) -> bool:
        stills = [name for name in files if Path(name).suffix.lower() in images.SUFFIXES]
        if len(stills) <= len(folders):
            return False
        return not any(map(_is_video, (folder / name for name in files))) and (
            not images.is_animated(folder / min(stills, key=images.natural_order))
        )


def _is_video(path: Path) -> bool:
    """Returns whether a file is a video, or may be a damaged one; still images are not."""
    suffix = path.suffix.lower()
    if suffix in arrays.SUFFIXES and path.is_file():
        try:
            arrays.ArrayFile(path)
        except UnreadableVideoError as error:
            return not isinstance(error, arrays.OtherArrayError)
        return True
    return suffix in (*containers.SUFFIXES, images.GIF)
