"""TensorBoard events, without TensorFlow."""

import contextlib
import itertools
import os
import socket
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboard.compat.proto import (
    event_pb2,
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorboard.summary.writer.record_writer import RecordWriter

from vdm.training.trackers.interface import Clip, Tracker

# TensorBoard does not import TensorFlow if a module of this name exists. Importing TensorFlow takes
# seconds and may reserve the accelerator's memory.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
_FILES = itertools.count()  # of this process, since names have seconds


class TensorBoard(Tracker):
    """Writes scalars, texts and videos as events to a local folder.

    Events are written at once, in the caller's thread: tensorboard's own EventFileWriter prints the
    traceback of its thread if the disk is full.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """Resumes a run at a step.

        Raises:
          OSError: a file cannot be written; as in all methods, the message names it.
        """
        parts = (int(time.time()), socket.gethostname(), os.getpid(), next(_FILES))
        self._path = folder / "events.out.tfevents.{:010}.{}.{}.{}".format(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter(self._path.open("xb"))
        self._add_event(0, file_version="brain.Event:2")
        # Makes TensorBoard discard later steps that a killed process wrote.
        self._add_event(
            first_step + 1,
            session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._add_values(
            step,
            *(
                summary_pb2.Summary.Value(tag=name, simple_value=value)
                for name, value in values.items()
            ),
        )

    def text(self, step: int, name: str, text: str) -> None:
        """Logs a text, which TensorBoard renders as Markdown."""
        shape = tensor_shape_pb2.TensorShapeProto(dim=[{"size": 1}])
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=[text.encode()]
        )
        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
        value = summary_pb2.Summary.Value(
            tag=f"{name}/text_summary", metadata=metadata, tensor=tensor
        )
        self._add_values(step, value)

    def clip(self, step: int, name: str, clip: Clip) -> None:
        """Logs a video as a GIF image, which TensorBoard plays, and its caption as a text."""
        image = summary_pb2.Summary.Image(
            height=clip.height, width=clip.width, colorspace=3, encoded_image_string=clip.gif
        )
        self._add_values(step, summary_pb2.Summary.Value(tag=name, image=image))
        if clip.caption:
            self.text(step, name, clip.caption)

    def close(self) -> None:
        with self._named():
            self._records.close()

    def _add_values(self, step: int, *values: summary_pb2.Summary.Value) -> None:
        self._add_event(step, summary=summary_pb2.Summary(value=values))

    def _add_event(self, step: int, **content) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        with self._named():
            self._records.write(event.SerializeToString())
            self._records.flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # of a full disk, without the name
            raise OSError(f"{self._path} cannot be written: {error.strerror}") from error
