"""Clips in [-1, 1] from videos of any size and length.

Each data set of real videos is a `VideoReader`. `ClipDataSet` chooses the video and the frames,
crops, resizes and flips them, and adds independent images for joint training.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from vdm.data.batches import CONDITIONS, DataSet, example_generator, text_arrays
from vdm.video.pixels import from_uint8, with_channels

STARTS = ("random", "first")

# Independent streams of random numbers per seed.
_ORDER, _TRAINING, _HELD_OUT = range(3)


class FrameReader(Protocol):
    """The frames of one video."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    def frames(self, indices: Sequence[int], resolution: int = 0) -> np.ndarray:
        """Reads frames as in `vdm.video.read.Video`; one channel is allowed."""


class VideoReader(Protocol):
    """A split of a data set of videos. Thread-safe."""

    @property
    def folder(self) -> Path:
        """Folder of the data set."""

    def __len__(self) -> int:
        """Number of videos."""

    def open(self, index: int) -> FrameReader:
        """Opens video `index`."""

    def name(self, index: int) -> str:
        """Returns the name of video `index` in the data set."""

    def label(self, index: int) -> int:
        """Returns the class of video `index`, if the data set has classes."""

    def caption(self, index: int) -> str:
        """Returns the caption of video `index`, if the data set has captions."""


@runtime_checkable
class ActionReader(Protocol):
    """A `VideoReader` whose videos have actions."""

    def actions(self, index: int) -> np.ndarray:
        """Returns the action of each frame of video `index`, float32 [num_frames, width]."""


@dataclasses.dataclass(frozen=True)
class ClipDataSet(DataSet):
    """Clips [frames, resolution, resolution, channels] of a data set of videos.

    A clip has every `frameskip`-th frame of a window of one video. Frames are cropped to the
    central square and resized by area averaging.

    With `shuffle`, the examples are endless: each epoch of len(reader) examples is a permutation of
    the videos, a function of (seed, epoch) only, and any example can be read directly. Otherwise,
    example i is video i modulo len(reader), not flipped.

    Attributes:
      reader: the videos.
      seed: non-negative seed of the order, the windows, the flips and the images.
      frames, resolution, channels: shape of a clip; 1 or 3 channels.
      frameskip: distance between consecutive frames of a clip; default 1.
      start: 'random' for a random window, 'first' for the first frames; default 'random'.
      shuffle: True for training; False for all videos in order.
      augment_flip: whether half of the shuffled clips, and of the images independently, are flipped
        horizontally.
      num_images: number of independent images, frames of other videos, per clip.
      condition: 'none', 'label', 'text' or 'action'.
      encode: function caption -> (text [tokens, width], text_mask [tokens]), for condition 'text'.

    Raises:
      ValueError: an attribute is out of range, or there are no videos.
    """

    reader: VideoReader
    seed: int
    frames: int
    resolution: int
    channels: int = 3
    frameskip: int = 1
    start: str = "random"
    shuffle: bool = True
    augment_flip: bool = False
    num_images: int = 0
    condition: str = "none"
    encode: Callable[[str], tuple[np.ndarray, np.ndarray]] | None = None

    def __post_init__(self):
        self.check_attributes(
            choices={"condition": CONDITIONS, "start": STARTS, "channels": (1, 3)},
            minima={"seed": 0, "frames": 1, "resolution": 1, "frameskip": 1, "num_images": 0},
        )
        if not len(self.reader):
            raise ValueError("the data set has no videos")
        if self.num_images and len(self.reader) < 2:
            raise ValueError(
                f"num_images is {self.num_images}, and must be 0 for a data set of one video: "
                "images are frames of other videos"
            )
        if (self.condition == "text") != (self.encode is not None):
            raise ValueError("encode is required with condition 'text', and must be None otherwise")
        if self.condition == "action" and not isinstance(self.reader, ActionReader):
            raise ValueError("condition is 'action', and the videos of the reader have no actions")

    def __len__(self) -> int:
        return len(self.reader)

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Returns example `index`, see `DataSet.example`.

        Raises:
          ValueError: the video is unreadable or has too few frames; the message names the video.
        """
        chosen = self.video_index(index)
        rng = example_generator(self.seed, _TRAINING if self.shuffle else _HELD_OUT, index)
        # One row of random numbers for the clip and one per image, so that the clip does not
        # depend on the number of images.
        draws = rng.random((1 + self.num_images, 3))
        flips = draws[:, 2] < (0.5 if self.shuffle and self.augment_flip else 0)

        video = self.reader.open(chosen)
        window = self._window(chosen, video.num_frames, draws[0, 0])
        out = {"video": self._pixels(video, window, flips[0])}

        # Offsets from 1 to the number of videos - 1: never the clip's own video.
        offsets = 1 + (draws[1:, 1] * (len(self.reader) - 1)).astype(int)
        others = [int(other) for other in (chosen + offsets) % len(self.reader)]
        if self.num_images:
            images = []
            for other, draw, flip in zip(others, draws[1:, 0], flips[1:], strict=True):
                video = self.reader.open(other)
                images.append(self._pixels(video, [int(draw * video.num_frames)], flip)[0])
            out["images"] = np.stack(images)
        return out | self._conditions(chosen, others, window)

    def caption(self, index: int) -> str:
        return self.reader.caption(self.video_index(index))

    def label(self, index: int) -> int:
        return int(self.reader.label(self.video_index(index)))

    def video_index(self, index: int) -> int:
        """Returns the reader's index of the video that example `index` shows.

        Raises:
          ValueError: `index` is negative.
        """
        if index < 0:
            raise ValueError(f"index is {index}, and must not be negative")
        epoch, position = divmod(index, len(self.reader))
        if not self.shuffle:
            return position
        return int(_permutation(self.seed, epoch, len(self.reader))[position])

    def _window(self, chosen: int, num_frames: int, draw: float) -> list[int]:
        """Returns the frame indices of a clip; `draw` in [0, 1) selects the window."""
        length = (self.frames - 1) * self.frameskip + 1
        if num_frames < length:
            raise ValueError(
                f"{self.reader.name(chosen)} has {num_frames} frames, and {length} are needed for "
                f"{self.frames} frames at a frameskip of {self.frameskip}"
            )
        first = int(draw * (num_frames - length + 1)) if self.start == "random" else 0
        return list(range(first, first + length, self.frameskip))

    def _pixels(self, video: FrameReader, frames: list[int], flip: bool) -> np.ndarray:
        """Returns preprocessed frames, float32 [n, resolution, resolution, channels]."""
        pixels = video.frames(frames, self.resolution)
        pixels = pixels[:, :, ::-1] if flip else pixels
        return from_uint8(with_channels(pixels, self.channels))

    def _conditions(
        self, chosen: int, others: list[int], window: list[int]
    ) -> dict[str, np.ndarray]:
        """Returns the labels or captions of the clip and its images, or the clip's actions."""
        if self.condition == "label":
            label, *labels = np.array([self.reader.label(i) for i in (chosen, *others)], np.int32)
            return {"label": label} | ({"image_label": np.stack(labels)} if labels else {})
        if self.encode is not None:
            captions = [self.reader.caption(i) for i in (chosen, *others)]
            return text_arrays([self.encode(caption) for caption in captions])
        if self.condition == "action" and isinstance(self.reader, ActionReader):
            actions = np.asarray(self.reader.actions(chosen)[window], np.float32)
            return {"action": actions, "action_mask": np.ones(len(window), bool)}
        return {}


# Prefetching reads two epochs at the boundary between them.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    # NumPy guarantees the raw bits across versions, but not `Generator.permutation`.
    bits = np.random.Philox(
        key=np.array([seed, _ORDER], np.uint64), counter=np.array([0, 0, 0, epoch], np.uint64)
    )
    return np.argsort(bits.random_raw(count), kind="stable")
