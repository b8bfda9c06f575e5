"""From videos of any size and length, at random access, to a stream of clips in [-1, 1].

Every data set of real videos is a `VideoReader`, and `ClipSource` does the rest: which video, which
of its frames, crop and resize, flip, and the independent images for joint training.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from vdm.data.attributes import check_at_least, check_choices
from vdm.data.batches import examples_of_batch, stack_examples
from vdm.video.pixels import centre_crop, from_uint8, resize_by_area, with_channels

CONDITIONS = ("none", "label", "text")
STARTS = ("random", "first")

# Random numbers of one seed for different things, as words of Philox's key.
_ORDER, _TRAINING, _HELD_OUT = range(3)


class Video(Protocol):
    """One opened video.

    Attributes:
      num_frames: how many frames it has.
    """

    num_frames: int

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Frames by their numbers, uint8 [n, height, width, 1 or 3]."""


class VideoReader(Protocol):
    """A split of a data set of videos, at random access, for several threads at once."""

    def __len__(self) -> int:
        """How many videos there are."""

    def open(self, index: int) -> Video:
        """Video `index`."""

    def name(self, index: int) -> str:
        """The video's name in the data set, the same in every process and at every time."""

    def label(self, index: int) -> int:
        """The video's class, where the data set has classes."""

    def caption(self, index: int) -> str:
        """What the video shows, where the data set says it."""


@dataclasses.dataclass(frozen=True)
class ClipSource:
    """A stream of clips [frames, resolution, resolution, channels] of a data set of videos.

    A clip is `frames` frames of a video, one of every `frameskip`, cropped to the square in their
    middle and resized to `resolution` by area: each pixel is the mean of the part of the frame that
    it covers.

    Shuffled, the stream is endless, and each epoch of len(reader) examples is a permutation of the
    videos; it depends on (seed, epoch) alone, and any example can be made without those before it.
    Otherwise example i is video i, not flipped, and after the last video comes the first again.

    Attributes:
      reader: the videos.
      seed: non-negative; another seed is another order, and other windows, flips and images.
      frames: number of frames, at least 1.
      resolution: height and width in pixels.
      channels: 1 or 3.
      frameskip: one frame of these is kept.
      start: where a clip begins in its video: anywhere, 'random', or at the 'first' frame.
      shuffle: endless and in an order of chance, for training; or each video once.
      augment_flip: half of the shuffled clips, and of the images by themselves, are mirrored left
        to right.
      num_images: independent frames, each of another video of the data set, that come with each
        clip for joint training on videos and images.
      condition: 'none', 'label' or 'text'.
      encode: with condition 'text', caption -> (text [tokens, width], text_mask [tokens]).

    Raises:
      ValueError: an attribute out of its range, or no videos.
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
        check_choices(self, condition=CONDITIONS, start=STARTS, channels=(1, 3))
        check_at_least(self, seed=0, frames=1, resolution=1, frameskip=1, num_images=0)
        if not len(self.reader):
            raise ValueError("a data set of videos is empty")
        if self.num_images and len(self.reader) < 2:
            raise ValueError(
                f"num_images is {self.num_images}, images are frames of other videos, and the data "
                "set has one video"
            )
        if (self.condition == "text") != (self.encode is not None):
            raise ValueError("encode is needed with condition 'text', and there alone")

    def __len__(self) -> int:
        """The number of videos."""
        return len(self.reader)

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Example `index`, any non-negative integer, of the stream.

        Returns:
          video: float32 [frames, height, width, channels].
          images: float32 [num_images, height, width, channels], when num_images > 0.
          label: int32 [], and image_label [num_images], with condition 'label'.
          text: float32 [text_tokens, text_width] and text_mask bool [text_tokens], and image_text
            and image_text_mask with a leading [num_images], with condition 'text'.

        Raises:
          ValueError: with the video's name, it cannot be read or has too few frames.
        """
        chosen = self._video_of(index)
        rng = self._generator(_TRAINING if self.shuffle else _HELD_OUT, index)
        # A row of draws for the clip, then one for each image: the clip of an index is the same
        # whatever the number of images.
        draws = rng.random((1 + self.num_images, 3))
        flips = draws[:, 2] < (0.5 if self.shuffle and self.augment_flip else 0)

        video = self.reader.open(chosen)
        window = self._window(chosen, video.num_frames, draws[0, 0])
        out = {"video": self._pixels(video, window, flips[0])}

        # An offset of 1 to the number less 1: an image is of any video but the clip's own.
        offsets = 1 + (draws[1:, 1] * (len(self.reader) - 1)).astype(int)
        others = [int(other) for other in (chosen + offsets) % len(self.reader)]
        if self.num_images:
            images = []
            for other, draw, flip in zip(others, draws[1:, 0], flips[1:], strict=True):
                video = self.reader.open(other)
                images.append(self._pixels(video, [int(draw * video.num_frames)], flip)[0])
            out["images"] = np.stack(images)
        return out | self._conditions(chosen, others)

    def batch(
        self, step: int, batch_size: int, *, rows: slice | range | None = None
    ) -> dict[str, np.ndarray]:
        """Batch `step`: examples step * batch_size and up, stacked along a new first axis.

        Args:
          step: training step, so that the batch is a function of (seed, step) alone.
          batch_size: of the whole batch, over all hosts.
          rows: the rows of the batch to make here, all of them by default.

        Raises:
          ValueError: as of `example`; or `rows` holds no row of the batch, or one outside it.
        """
        examples = examples_of_batch(step, batch_size, rows)
        return stack_examples([self.example(index) for index in examples])

    def clip_ids(
        self, step: int, batch_size: int, *, rows: slice | range | None = None
    ) -> list[str]:
        """The names of the videos in batch `step`, of which none is read."""
        examples = examples_of_batch(step, batch_size, rows)
        return [self.reader.name(self._video_of(index)) for index in examples]

    def caption(self, index: int) -> str:
        """What example `index` shows, as the data set says it."""
        return self.reader.caption(self._video_of(index))

    def label(self, index: int) -> int:
        """The class of example `index`."""
        return int(self.reader.label(self._video_of(index)))

    def _generator(self, purpose: int, index: int) -> np.random.Generator:
        # The index is the high word of the counter, which 2^192 draws would not reach.
        key = np.array([self.seed, purpose], np.uint64)
        counter = np.array([0, 0, 0, index], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def _video_of(self, index: int) -> int:
        if index < 0:
            raise ValueError(f"the index of an example must not be negative, not {index}")
        epoch, place = divmod(index, len(self.reader))
        return int(_order(self.seed, epoch, len(self.reader))[place]) if self.shuffle else place

    def _window(self, chosen: int, num_frames: int, draw: float) -> list[int]:
        """The numbers of the frames of a clip, as `draw` from [0, 1) places it."""
        length = (self.frames - 1) * self.frameskip + 1
        if num_frames < length:
            raise ValueError(
                f"{self.reader.name(chosen)} has {num_frames} frames, and {length} are needed for "
                f"{self.frames} frames at a frameskip of {self.frameskip}"
            )
        first = int(draw * (num_frames - length + 1)) if self.start == "random" else 0
        return list(range(first, first + length, self.frameskip))

    def _pixels(self, video: Video, frames: list[int], flip: bool) -> np.ndarray:
        """Frames of a video as the model takes them, float32 [n, resolution, resolution, c]."""
        pixels = resize_by_area(centre_crop(video.frames(frames)), self.resolution)
        pixels = pixels[:, :, ::-1] if flip else pixels
        return from_uint8(with_channels(pixels, self.channels))

    def _conditions(self, chosen: int, others: list[int]) -> dict[str, np.ndarray]:
        """The label or the text of the clip and, where there are any, of the images."""
        if self.condition == "label":
            label, *labels = np.array([self.reader.label(i) for i in (chosen, *others)], np.int32)
            return {"label": label} | ({"image_label": np.stack(labels)} if labels else {})
        if self.condition == "text":
            (text, mask), *encoded = [
                self.encode(self.reader.caption(i)) for i in (chosen, *others)
            ]
            out = {"text": text, "text_mask": mask}
            if encoded:
                texts, masks = zip(*encoded, strict=True)
                out |= {"image_text": np.stack(texts), "image_text_mask": np.stack(masks)}
            return out
        return {}


# More than one, since batches are made ahead and meet the next epoch while one ends.
@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` videos in an epoch."""
    key = np.array([seed, _ORDER], np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, epoch], np.uint64))
    # Sorted raw bits, since NumPy promises that they stay the same in its later versions, and
    # does not promise it of `Generator.permutation`.
    return np.argsort(bits.random_raw(count), kind="stable")
