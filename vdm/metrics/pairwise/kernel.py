"""The kernel distance between sets of features: KVD on I3D features, KID on Inception features."""

import math

import numpy as np

# Max number of videos per kernel matrix; larger sets are split.
_MAX_GROUP = 2_000
_BOOTSTRAPS = 200


def kernel_distance(
    real: np.ndarray,
    generated: np.ndarray,
    real_videos: np.ndarray | None = None,
    generated_videos: np.ndarray | None = None,
) -> tuple[float, float, float, float]:
    """Returns the unbiased squared maximum mean discrepancy of features [n, d] and [m, d].

    With the kernel k(x, y) = (x . y / d + 1)^3 (Binkowski et al. 2018, Demystifying MMD GANs, eq 4
    and section 4). The estimate is unbiased for any number of videos, and may be negative. Sets of
    more than 2,000 videos are randomly split into groups, whose distances are averaged.

    Args:
      real: features of the real clips, [n, d].
      generated: features of the samples, [m, d].
      real_videos: number of the video of each row of `real`, from 0, [n]; default: all differ. The
        features of a video are resampled and split together.
      generated_videos: the same for `generated`, [m].

    Returns:
      (distance, standard error, lower and upper end of the 95 % interval). Errors are from a
      bootstrap over the videos of both sets, or with groups, from the variance between groups.

    Raises:
      ValueError: a set has fewer than 2 videos, or values are not finite.
    """
    sets = [np.asarray(features, np.float64) for features in (real, generated)]
    for features in sets:
        if len(features) < 2 or not np.isfinite(features).all():
            raise ValueError("a kernel distance needs at least 2 videos with finite features")
    rng = np.random.default_rng(0)
    videos = [
        np.arange(len(features)) if numbers is None else numbers
        for features, numbers in zip(sets, (real_videos, generated_videos), strict=True)
    ]
    count = max(math.ceil(len(features) / _MAX_GROUP) for features in sets)
    count = min(count, *(_number(numbers) // 2 for numbers in videos))
    if count <= 1:
        return _of_group(sets[0], sets[1], videos[0], videos[1], rng)
    parts = [_split(f, numbers, count, rng) for f, numbers in zip(sets, videos, strict=True)]
    distances = [_estimate(*_kernels(*group)) for group in zip(*parts, strict=True)]
    mean, error = float(np.mean(distances)), float(np.std(distances, ddof=1) / math.sqrt(count))
    return mean, error, mean - 1.96 * error, mean + 1.96 * error


def _number(videos: np.ndarray) -> int:
    return int(videos.max()) + 1


def _split(
    features: np.ndarray, videos: np.ndarray, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Randomly splits features [n, d] of `videos` [n] into `count` parts, keeping videos whole."""
    parts = np.array_split(rng.permutation(_number(videos)), count)
    return [features[np.isin(videos, part)] for part in parts]


def _of_group(
    real: np.ndarray,
    generated: np.ndarray,
    real_videos: np.ndarray,
    generated_videos: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, float, float, float]:
    kernels = _kernels(real, generated)
    resampled = [
        _estimate(
            *kernels,
            real_counts=_counts(_number(real_videos), rng)[real_videos],
            generated_counts=_counts(_number(generated_videos), rng)[generated_videos],
        )
        for _ in range(_BOOTSTRAPS)
    ]
    first, last = np.quantile(resampled, (0.025, 0.975))
    return _estimate(*kernels), float(np.std(resampled, ddof=1)), float(first), float(last)


def _kernels(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the kernel matrices real-real, generated-generated and real-generated."""
    return _kernel(real, real), _kernel(generated, generated), _kernel(real, generated)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _counts(size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns how often each video is in a bootstrap sample, with at least two different videos."""
    if size == 1:
        return np.ones(1)
    while True:
        counts = np.bincount(rng.integers(size, size=size), minlength=size).astype(np.float64)
        if np.count_nonzero(counts) > 1:
            return counts


def _estimate(
    of_real: np.ndarray,
    of_generated: np.ndarray,
    between: np.ndarray,
    real_counts: np.ndarray | None = None,
    generated_counts: np.ndarray | None = None,
) -> float:
    u = np.ones(len(of_real)) if real_counts is None else real_counts
    v = np.ones(len(of_generated)) if generated_counts is None else generated_counts
    return float(
        _mean_of_pairs(of_real, u)
        + _mean_of_pairs(of_generated, v)
        - 2 * (u @ between @ v) / (u.sum() * v.sum())
    )


def _mean_of_pairs(kernel: np.ndarray, counts: np.ndarray) -> float:
    """Returns the mean over pairs of different videos; pairs of equal videos would add a bias."""
    total = counts @ kernel @ counts - np.sum(counts**2 * np.diag(kernel))
    return total / (counts.sum() ** 2 - np.sum(counts**2))
