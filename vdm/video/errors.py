"""The error that all readers of this package raise."""

from pathlib import Path


class UnreadableVideoError(ValueError):
    """A video that cannot be read.

    Attributes:
      path: path of the file or folder.
      reason: the cause, phrased to follow the path: 'is empty'.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason
