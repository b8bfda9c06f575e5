"""The Inception Score (Salimans et al. 2016)."""

import dataclasses

import numpy as np


def inception_score(probabilities: np.ndarray, splits: int) -> tuple[float, float]:
    """Returns the Inception Score, exp(E[KL(p(y | x) || p(y))]) (Salimans et al. 2016).

    Args:
      probabilities: p(y | x) of each sample, [n, classes]; rows sum to 1.
      splits: number of parts, from 1 to n.

    Returns:
      (mean, standard deviation with divisor `splits`) of the scores of `splits` consecutive parts
      of nearly equal size, each with its own p(y).

    Raises:
      ValueError: there are fewer samples than splits, or rows are not probabilities.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not 1 <= splits <= len(p):
        raise ValueError(f"probabilities of shape {p.shape} do not divide into {splits} splits")
    scores = [ScoreSums.of(part).score for part in np.array_split(p, splits)]
    return float(np.mean(scores)), float(np.std(scores))


@dataclasses.dataclass(frozen=True)
class ScoreSums:
    """Sufficient statistics of the score of a split. Merging is associative up to rounding."""

    count: int  # number of samples
    probabilities: np.ndarray  # sum of p(y | x) over samples, [classes]
    negative_entropy: float  # sum of p(y | x) log p(y | x) over samples and classes, in nats

    @classmethod
    def empty(cls, classes: int) -> "ScoreSums":
        """Returns empty statistics."""
        return cls(0, np.zeros(classes), 0.0)

    @classmethod
    def of(cls, probabilities: np.ndarray) -> "ScoreSums":
        """Returns the statistics of probabilities [n, classes].

        Raises:
          ValueError: rows are not probabilities.
        """
        p = np.asarray(probabilities, np.float64)
        if not ((p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-3)):
            raise ValueError("probabilities must be at least 0, and rows must sum to 1")
        return cls(len(p), p.sum(0), float(np.sum(_times_log(p))))

    def merge(self, other: "ScoreSums") -> "ScoreSums":
        """Returns the statistics of both sets of samples."""
        return ScoreSums(
            self.count + other.count,
            self.probabilities + other.probabilities,
            self.negative_entropy + other.negative_entropy,
        )

    @property
    def score(self) -> float:
        """The Inception Score, exp(H(mean of p) - mean of H(p))."""
        marginal = self.probabilities / self.count
        return float(np.exp(self.negative_entropy / self.count - _times_log(marginal).sum()))


def _times_log(p: np.ndarray) -> np.ndarray:
    """Returns p log p, 0 at p = 0."""
    return p * np.log(np.where(p > 0, p, 1))
