"""What builders of data sets have in common that are made of a folder of video files and a list."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging

from vdm.data.folder.manifest import Entry, read_manifest
from vdm.video.formats.images import encode_image
from vdm.video.pixels import centre_crop, resize_by_area
from vdm.video.read import stream_frames

MANIFESTS = ("manifest.csv", "manifest.jsonl")
ENCODINGS = ("png", "jpeg")

_LEFT_OUT_SHOWN = 20


@dataclasses.dataclass(eq=False, kw_only=True)
class VideosConfig(tfds.core.BuilderConfig):
    """How videos are stored.

    Attributes:
      resolution: height and width, to which the square in the middle of each frame is resized by
        area, as `vdm.data.clips.ClipSource` does it; or 0 for frames as they are.
      encoding: of each frame, 'png', which keeps every pixel, or 'jpeg', which takes less room.
      min_frames: shorter videos are left out.
    """

    resolution: int = 64
    encoding: str = "png"
    min_frames: int = 16

    def __post_init__(self):
        if self.resolution < 0 or self.min_frames < 1 or self.encoding not in ENCODINGS:
            raise ValueError(
                f"resolution is {self.resolution} (at least 0), min_frames {self.min_frames} (at "
                f"least 1), and encoding {self.encoding!r} ({' or '.join(ENCODINGS)})"
            )


class ManualVideos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of the video files in TFDS's manual_dir, which a manifest there lists.

    All frames are kept, at the file's own rate. A file that cannot be read, or is too short, is
    left out, with a warning; which, and why, is in the data set's metadata.json.

    Attributes:
      said_of_each: column of the manifest that each video needs, 'label' or 'caption'.
      needed_splits: that the manifest must have.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012, as TFDS has it
    BUILDER_CONFIGS = [  # noqa: RUF012
        VideosConfig(name="64x64", description="Frames of 64x64 pixels.", resolution=64)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder has the video files, in folders as you like, and manifest.csv or manifest.jsonl,
    which has for each of them `file`, `split` and what the README of the data set names besides.
    """

    said_of_each: str
    needed_splits: tuple[str, ...]

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        side = config.resolution or None
        frame = tfds.features.Image(shape=(side, side, 3), encoding_format=config.encoding)
        said = tfds.features.ClassLabel() if self.said_of_each == "label" else tfds.features.Text()
        return self.dataset_info_from_configs(
            # No tfds.features.Video, which is the same on disk, but cannot be read without
            # TensorFlow.
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Sequence(frame),
                    "name": tfds.features.Text(),
                    self.said_of_each: said,
                }
            ),
            metadata=tfds.core.MetadataDict(min_frames=config.min_frames, left_out={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder = Path(dl_manager.manual_dir)
        entries = self._entries(folder)
        if self.said_of_each == "label":
            self.info.features["label"].names = sorted({entry.label for entry in entries})
        splits = dict.fromkeys(entry.split for entry in entries)
        return {
            split: self._generate_examples(folder, [e for e in entries if e.split == split])
            for split in splits
        }

    def _entries(self, folder: Path) -> list[Entry]:
        found = [folder / name for name in MANIFESTS if (folder / name).exists()]
        if len(found) != 1:
            raise ValueError(
                f"{folder} has {len(found)} of {' and '.join(MANIFESTS)}: one is needed"
            )
        entries = read_manifest(found[0])
        for entry in entries:
            for column in ("split", self.said_of_each):
                if not getattr(entry, column):
                    raise ValueError(f"{entry.file} in {found[0]} has no {column}, and needs one")
        missing = set(self.needed_splits) - {entry.split for entry in entries}
        if missing:
            raise ValueError(f"{found[0]} has no videos of the split {', '.join(sorted(missing))}")
        return entries

    def _generate_examples(self, folder: Path, entries: list[Entry]) -> Iterator[tuple[str, dict]]:
        config, left_out = self.builder_config, {}

        def encoded(entry: Entry) -> list[bytes] | Exception:
            try:
                return _encoded_frames(folder / entry.file, config)
            except (ValueError, OSError) as error:
                return error

        for entry, frames in zip(entries, _in_parallel(encoded, entries), strict=True):
            if isinstance(frames, Exception):
                left_out[entry.file] = str(frames)
                continue
            said = getattr(entry, self.said_of_each)
            yield entry.file, {"video": frames, "name": entry.file, self.said_of_each: said}
        for reason in list(left_out.values())[:_LEFT_OUT_SHOWN]:
            logging.warning("left out: %s", reason)
        if len(left_out) == len(entries):
            raise ValueError(
                f"none of the {len(entries)} videos of a split can be used; the first one: "
                f"{next(iter(left_out.values()))}"
            )
        if left_out:
            split = entries[0].split
            logging.warning("left out %d of %d videos of %s", len(left_out), len(entries), split)
        self.info.metadata["left_out"].update(left_out)


def _encoded_frames(path: Path, config: VideosConfig) -> list[bytes]:
    """All frames of a file as they are stored, or ValueError with the reason to leave it out."""
    frames = []
    for frame in stream_frames(path):
        if config.resolution:
            frame = resize_by_area(centre_crop(frame)[None], config.resolution)[0]
        frames.append(encode_image(frame, config.encoding))
    if len(frames) < config.min_frames:
        raise ValueError(f"{path} has {len(frames)} frames, fewer than {config.min_frames}")
    return frames


def _in_parallel(function: Callable, items: Iterable) -> Iterator:
    """What a function makes of items, in their order, on all cores; some are made ahead."""
    workers = os.cpu_count() or 1
    pending = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
