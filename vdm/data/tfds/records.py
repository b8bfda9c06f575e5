"""Random access to tfrecord files, without TensorFlow."""

import bisect
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class FileInstruction(Protocol):
    """The records to read from one file, as tensorflow_datasets gives them."""

    filename: str
    skip: int  # number of records before those to read
    take: int  # number of records to read
    examples_in_shard: int  # number of records in the file


class TfRecords:
    """The concatenated records of several files. Thread-safe.

    A record has a 12-byte header, which starts with its length, and a 4-byte footer. The record
    offsets of a file are read at its first use, and kept in memory.
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
          ValueError: the file does not have the expected records.
        """
        file, number = locate(self._instructions, self._ends, index)
        with self._lock:
            if file.filename not in self._offsets:
                self._offsets[file.filename] = self._find_records(file)
            begin, end = self._offsets[file.filename][number : number + 2]
        with open(file.filename, "rb") as records:
            records.seek(begin + self._HEADER)
            return records.read(end - begin - self._HEADER - self._FOOTER)

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


def locate(
    instructions: Sequence[FileInstruction], ends: Sequence[int], index: int
) -> tuple[FileInstruction, int]:
    """Returns the index of the file that holds record `index`, and the record's index in it.

    `ends` are the cumulative sums of `take` over the instructions, one per file.

    Raises:
      IndexError: there is no such record.
    """
    if not instructions or not 0 <= index < ends[-1]:
        raise IndexError(f"record {index} of {ends[-1] if ends else 0}")
    number = bisect.bisect_right(ends, index)
    file = instructions[number]
    return file, file.skip + index - (ends[number] - file.take)
