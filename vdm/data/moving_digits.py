"""Moving digits: real handwriting that bounces in a square box, with nothing to download.

The digits are the 1797 images of 8x8 pixels that scikit-learn ships; the videos are a pure
function of (seed, split, index), so that the stream is infinite and any part of it can be made
anywhere. Every frame holds the digit whole, so that whether a generated video keeps one and the
same digit can be judged frame by frame.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from vdm.data.attributes import check_at_least, check_choices
from vdm.data.batches import examples_of_batch, stack_examples
from vdm.data.captions.word_vectors import encode_caption

DIGIT_SIZE = 8  # height and width of the handwriting, in pixels
SPLITS = ("train", "test")
CONDITIONS = ("none", "label", "text")
MOTIONS = {  # the velocities (y, x) that a digit may have, in units of the speed
    "any": np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]),
    "horizontal": np.array([(0, -1), (0, 1)]),
}

# scikit-learn keeps the forms in the order they were collected, one writer after another, each of
# about 128 digits. A contiguous split, here where a form begins, puts the last three writers in
# the test set alone; a shuffled one would test on the handwriting that was trained on.
_FIRST_TEST_IMAGE = 1415

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_VERTICAL = {-1: "up", 1: "down"}
_HORIZONTAL = {-1: "left", 1: "right"}


@functools.cache
def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split: images float32 [n, 8, 8] in [-1, 1], and labels int32 [n]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(_FIRST_TEST_IMAGE) if split == "train" else slice(_FIRST_TEST_IMAGE, None)
    images = (digits.images[part] / 8 - 1).astype(np.float32)  # ink is 0..16 in the files
    labels = digits.target[part].astype(np.int32)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


@dataclasses.dataclass(frozen=True)
class MovingDigits:
    """An infinite stream of videos [frames, resolution, resolution, 1] in [-1, 1], ink at +1.

    A digit starts anywhere in the box and moves by `speed` pixels a frame along one axis or both,
    reflected by the walls.

    Attributes:
      split: 'train' or 'test', which share no writer.
      seed: non-negative; another seed is another stream over the same handwriting.
      frames: number of frames, at least 1.
      resolution: height and width in pixels, at least 8. At 8 the digit has no room to move.
      motion: 'any', of the 8 directions that the axes and the diagonals have, or 'horizontal',
        left and right alone, which models learn many times faster (docs/moving_digits.md).
      speed: pixels a frame along an axis; divides the room, so that a wall is met exactly.
      frameskip: one frame of these is kept, so that the digit moves frameskip times as far.
      downsample: each frame is the means of blocks of this many pixels by as many, of one that is
        larger by as much; resolution is the size after it.
      num_images: independent frames of other videos that come with each example, for joint
        training on videos and images.
      condition: 'none', 'label' (the digit) or 'text' (a caption as word vectors).
      text_tokens: places for words in a caption.
      text_width: length of a word vector.

    Raises:
      ValueError: an attribute out of its range.
    """

    split: str
    seed: int = 0
    frames: int = 16
    resolution: int = 16
    motion: str = "any"
    speed: float = 0.5
    frameskip: int = 1
    downsample: int = 1
    num_images: int = 0
    condition: str = "none"
    text_tokens: int = 8
    text_width: int = 32

    def __post_init__(self):
        check_choices(self, split=SPLITS, condition=CONDITIONS, motion=tuple(MOTIONS))
        check_at_least(self, frames=1, frameskip=1, downsample=1, num_images=0, seed=0)
        if self._side < DIGIT_SIZE:
            raise ValueError(
                f"resolution must be at least {DIGIT_SIZE // self.downsample}, the size of a "
                f"digit, not {self.resolution}"
            )
        if self.speed <= 0 or (self._side - DIGIT_SIZE) % self.speed:
            raise ValueError(
                f"speed must divide resolution - {DIGIT_SIZE}, which is "
                f"{self._side - DIGIT_SIZE}, and it is {self.speed}"
            )

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Example `index`, any non-negative integer, of the stream.

        Returns:
          video: float32 [frames, height, width, 1].
          images: float32 [num_images, height, width, 1], when num_images > 0.
          label: int32 [], and image_label [num_images], with condition 'label'.
          text: float32 [text_tokens, text_width] and text_mask bool [text_tokens], and image_text
            and image_text_mask with a leading [num_images], with condition 'text'. The caption
            of an image names its digit only: its motion is not to be seen.
        """
        digits, start, velocity, times = self._draw(index)
        handwritten, labels = handwriting(self.split)
        # Row 0 is the video, one position a frame; each further row is a video seen only once.
        video_at = _bounce(
            start[0], velocity[0], self.frameskip * np.arange(self.frames)[:, None], self._room
        )
        out = {"video": self._paste(handwritten[digits[:1]], video_at)}
        if self.num_images:
            times = self.frameskip * times[:, None]
            images_at = _bounce(start[1:], velocity[1:], times, self._room)
            out["images"] = self._paste(handwritten[digits[1:]], images_at)

        if self.condition == "label":
            out["label"] = labels[digits[0]]
            if self.num_images:
                out["image_label"] = labels[digits[1:]]
        elif self.condition == "text":
            caption = _caption(labels[digits[0]], *velocity[0])
            out["text"], out["text_mask"] = self._encode(caption)
            if self.num_images:
                encoded = [self._encode(_noun(label)) for label in labels[digits[1:]]]
                out["image_text"], out["image_text_mask"] = map(
                    np.stack, zip(*encoded, strict=True)
                )
        return out

    def batch(
        self, step: int, batch_size: int, *, rows: slice | Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Batch `step`: examples step * batch_size and up, stacked along a new first axis.

        Args:
          step: training step, so that the batch is a function of (seed, step) alone.
          batch_size: of the whole batch, over all hosts.
          rows: the rows of the batch to make here, all of them by default.

        Raises:
          ValueError: `rows` holds no row of the batch, or one outside it.
        """
        examples = examples_of_batch(step, batch_size, rows)
        return stack_examples([self.example(index) for index in examples])

    def caption(self, index: int) -> str:
        """What example `index` shows, for instance 'a seven moving up and left' at its start."""
        _, _, velocity, _ = self._draw(index)
        return _caption(self.label(index), *velocity[0])

    def label(self, index: int) -> int:
        """The digit, 0 to 9, that example `index` shows."""
        digits, _, _, _ = self._draw(index)
        return int(handwriting(self.split)[1][digits[0]])

    @property
    def _side(self) -> int:
        """Height and width of a frame before it is downsampled."""
        return self.resolution * self.downsample

    @property
    def _room(self) -> int:
        """The largest coordinate of a digit's first row and column, in units of the speed."""
        return round((self._side - DIGIT_SIZE) / self.speed)

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Handwriting [1 + n], start and velocity [1 + n, 2] (y, x), and image times [n]."""
        if index < 0:
            raise ValueError(f"the index of an example must not be negative, not {index}")
        # The index is the high word of the counter, which 2^192 draws would not reach.
        key = np.array([self.seed, SPLITS.index(self.split)], np.uint64)
        counter = np.array([0, 0, 0, index], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key, counter=counter))

        # A row of draws for the video, then one for each image: the video of an index is the same
        # whatever the number of images.
        total = len(handwriting(self.split)[1])
        velocities = MOTIONS[self.motion]
        draws = rng.random((1 + self.num_images, 5))
        digits, y, x, way, times = (
            (draws * [total, self._room + 1, self._room + 1, len(velocities), self.frames])
            .astype(int)
            .T
        )
        # An offset of 1 to total - 1: an image shows any handwriting but the video's own.
        digits[1:] = (digits[0] + 1 + (draws[1:, 0] * (total - 1)).astype(int)) % total

        start = np.stack([y, x], axis=1)
        velocity = velocities[way]
        # Whoever starts at a wall starts away from it, so that the caption says what is seen.
        velocity = np.where(start == 0, np.abs(velocity), velocity)
        velocity = np.where(start == self._room, -np.abs(velocity), velocity)
        return digits, start, velocity * (self._room > 0), times[1:]

    def _paste(self, digits: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Digits [1 or n, 8, 8], first row and column at corners [n, 2] in units of the speed."""
        corners = corners * self.speed
        whole = np.floor(corners).astype(int)
        fraction = (corners - whole).astype(np.float32)[:, :, None, None]
        # Between pixels a digit covers 9x9 of them, each the mean of four weighted by area.
        soft = np.pad(digits, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
        for axis in (1, 2):
            after, before = np.split(soft, [1], axis)[1], np.split(soft, [-1], axis)[0]
            soft = after + fraction[:, axis - 1] * (before - after)
        size = np.arange(DIGIT_SIZE + 1)
        side = self._side + 1  # the ninth row or column of a digit at the wall is empty
        out = np.full((len(corners), side, side), -1, np.float32)
        y = whole[:, 0, None, None] + size[:, None]
        x = whole[:, 1, None, None] + size
        out[np.arange(len(corners))[:, None, None], y, x] = soft
        return _block_means(out[:, :-1, :-1, None], self.downsample)

    def _encode(self, caption: str) -> tuple[np.ndarray, np.ndarray]:
        return encode_caption(caption, tokens=self.text_tokens, width=self.text_width)


def _bounce(start: np.ndarray, velocity: np.ndarray, time: np.ndarray, room: int) -> np.ndarray:
    """Points [..., 2], reflected at 0 and at `room`, after `time` [n, 1] frames."""
    period = max(2 * room, 1)  # without room the velocity is 0
    return room - np.abs((start + velocity * time) % period - room)


def _block_means(frames: np.ndarray, size: int) -> np.ndarray:
    n, height, width, channels = frames.shape
    blocks = frames.reshape(n, height // size, size, width // size, size, channels)
    return blocks.mean((2, 4))


def _caption(label: int, dy: int, dx: int) -> str:
    ways = [word for word in (_VERTICAL.get(int(dy)), _HORIZONTAL.get(int(dx))) if word]
    motion = f"moving {' and '.join(ways)}" if ways else "standing still"
    return f"{_noun(label)} {motion}"


def _noun(label: int) -> str:
    word = _WORDS[label]
    return f"an {word}" if word == "eight" else f"a {word}"
