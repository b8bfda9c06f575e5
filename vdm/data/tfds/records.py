"""Random access to tfrecord files, without TensorFlow."""

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import google_crc32c

from vdm.data.tfds.instructions import FileInstruction, locate


class TfRecords:
    """The concatenated records of several files. Thread-safe.

    A record has a 12-byte header, which starts with its length, and a 4-byte footer, the masked
    CRC-32C of its content. The record offsets of a file are read at its first use, and kept in
    memory.
    """

    _HEADER, _FOOTER = 12, 4

    def __init__(self, instructions: Sequence[FileInstruction]):
        self._instructions = instructions
        self._ends = list(itertools.accumulate(i.take for i in instructions))
        self._offsets: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> bytes:
        """Returns record `index`.

        Raises:
          ValueError: the file does not have the expected records, or the record is damaged.
        """
        file, number = locate(self._instructions, self._ends, index)
        with self._lock:
            if file.filename not in self._offsets:
                self._offsets[file.filename] = self._find_records(file)
            begin, end = self._offsets[file.filename][number : number + 2]
        with open(file.filename, "rb") as records:
            records.seek(begin + self._HEADER)
            content = records.read(end - begin - self._HEADER - self._FOOTER)
            checksum = int.from_bytes(records.read(self._FOOTER), "little")
        if checksum != _masked_crc32c(content):
            raise ValueError(
                f"record {number} of {file.filename} is damaged: its content does not match its "
                "checksum"
            )
        return content

    def _find_records(self, file: FileInstruction) -> list[int]:
        """Returns the offset of each record, and the end of the last one."""
        offsets, size = [0], Path(file.filename).stat().st_size
        with open(file.filename, "rb", buffering=0) as records:
            while offsets[-1] < size:
                records.seek(offsets[-1])
                length = int.from_bytes(records.read(8), "little")
                offsets.append(offsets[-1] + self._HEADER + length + self._FOOTER)
        if offsets[-1] != size or len(offsets) - 1 != file.examples_in_shard:
            raise ValueError(
                f"{file.filename} is damaged: it should have {file.examples_in_shard} records, and "
                f"{len(offsets) - 1 - (offsets[-1] != size)} are whole"
            )
        return offsets


def _masked_crc32c(content: bytes) -> int:
    """Returns TensorFlow's checksum of a record, a uint32."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
