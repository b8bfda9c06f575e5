"""The error of every reader in this package."""

from pathlib import Path


class UnreadableVideoError(ValueError):
    """A video that cannot be used.

    Attributes:
      path: the file or folder.
      reason: the cause, without the path.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason
