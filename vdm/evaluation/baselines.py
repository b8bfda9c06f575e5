"""Baselines: videos from simple rules or from the training data, evaluated as if sampled."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np

from vdm.data.clips import ClipDataSet
from vdm.data.datasets import DataSet, held_out_videos
from vdm.metrics.protocols import Protocol
from vdm.video.pixels import to_uint8, with_channels

# Values of config.eval.baseline; '' is the model.
BASELINES = ("", "repeat_first_frame", "train_videos")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The videos of config.eval.baseline, in place of a `SampleStore`.

    - 'repeat_first_frame': the sample's observed frames, or the first frame of its real video if
      none are observed; the last of these is repeated.
    - 'train_videos': clips of training videos, in order, with windows chosen like those of the real
      videos. They give the Inception Score of real data, and the distance to held-out videos that a
      perfect model would have.

    Attributes:
      config: the configuration.
      protocol: a protocol of `vdm.evaluation.protocol.protocol_of`.
      real: the real videos, whose first frames samples observe.
    """

    config: ml_collections.ConfigDict
    protocol: Protocol
    real: DataSet

    @property
    def folder(self) -> str:
        """The name of the baseline, in place of a folder of samples."""
        return self.config.eval.baseline

    def __len__(self) -> int:
        return self.protocol.num_generated

    def share(self) -> tuple[Sequence[int], Iterator[np.ndarray]]:
        """Returns the indices and the videos of this process."""
        own = range(jax.process_index(), len(self), jax.process_count())
        return own, self._videos(own)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields all videos, uint8 [frames, height, width, channels]."""
        return self._videos(range(len(self)))

    def _videos(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        if self.config.eval.baseline == "train_videos":
            start = self.real.start if isinstance(self.real, ClipDataSet) else ""
            training = held_out_videos(self.config, self.protocol.frames, "train", start=start)
            yield from (pixels_of(training, index) for index in indices)
            return
        given = max(1, self.protocol.frames_given)
        for index in indices:
            video = pixels_of(self.real, index // self.protocol.samples_per_given)
            yield video[np.minimum(np.arange(len(video)), given - 1)]


def pixels_of(source: DataSet, index: int) -> np.ndarray:
    """Returns the video of an example, uint8 [frames, height, width, 3]."""
    return with_channels(to_uint8(source.example(index)["video"]), 3)
