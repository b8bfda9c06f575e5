"""Positions of records in the files of a prepared data set."""

import bisect
from collections.abc import Sequence
from typing import Protocol


class FileInstruction(Protocol):
    """The records to read from one file, as tensorflow_datasets gives them."""

    filename: str
    skip: int  # number of records before those to read
    take: int  # number of records to read
    examples_in_shard: int  # number of records in the file


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
