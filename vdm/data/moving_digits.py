"""Moving digits: handwritten digits that bounce in a square box. Needs no download.

The digits are scikit-learn's 1797 images of 8x8 pixels. A video is a pure function of (seed, split,
index), so the data set is endless. Every frame shows the whole digit, so a classifier can check
frame by frame whether a generated video keeps its digit.
"""

import dataclasses
import functools
from importlib.metadata import distribution

import numpy as np

from vdm.data.batches import DataSet, example_generator, text_arrays
from vdm.data.captions.word_vectors import encode_caption

DIGIT_SIZE = 8  # height and width of a digit in pixels
SPLITS = ("train", "test")
MOTIONS = {  # velocities (y, x) in units of the speed
    "any": np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]),
    "horizontal": np.array([(0, -1), (0, 1)]),
}

# scikit-learn orders the digits by writer, about 128 each. A contiguous split reserves the last
# three writers for the test set; a shuffled split would test on the writers of the training set.
_FIRST_TEST_IMAGE = 1415

_CONDITIONS = ("none", "label", "text")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_VERTICAL = {-1: "up", 1: "down"}
_HORIZONTAL = {-1: "left", 1: "right"}


@functools.cache
def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the digits of a split: images float32 [n, 8, 8] in [-1, 1], and labels int32 [n]."""
    # Not by `sklearn.datasets.load_digits`: the import holds Python's lock for a second, in which
    # the training step cannot be traced.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(path), np.float32, delimiter=",")  # 64 pixels from 0 to 16, and the label
    part = slice(_FIRST_TEST_IMAGE) if split == "train" else slice(_FIRST_TEST_IMAGE, None)
    images = rows[part, :-1].reshape(-1, DIGIT_SIZE, DIGIT_SIZE) / 8 - 1
    labels = rows[part, -1].astype(np.int32)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


@dataclasses.dataclass(frozen=True)
class MovingDigits(DataSet):
    """Endless videos [frames, resolution, resolution, 1] in [-1, 1], with ink at +1.

    A digit starts at a random position, moves by `speed` pixels per frame along one or both axes,
    and is reflected by the walls.

    Attributes:
      split: 'train' or 'test', with disjoint writers.
      seed: non-negative seed of the digits, positions and velocities.
      resolution: height and width in pixels, at least 8. At 8 the digit does not move.
      motion: 'any' of the 8 axis-aligned and diagonal directions, or 'horizontal' for left and
        right only, which models learn many times faster (docs/moving_digits.md).
      speed: pixels per frame along an axis. Must divide resolution * downsample - 8, so that the
        digit touches the walls exactly.
      downsample: block size in pixels of average pooling; `resolution` is the size after pooling.
      frames, frameskip, num_images: as in `vdm.data.clips.ClipDataSet`.
      condition: 'none', 'label' (the digit) or 'text' (text_tokens vectors of size text_width).

    Raises:
      ValueError: an attribute is out of range.
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
        self.check_attributes(
            choices={"split": SPLITS, "condition": _CONDITIONS, "motion": tuple(MOTIONS)},
            minima={"seed": 0, "frames": 1, "frameskip": 1, "downsample": 1, "num_images": 0},
        )
        if self._side < DIGIT_SIZE:
            raise ValueError(
                f"resolution is {self.resolution}, and must be at least "
                f"{DIGIT_SIZE // self.downsample}, the size of a digit"
            )
        if self.speed <= 0 or (self._side - DIGIT_SIZE) % self.speed:
            raise ValueError(
                f"speed is {self.speed}, and must divide {self._side - DIGIT_SIZE}, the resolution "
                f"before downsampling less {DIGIT_SIZE}"
            )

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Returns example `index`, as `DataSet.example`.

        The caption of an image names only the digit, since one frame shows no motion.
        """
        digits, start, velocity, times = self._draw(index)
        handwritten, labels = handwriting(self.split)
        # Row 0 is the video; each further row is another video, one frame of which is an image.
        steps = self.frameskip * np.arange(self.frames)[:, None]
        video_at = _bounce(start[0], velocity[0], steps, self._max_corner)
        out = {"video": self._paste(handwritten[digits[:1]], video_at)}
        if self.num_images:
            times = self.frameskip * times[:, None]
            images_at = _bounce(start[1:], velocity[1:], times, self._max_corner)
            out["images"] = self._paste(handwritten[digits[1:]], images_at)

        if self.condition == "label":
            out["label"] = labels[digits[0]]
            if self.num_images:
                out["image_label"] = labels[digits[1:]]
        elif self.condition == "text":
            captions = [_caption(labels[digits[0]], *velocity[0]), *map(_noun, labels[digits[1:]])]
            out |= text_arrays([self._encode(caption) for caption in captions])
        return out

    def caption(self, index: int) -> str:
        """Returns the caption, such as 'a seven moving up and left' for the first frames."""
        _, _, velocity, _ = self._draw(index)
        return _caption(self.label(index), *velocity[0])

    def label(self, index: int) -> int:
        """Returns the digit of example `index`, 0 to 9."""
        digits, _, _, _ = self._draw(index)
        return int(handwriting(self.split)[1][digits[0]])

    @property
    def _side(self) -> int:
        """Height and width of a frame before downsampling."""
        return self.resolution * self.downsample

    @property
    def _max_corner(self) -> int:
        """Largest coordinate of a digit's top left corner, in units of the speed."""
        return round((self._side - DIGIT_SIZE) / self.speed)

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns digits [1 + n], starts and velocities [1 + n, 2] (y, x), and image times [n]."""
        if index < 0:
            raise ValueError(f"index is {index}, and must not be negative")
        rng = example_generator(self.seed, SPLITS.index(self.split), index)

        # One row of random numbers for the video and one per image, so that the video does not
        # depend on the number of images.
        total = len(handwriting(self.split)[1])
        velocities = MOTIONS[self.motion]
        draws = rng.random((1 + self.num_images, 5))
        corners = self._max_corner + 1
        counts = [total, corners, corners, len(velocities), self.frames]
        digits, y, x, direction, times = (draws * counts).astype(int).T
        # Offsets from 1 to total - 1: never the video's own digit image.
        digits[1:] = (digits[0] + 1 + (draws[1:, 0] * (total - 1)).astype(int)) % total

        start = np.stack([y, x], axis=1)
        velocity = velocities[direction]
        # A digit at a wall starts away from it, so that the caption describes the first frames.
        velocity = np.where(start == 0, np.abs(velocity), velocity)
        velocity = np.where(start == self._max_corner, -np.abs(velocity), velocity)
        return digits, start, velocity * (self._max_corner > 0), times[1:]

    def _paste(self, digits: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Draws digits [1 or n, 8, 8] with top left corners [n, 2] (y, x) in units of the speed."""
        corners = corners * self.speed
        whole = np.floor(corners).astype(int)
        fraction = (corners - whole).astype(np.float32)[:, :, None, None]
        # Bilinear interpolation: at a fractional position, a digit covers 9x9 pixels.
        soft = np.pad(digits, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
        for axis in (1, 2):
            after, before = np.split(soft, [1], axis)[1], np.split(soft, [-1], axis)[0]
            soft = after + fraction[:, axis - 1] * (before - after)
        size = np.arange(DIGIT_SIZE + 1)
        side = self._side + 1  # the ninth row or column of a digit at a wall is empty
        out = np.full((len(corners), side, side), -1, np.float32)
        y = whole[:, 0, None, None] + size[:, None]
        x = whole[:, 1, None, None] + size
        out[np.arange(len(corners))[:, None, None], y, x] = soft
        return _block_means(out[:, :-1, :-1, None], self.downsample)

    def _encode(self, caption: str) -> tuple[np.ndarray, np.ndarray]:
        return encode_caption(caption, tokens=self.text_tokens, width=self.text_width)


def _bounce(start: np.ndarray, velocity: np.ndarray, time: np.ndarray, wall: int) -> np.ndarray:
    """Returns positions [..., 2] after `time` [n, 1] frames, reflected at 0 and at `wall`."""
    period = max(2 * wall, 1)  # at wall 0 the velocity is 0
    return wall - np.abs((start + velocity * time) % period - wall)


def _block_means(frames: np.ndarray, size: int) -> np.ndarray:
    n, height, width, channels = frames.shape
    blocks = frames.reshape(n, height // size, size, width // size, size, channels)
    return blocks.mean((2, 4))


def _caption(label: int, dy: int, dx: int) -> str:
    directions = [word for word in (_VERTICAL.get(int(dy)), _HORIZONTAL.get(int(dx))) if word]
    motion = f"moving {' and '.join(directions)}" if directions else "standing still"
    return f"{_noun(label)} {motion}"


def _noun(label: int) -> str:
    word = _WORDS[label]
    return f"an {word}" if word == "eight" else f"a {word}"
