"""The Inception Score (Salimans et al. 2016)."""

import dataclasses

import numpy as np


def inception_score(probabilities: np.ndarray, splits: int) -> tuple[float, float]:
    """exp of the mean KL divergence of p(y | x) from p(y), over splits of the samples.

    Args:
      probabilities: [n, classes], p(y | x) of each sample; rows sum to 1.
      splits: consecutive parts, as equal as can be, each of which is scored against its own p(y).

    Returns:
      The mean and the standard deviation (with divisor `splits`) of the parts' scores.

    Raises:
      ValueError: fewer samples than splits, or rows that are no probabilities.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not 1 <= splits <= len(p):
        raise ValueError(f"probabilities of shape {p.shape} do not divide into {splits} splits")
    scores = [ScoreSums.of(part).score for part in np.array_split(p, splits)]
    return float(np.mean(scores)), float(np.std(scores))


@dataclasses.dataclass(frozen=True)
class ScoreSums:
    """What a split's score needs of its samples, which come in any order.

    Attributes:
      count: samples.
      probabilities: [classes], the sum of p(y | x).
      negative_entropy: the sum of p(y | x) log p(y | x) over samples and classes, in nats.
    """

    count: int
    probabilities: np.ndarray
    negative_entropy: float

    @classmethod
    def none(cls, classes: int) -> "ScoreSums":
        """Those of no sample."""
        return cls(0, np.zeros(classes), 0.0)

    @classmethod
    def of(cls, probabilities: np.ndarray) -> "ScoreSums":
        """Those of probabilities [n, classes].

        Raises:
          ValueError: rows that are no probabilities.
        """
        p = np.asarray(probabilities, np.float64)
        if not ((p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-3)):
            raise ValueError("the rows of probabilities must be at least 0 and sum to 1")
        return cls(len(p), p.sum(0), float(np.sum(_times_log(p))))

    def merge(self, other: "ScoreSums") -> "ScoreSums":
        """Those of both sets of samples."""
        return ScoreSums(
            self.count + other.count,
            self.probabilities + other.probabilities,
            self.negative_entropy + other.negative_entropy,
        )

    @property
    def score(self) -> float:
        """exp(H(mean of p) - mean of H(p))."""
        marginal = self.probabilities / self.count
        return float(np.exp(self.negative_entropy / self.count - _times_log(marginal).sum()))


def _times_log(p: np.ndarray) -> np.ndarray:
    """p log p, 0 at 0."""
    return p * np.log(np.where(p > 0, p, 1))
