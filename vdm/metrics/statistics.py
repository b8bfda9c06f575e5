"""Streaming means and covariances of features, mergeable in any order and across processes."""

import dataclasses

import numpy as np


def standard_error(values: np.ndarray, videos: np.ndarray | None = None) -> float:
    """Returns the standard error of the mean of values [n].

    Values of one video may depend on each other. `videos` [n] numbers the video of each value, at
    least two different ones; default: all differ.
    """
    videos = np.arange(len(values)) if videos is None else videos
    _, of_values = np.unique(videos, return_inverse=True)
    sums = np.bincount(of_values, weights=values - values.mean())
    return float((np.sum(sums**2) * len(sums) / (len(sums) - 1)) ** 0.5 / len(values))


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Count, mean and scatter of vectors, in float64. Merging is associative up to rounding."""

    count: int  # number of vectors
    mean: np.ndarray  # [features]
    scatter: np.ndarray  # sum of (x - mean) (x - mean)^T, [features, features]

    @classmethod
    def empty(cls, features: int) -> "FeatureStatistics":
        """Returns the statistics of no vectors, with this number of features."""
        return cls(0, np.zeros(features), np.zeros((features, features)))

    @classmethod
    def of(cls, vectors: np.ndarray) -> "FeatureStatistics":
        """Returns the statistics of vectors [n, features].

        Raises:
          ValueError: the shape is wrong, or values are not finite.
        """
        x = np.asarray(vectors, np.float64)
        if x.ndim != 2:
            raise ValueError(f"features have the shape {x.shape}, and must be [n, features]")
        if not np.isfinite(x).all():
            raise ValueError("features have values that are not finite")
        if not len(x):
            return cls.empty(x.shape[1])
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Returns the statistics of both sets (Chan, Golub and LeVeque 1983).

        Raises:
          ValueError: the numbers of features differ.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"statistics of {len(self.mean)} and {len(other.mean)} features cannot be merged"
            )
        count = self.count + other.count
        if not count:
            return self
        difference = other.mean - self.mean
        weight = other.count / count
        between = self.count * weight * np.outer(difference, difference)
        return FeatureStatistics(
            count, self.mean + weight * difference, self.scatter + other.scatter + between
        )

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, [features, features].

        Raises:
          ValueError: there are fewer than 2 vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 vectors, and there are {self.count}")
        return self.scatter / (self.count - 1)
