"""Videos of data sets that TensorFlow Datasets has prepared, at random access.

Both of TFDS's usual file formats are read by number: array_record, which has an index of its own,
and tfrecord, the default of `tfds.load` (vdm/data/tfds/records.py). Of a record only those frames
are decoded that are asked for.
"""

import dataclasses
import functools
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm.data.tfds.records import TfRecords, locate
from vdm.video.formats.images import decode_image

# Records that are kept, so that the frames, the label and the caption of a video are read at once,
# in as many threads as there may be.
_RECORDS_KEPT = 32


def prepared_folder(name: str, config: str, data_dir: str, command: str) -> Path:
    """Where TFDS has put a data set, in its newest version.

    Args:
      name: of the data set.
      config: of its builder, or '' where it has none.
      data_dir: the folder that TFDS was told, or '' for its default.
      command: what prepares the data set.

    Raises:
      ValueError: it is not prepared there.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    parent = root / name / config
    versions = {
        tuple(map(int, folder.name.split("."))): folder
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and (folder / "features.json").exists()
    }
    if not versions:
        raise ValueError(f"there is no prepared data set in {parent}: make it by {command}")
    return versions[max(versions)]


class TfdsVideos:
    """The videos of a split of a prepared data set: a `vdm.data.clips.VideoReader`.

    Attributes:
      folder: of the data set, as `prepared_folder` finds it.
      num_classes: of its labels, or 0.
      metadata: what its builder has noted.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        frames: str = "video",
        label: str = "",
        caption: str = "",
        name: str = "",
    ):
        """Opens a split.

        Args:
          folder: of the data set.
          split: as TFDS writes it, for instance 'train' or 'train+test'.
          frames: the feature that holds the encoded frames.
          label: the feature that holds the class, where there is one.
          caption: the feature that holds the caption, where there is one.
          name: the feature that holds a video's name; without one it has TFDS's, which is its file
            and the number of its record there.

        Raises:
          ValueError: a package is missing; or the data set has no such split or feature, is of
            another file format, or lacks a file.
        """
        builder = _open_builder(folder)
        features, splits = builder.info.features, builder.info.splits
        for feature in filter(None, (frames, label, caption, name)):
            if feature not in features:
                raise ValueError(f"the data set in {folder} has no feature {feature!r}")
        try:
            self._files = splits[split].file_instructions
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"the data set in {folder} has the splits {', '.join(splits)}, and {split} is "
                "needed"
            ) from error
        self.folder = Path(folder)
        self.num_classes = features[label].num_classes if label else 0
        self.metadata = dict(builder.info.metadata or {})
        self._frames, self._label, self._caption, self._name = frames, label, caption, name
        self._ends = list(itertools.accumulate(file.take for file in self._files))
        self._records = _open_records(builder.info.file_format.value, self._files)
        self._example = functools.lru_cache(maxsize=_RECORDS_KEPT)(self._read_example)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def open(self, index: int) -> "EncodedVideo":
        """Video `index`, of which no frame is decoded yet.

        Raises:
          ValueError: its record is damaged.
        """
        return EncodedVideo(self.name(index), self._example(index)[self._frames].bytes_list.value)

    def name(self, index: int) -> str:
        """The video's name in the data set."""
        if self._name:
            return self._text(index, self._name)
        file, place = locate(self._files, self._ends, index)
        return f"{Path(file.filename).name}__{place}"

    def label(self, index: int) -> int:
        """The video's class."""
        return int(self._example(index)[self._label].int64_list.value[0])

    def caption(self, index: int) -> str:
        """What the video shows."""
        return self._text(index, self._caption)

    def _text(self, index: int, feature: str) -> str:
        return self._example(index)[feature].bytes_list.value[0].decode("utf-8")

    def _read_example(self, index: int):
        """The features of a record by name, each a tf.train.Feature."""
        # TFDS's own copy of TensorFlow's messages. Its decoding to NumPy would decode all frames.
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        file, place = locate(self._files, self._ends, index)
        try:
            record = self._records[index]
            return tf_example_pb2.Example.FromString(record).features.feature
        except (DecodeError, RuntimeError, IndexError) as error:  # of array_record the latter
            raise ValueError(f"record {place} of {file.filename} is damaged: {error}") from error


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """A video whose frames are pictures, encoded one by one: a `vdm.data.clips.Video`.

    Attributes:
      name: in its data set.
      encoded: a PNG or JPEG file a frame.
    """

    name: str
    encoded: Sequence[bytes]

    @property
    def num_frames(self) -> int:
        """How many frames it has."""
        return len(self.encoded)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, uint8 [n, height, width, 1 or 3].

        Raises:
          ValueError: a frame that cannot be decoded.
        """
        return np.stack(
            [
                decode_image(self.encoded[index], f"frame {index} of {self.name}")
                for index in indices
            ]
        )


def _open_builder(folder: Path):
    """The prepared data set as TFDS sees it."""
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(folder)
    except ImportError as error:
        raise _missing_package(error) from error
    # A feature of type Video, as of UCF101, imports TensorFlow, whose accelerators are JAX's.
    if tensorflow := sys.modules.get("tensorflow"):
        for kind in ("GPU", "TPU"):
            tensorflow.config.set_visible_devices([], kind)
    return builder


def _open_records(file_format: str, files: Sequence) -> Sequence[bytes]:
    """The records of a split by number, of files that are all there."""
    for file in files:
        if not Path(file.filename).exists():
            raise ValueError(f"{file.filename} is missing, a file of a prepared data set")
    if file_format == "tfrecord":
        return TfRecords(files)
    if file_format != "array_record":
        raise ValueError(
            f"{Path(files[0].filename).parent} has {file_format} files, and array_record or "
            "tfrecord is needed: prepare the data set with --file_format=array_record"
        )
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
        raise _missing_package(error) from error
    return ArrayRecordDataSource(files)


def _missing_package(error: ImportError) -> ValueError:
    return ValueError(f'data sets of TFDS need pip install "vdm[tfds]": {error}')
