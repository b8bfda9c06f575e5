"""tfrecord files at random access, without TensorFlow."""

import bisect
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class FileInstruction(Protocol):
    """What to read of one file, as tensorflow_datasets says it.

    Attributes:
      filename: with its folder.
      skip: records before those to read.
      take: records to read.
      examples_in_shard: all that the file has.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class TfRecords:
    """The records of several files, numbered through; for several threads at once.

    A record has 12 bytes before it, which say how long it is, and 4 after it. Where each of a file
    begins is found by going through these when the file is first used, and kept in memory.
    """

    _BEFORE, _AFTER = 12, 4

    def __init__(self, instructions: Sequence[FileInstruction]):
        self._instructions = instructions
        self._ends = list(itertools.accumulate(i.take for i in instructions))
        self._offsets: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """Record `index`.

        Raises:
          ValueError: its file has not the records that it should have.
        """
        file, place = locate(self._instructions, self._ends, index)
        with self._lock:
            if file.filename not in self._offsets:
                self._offsets[file.filename] = self._find_records(file)
            begin, end = self._offsets[file.filename][place : place + 2]
        with open(file.filename, "rb") as records:
            records.seek(begin + self._BEFORE)
            return records.read(end - begin - self._BEFORE - self._AFTER)

    def _find_records(self, file: FileInstruction) -> list[int]:
        """Where each record begins, and where the last one ends."""
        offsets, size = [0], Path(file.filename).stat().st_size
        with open(file.filename, "rb", buffering=0) as records:
            while offsets[-1] < size:
                records.seek(offsets[-1])
                length = int.from_bytes(records.read(8), "little")
                offsets.append(offsets[-1] + self._BEFORE + length + self._AFTER)
        if offsets[-1] != size or len(offsets) - 1 != file.examples_in_shard:
            raise ValueError(
                f"{file.filename} is damaged: it should have {file.examples_in_shard} records, and "
                f"{len(offsets) - 1 - (offsets[-1] != size)} are whole"
            )
        return offsets


def locate(
    instructions: Sequence[FileInstruction], ends: Sequence[int], index: int
) -> tuple[FileInstruction, int]:
    """The file that holds record `index` of all that are to be read, and its number there.

    Args:
      instructions: of each file.
      ends: the sums of their `take` up to and with each file.
      index: of the record.

    Raises:
      IndexError: there is no such record.
    """
    if not instructions or not 0 <= index < ends[-1]:
        raise IndexError(f"record {index} of {ends[-1] if ends else 0}")
    number = bisect.bisect_right(ends, index)
    file = instructions[number]
    return file, file.skip + index - (ends[number] - file.take)
