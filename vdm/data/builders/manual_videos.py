"""Base class of TFDS builders that read a folder of video files and a manifest."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging

from vdm.data.folder.manifest import Entry, find_manifest, path_of, read_manifest
from vdm.video.formats.images import encode_image
from vdm.video.pixels import central_square
from vdm.video.read import stream_frames

ENCODINGS = ("png", "jpeg")

_MAX_WARNINGS = 20


@dataclasses.dataclass(eq=False, kw_only=True)
class VideosConfig(tfds.core.BuilderConfig):
    """Storage format of the videos.

    Attributes:
      resolution: height and width in pixels, to which the central square of each frame is resized
        by area averaging, as in `vdm.data.clips.ClipDataSet`; 0 keeps the original frames.
      encoding: encoding of each frame, 'png' (lossless) or 'jpeg' (smaller).
      min_frames: minimum number of frames; shorter videos are skipped.
    """

    resolution: int = 64
    encoding: str = "png"
    min_frames: int = 16

    def __post_init__(self):
        for field, minimum in (("resolution", 0), ("min_frames", 1)):
            value = getattr(self, field)
            if value < minimum or not isinstance(value, int):
                raise ValueError(
                    f"{field} is {value}, and must be an integer of at least {minimum}"
                )
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding is {self.encoding!r}, and must be {' or '.join(ENCODINGS)}")


class ManualVideos(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # mypy sees no types of TFDS
    """Base builder of the video files that a manifest in TFDS's manual_dir lists.

    All frames are kept, at the file's own frame rate. Unreadable and short files are skipped with a
    warning; the data set's metadata.json lists them with the reasons.

    Attributes:
      described_by: column of the manifest that each video needs, 'label' or 'caption'.
      required_splits: splits that the manifest must have.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012, as in TFDS
    BUILDER_CONFIGS = [  # noqa: RUF012
        VideosConfig(name="64x64", description="Frames of 64x64 pixels.", resolution=64)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder has the video files, in any sub-folders, and manifest.csv or manifest.jsonl, with
    the columns `file`, `split`, and those that the README of the data set names.
    """

    described_by: str
    required_splits: tuple[str, ...]

    def download_and_prepare(self, **options) -> None:
        """Prepares the data set as TFDS does, unless it is prepared.

        Raises:
          ValueError: it is prepared with other fields of `VideosConfig`.
        """
        if (Path(self.data_dir) / "features.json").exists():
            self._check_prepared()
        super().download_and_prepare(**options)

    def _check_prepared(self) -> None:
        # TFDS identifies a configuration by its name alone.
        info = tfds.builder_from_directory(self.data_dir).info
        frame = info.features["video"].feature
        found = {"resolution": frame.shape[0] or 0, "encoding": frame.encoding_format}
        for field, value in (found | {"min_frames": info.metadata["min_frames"]}).items():
            if (required := getattr(self.builder_config, field)) != value:
                raise ValueError(
                    f"{self.data_dir} is prepared with {field} {value}, and {required} is "
                    "required: choose another name in --config, or delete that folder"
                )

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        side = config.resolution or None
        frame = tfds.features.Image(shape=(side, side, 3), encoding_format=config.encoding)
        feature = (
            tfds.features.ClassLabel() if self.described_by == "label" else tfds.features.Text()
        )
        return self.dataset_info_from_configs(
            # tfds.features.Video has the same format on disk, but reading it requires TensorFlow.
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Sequence(frame),
                    "name": tfds.features.Text(),
                    self.described_by: feature,
                }
            ),
            metadata=tfds.core.MetadataDict(min_frames=config.min_frames, left_out={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder = Path(dl_manager.manual_dir)
        entries = self._entries(folder)
        if self.described_by == "label":
            self.info.features["label"].names = sorted({entry.label for entry in entries})
        splits = dict.fromkeys(entry.split for entry in entries)
        return {
            split: self._generate_examples(folder, [e for e in entries if e.split == split])
            for split in splits
        }

    def _entries(self, folder: Path) -> list[Entry]:
        path = find_manifest(folder)
        if path is None:
            raise ValueError(f"{folder} has no manifest.csv or manifest.jsonl, and needs one")
        entries = read_manifest(path)
        for entry in entries:
            for column in ("split", self.described_by):
                if not getattr(entry, column):
                    raise ValueError(f"{entry.file} in {path} has no {column}, and needs one")
        missing = set(self.required_splits) - {entry.split for entry in entries}
        if missing:
            raise ValueError(f"{path} has no videos in the split {', '.join(sorted(missing))}")
        return entries

    def _generate_examples(self, folder: Path, entries: list[Entry]) -> Iterator[tuple[str, dict]]:
        config, left_out = self.builder_config, {}

        def encoded(entry: Entry) -> list[bytes] | Exception:
            try:
                return _encoded_frames(path_of(folder, entry.file), config)
            except (ValueError, OSError) as error:
                return error

        for entry, frames in zip(entries, _in_parallel(encoded, entries), strict=True):
            if isinstance(frames, Exception):
                left_out[entry.file] = str(frames)
                continue
            description = getattr(entry, self.described_by)
            yield entry.file, {"video": frames, "name": entry.file, self.described_by: description}
        for reason in list(left_out.values())[:_MAX_WARNINGS]:
            logging.warning("left out: %s", reason)
        if len(left_out) == len(entries):
            raise ValueError(
                f"none of the {len(entries)} videos of a split can be used; the first reason: "
                f"{next(iter(left_out.values()))}"
            )
        if left_out:
            split = entries[0].split
            logging.warning("left out %d of %d videos of %s", len(left_out), len(entries), split)
        self.info.metadata["left_out"].update(left_out)


def _encoded_frames(path: Path, config: VideosConfig) -> list[bytes]:
    """Returns all frames of a file, encoded for storage.

    Raises:
      ValueError: the file is unreadable or too short.
    """
    frames = []
    for frame in stream_frames(path):
        if config.resolution:
            frame = central_square(frame, config.resolution)
        frames.append(encode_image(frame, config.encoding))
    if len(frames) < config.min_frames:
        raise ValueError(f"{path} has {len(frames)} frames, and {config.min_frames} are needed")
    return frames


def _in_parallel(function: Callable, items: Iterable) -> Iterator:
    """Maps a function over items in threads; yields results in order, with bounded look-ahead."""
    workers = os.cpu_count() or 1
    pending: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
