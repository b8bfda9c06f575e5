"""Random access to videos that TensorFlow Datasets (TFDS) has prepared.

Supports both of TFDS's usual file formats: array_record, which has an index, and tfrecord, the
default of `tfds.load` (vdm/data/tfds/records.py). Decodes only the requested frames of a record.
"""

import dataclasses
import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vdm.data.tfds.instructions import locate
from vdm.files import local_path
from vdm.video.formats.images import decode_image
from vdm.video.pixels import central_square

# Number of cached records, from which a video's frames, label and caption are read. Exceeds the
# usual number of threads.
_CACHED_RECORDS = 32


def prepared_folder(name: str, config: str, data_dir: str, command: str) -> Path:
    """Returns the folder of the newest version of a prepared data set.

    `config` may be '' for the builder's default, and `data_dir` for TFDS's default.

    Raises:
      ValueError: the data set is not prepared; the message contains the command that prepares it.
    """
    root = local_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    parent = root / name / config
    versions = {
        tuple(map(int, folder.name.split("."))): folder
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and (folder / "features.json").exists()
    }
    if not versions:
        raise ValueError(f"there is no prepared data set in {parent}: prepare it with {command}")
    return versions[max(versions)]


class TfdsVideos:
    """A split of a prepared data set: a `vdm.data.clips.VideoReader`.

    Attributes:
      folder: folder of the data set, as `prepared_folder` returns it.
      num_classes: number of classes, 0 without labels.
      metadata: metadata that the builder has stored.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        frames: str = "video",
        label: str = "",
        caption: str = "",
        action: str = "",
        name: str = "",
    ):
        """Opens a split, in TFDS's syntax, for instance 'train+test'.

        Further arguments are the names of the features for encoded frames, class, caption, actions
        and video name; '' for none. The default video name is the file and the record's index in
        it.

        Raises:
          ValueError: a package is missing; or the data set has no such split or feature, has
            another file format, or lacks a file.
        """
        builder = _open_builder(folder)
        features, splits = builder.info.features, builder.info.splits
        for feature in filter(None, (frames, label, caption, action, name)):
            if feature not in features:
                raise ValueError(f"the data set in {folder} has no feature {feature!r}")
        try:
            self._files = splits[split].file_instructions
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"the data set in {folder} has the splits {', '.join(splits)}, and {split} is "
                "required"
            ) from error
        self.folder = Path(folder)
        self.num_classes = features[label].num_classes if label else 0
        self.metadata = dict(builder.info.metadata or {})
        self._frames, self._label, self._caption, self._name = frames, label, caption, name
        self._action = action
        self._ends = list(itertools.accumulate(file.take for file in self._files))
        self._record = _open_records(builder.info.file_format.value, self._files)
        self._example = functools.lru_cache(maxsize=_CACHED_RECORDS)(self._read_example)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def open(self, index: int) -> "EncodedVideo":
        """Opens video `index`; decodes no frames.

        Raises:
          ValueError: the record is damaged.
        """
        return EncodedVideo(self.name(index), self._example(index)[self._frames].bytes_list.value)

    def name(self, index: int) -> str:
        if self._name:
            return self._text(index, self._name)
        file, number = locate(self._files, self._ends, index)
        return f"{Path(file.filename).name}__{number}"

    def label(self, index: int) -> int:
        return int(self._example(index)[self._label].int64_list.value[0])

    def caption(self, index: int) -> str:
        return self._text(index, self._caption)

    def actions(self, index: int) -> np.ndarray:
        example = self._example(index)
        values = np.array(example[self._action].float_list.value, np.float32)
        return values.reshape(len(example[self._frames].bytes_list.value), -1)

    def _text(self, index: int, feature: str) -> str:
        return self._example(index)[feature].bytes_list.value[0].decode("utf-8")

    def _read_example(self, index: int):
        """Returns the features of a record by name, each a tf.train.Feature."""
        # Parses the protocol buffer directly, because TFDS's NumPy decoder would decode all frames.
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        file, number = locate(self._files, self._ends, index)
        try:
            record = self._record(index)
            return tf_example_pb2.Example.FromString(record).features.feature
        # The last two are raised by array_record.
        except (DecodeError, RuntimeError, IndexError) as error:
            raise ValueError(f"record {number} of {file.filename} is damaged: {error}") from error


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """A video of separately encoded frames: a `vdm.data.clips.FrameReader`."""

    name: str
    encoded: Sequence[bytes]  # one PNG or JPEG file per frame

    @property
    def num_frames(self) -> int:
        return len(self.encoded)

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`, with the stored number of channels.

        Raises:
          ValueError: a frame cannot be decoded.
        """
        decoded = (decode_image(self.encoded[i], f"frame {i} of {self.name}") for i in indices)
        return np.stack([central_square(frame, resolution) for frame in decoded])


def _open_builder(folder: Path):
    """Returns TFDS's builder of a prepared data set."""
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(folder)
    except ImportError as error:
        raise _missing_package(error) from error
    except Exception as error:  # TFDS, json and protobuf raise many types
        raise ValueError(
            f"dataset_info.json or features.json in {folder} is missing or damaged: {error}"
        ) from error
    # Video features (UCF101) import TensorFlow, which must leave accelerators to JAX.
    if tensorflow := sys.modules.get("tensorflow"):
        for kind in ("GPU", "TPU"):
            tensorflow.config.set_visible_devices([], kind)
    return builder


def _open_records(file_format: str, files: Sequence) -> Callable[[int], bytes]:
    """Returns a function from the index of a record of the split to its content."""
    for file in files:
        if not Path(file.filename).exists():
            raise ValueError(f"{file.filename} is missing from a prepared data set")
    if file_format not in ("array_record", "tfrecord"):
        raise ValueError(
            f"{Path(files[0].filename).parent} has {file_format} files, and must have array_record "
            "or tfrecord files: prepare the data set with --file_format=array_record"
        )
    try:
        if file_format == "tfrecord":
            from vdm.data.tfds.records import TfRecords

            return TfRecords(files).__getitem__
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(files).__getitem__
    except ImportError as error:
        raise _missing_package(error) from error


def _missing_package(error: ImportError) -> ValueError:
    return ValueError(f'data sets of TFDS require pip install "video-diffusion-jax[tfds]": {error}')
