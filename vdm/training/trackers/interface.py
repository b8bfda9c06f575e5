"""The interface of trackers."""

from collections.abc import Mapping
from typing import NamedTuple


class Clip(NamedTuple):
    """A video to display.

    Attributes:
      gif: the video as an animated GIF.
      height, width: of the GIF, pixels.
      caption: what the video shows, as text.
    """

    gif: bytes
    height: int
    width: int
    caption: str


class Tracker:
    """Receives what a training run logs. A tracker overrides the methods that it supports.

    Steps do not decrease, and a step may come several times. After a kill, a resumed run logs the
    steps from its checkpoint on again, with the same values except times and memory.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers of a step by name."""

    def text(self, step: int, name: str, text: str) -> None:
        """Logs a text."""

    def clip(self, step: int, name: str, clip: Clip) -> None:
        """Logs a video."""

    def close(self) -> None:
        """Writes what is pending."""
