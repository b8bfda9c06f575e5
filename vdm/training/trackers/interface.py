"""The interface of trackers."""

from collections.abc import Mapping
from typing import NamedTuple


class Clip(NamedTuple):
    """A video to display.

    Attributes:
      gif: the video as an animated GIF.
      height, width: size of the GIF in pixels.
      caption: what the video shows, as text.
    """

    gif: bytes
    height: int
    width: int
    caption: str


class Tracker:
    """Base class of trackers, which override the methods that they support.

    Steps never decrease; a step may be logged several times. After a kill, a resumed run logs all
    steps since its checkpoint again, with the same values except for times and memory.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs scalars of a step, keyed by name."""

    def text(self, step: int, name: str, text: str) -> None:
        """Logs a text."""

    def clip(self, step: int, name: str, clip: Clip) -> None:
        """Logs a video."""

    def close(self) -> None:
        """Flushes pending writes."""
