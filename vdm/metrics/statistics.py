"""Means and covariances of features as they come, in any order and from any number of processes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Count, mean and scatter of feature vectors, in float64. Merging is associative to rounding.

    Attributes:
      count: how many.
      mean: [features].
      scatter: [features, features], the sum of (x - mean) (x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def none(cls, features: int) -> "FeatureStatistics":
        """Those of no vector of this many features."""
        return cls(0, np.zeros(features), np.zeros((features, features)))

    @classmethod
    def of(cls, vectors: np.ndarray) -> "FeatureStatistics":
        """Those of vectors [n, features].

        Raises:
          ValueError: another shape, or values that are not finite.
        """
        x = np.asarray(vectors, np.float64)
        if x.ndim != 2:
            raise ValueError(f"features have the shape {x.shape}, and [n, features] is needed")
        if not np.isfinite(x).all():
            raise ValueError("features have values that are not finite")
        if not len(x):
            return cls.none(x.shape[1])
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Those of both sets (Chan, Golub and LeVeque 1983), without loss where means differ.

        Raises:
          ValueError: another number of features.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"statistics of {len(self.mean)} and of {len(other.mean)} features do not merge"
            )
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        share = other.count / count
        return FeatureStatistics(
            count,
            self.mean + share * apart,
            self.scatter + other.scatter + self.count * share * np.outer(apart, apart),
        )

    @property
    def covariance(self) -> np.ndarray:
        """[features, features], unbiased.

        Raises:
          ValueError: fewer than 2 vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs 2 vectors or more, and there are {self.count}")
        return self.scatter / (self.count - 1)
