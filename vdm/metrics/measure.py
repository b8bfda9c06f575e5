"""Compares two sets of videos by a protocol, from statistics of batches instead of all videos."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vdm.metrics.block_shape import block_shape
from vdm.metrics.features import Features
from vdm.metrics.frechet import frechet_distance
from vdm.metrics.inception_score import ScoreSums
from vdm.metrics.pairwise.kernel import kernel_distance
from vdm.metrics.pairwise.similarity import motion, psnr, ssim
from vdm.metrics.protocols import METRICS, PAIRED, PIXELS, Protocol
from vdm.metrics.statistics import FeatureStatistics, standard_error
from vdm.progress import progress

# Jackknife groups for the error of a Frechet distance; all samples of a real video are in one
# group. No jackknife above the max number of features: a covariance of 4,096 features takes 134 MB,
# and its matrix root half a minute.
_GROUPS = 10
_MAX_GROUPED_FEATURES = 512
_VIDEOS_PER_CLASS = 10  # with fewer, the Inception Score is biased by the number of videos

# For example a `vdm.metrics.features.Extractor`.
Network = Callable[[np.ndarray], Features]


@dataclasses.dataclass(frozen=True)
class Values:
    """Per-video numbers, in the order in which the videos were measured."""

    count: int  # number of videos
    indices: np.ndarray  # indices of the videos in the whole set, [count]
    numbers: np.ndarray  # [count, numbers]

    def merge(self, other: "Values") -> "Values":
        """Returns the numbers of both sets."""
        return Values(
            self.count + other.count,
            np.concatenate([self.indices, other.indices]),
            np.concatenate([self.numbers, other.numbers]),
        )

    @property
    def ordered(self) -> np.ndarray:
        """The numbers in the order of the videos, [count, numbers]."""
        return self.numbers[np.argsort(self.indices)]


@dataclasses.dataclass
class Summary:
    """Sufficient statistics of a set of videos."""

    count: int  # number of videos
    # Keyed by (network, view); one item per jackknife group.
    statistics: dict[tuple[str, str], list[FeatureStatistics]]
    # Keyed by (network, view, number of splits); one item per split.
    scores: dict[tuple[str, str, int], list[ScoreSums]]
    # Keyed by (metric,); a single item.
    values: dict[tuple[str], list[Values]] = dataclasses.field(default_factory=dict)

    def merge(self, other: "Summary") -> "Summary":
        """Merges the summaries of two sets of videos, measured by the same protocol."""
        return Summary(
            self.count + other.count,
            _merged_lists(self.statistics, other.statistics),
            _merged_lists(self.scores, other.scores),
            _merged_lists(self.values, other.values),
        )


def summarize(
    videos: Iterable[np.ndarray],
    count: int,
    protocol: Protocol,
    extractors: Mapping[str, Network],
    *,
    indices: Sequence[int] | None = None,
    references: Iterable[np.ndarray] | None = None,
    batch_size: int = 8,
) -> Summary:
    """Runs the networks of a protocol over a set of videos, or over a part of the set.

    Args:
      videos: uint8 [frames, height, width, 3], of equal shape; read batch by batch.
      count: number of videos of the whole set.
      protocol: its metrics determine the networks.
      extractors: networks by name, at least those of the protocol.
      indices: indices of `videos` in the whole set; default: all.
      references: the real video for each of `videos`, for the metrics of PAIRED; None skips these
        metrics.
      batch_size: number of videos per call of a network.

    Raises:
      ValueError: there are too few videos, too few frames for a metric, or fewer videos than splits
        of an Inception Score.
    """
    views = {METRICS[metric] for metric in protocol.metrics if METRICS[metric][0] != PIXELS}
    scored = {METRICS[metric] for metric in protocol.metrics if metric.startswith("is_")}
    if scored and count < max(protocol.inception_splits):
        raise ValueError(
            f"an Inception Score over {max(protocol.inception_splits)} splits needs as many "
            f"videos, and there are {count}"
        )
    summary = Summary(0, {}, {})
    own = np.arange(count) if indices is None else np.asarray(indices)
    real = iter(()) if references is None else _batches(references, len(own), batch_size)
    with progress("features", len(own), "videos") as bar:
        for batch in _batches(videos, len(own), batch_size):
            positions = own[summary.count :][: len(batch)]
            for metric, numbers in _of_pixels(protocol, batch, next(real, None)).items():
                _add_values(summary.values, metric, positions, numbers)
            if not protocol.given_frames_counted:
                batch = batch[:, protocol.frames_given :]
            for network, view, clips in _clips_of_views(views, batch, protocol):
                out = _outputs(extractors[network], view, clips, batch_size)
                given = protocol.video_of(positions)
                _add_features(summary.statistics, (network, view), given, out["features"])
                if "kvd" in protocol.metrics and METRICS["kvd"] == (network, view):
                    _add_values(summary.values, "kvd", positions, out["features"])
                for splits in protocol.inception_splits if (network, view) in scored else ():
                    _add_scores(summary.scores, (network, view, splits), positions, out, count)
            summary.count += len(batch)
            bar.update(len(batch))
    if summary.count < len(own):
        raise ValueError(f"{len(own)} videos are needed, and there are {summary.count}")
    return summary


def compare(
    real: Summary, generated: Summary, protocol: Protocol
) -> dict[str, float | list[float]]:
    """Returns the metrics of a protocol by name, with standard errors where available.

    Args:
      real: summary of the real videos, by `summarize` with this protocol.
      generated: summary of the samples, by `summarize` with this protocol.
      protocol: its metrics are returned.

    Returns:
      {metric: value}, with METRIC_standard_error where it is available. A Frechet distance with an
      error also has METRIC_leave_one_out, the distances without each of ten groups of samples, for
      `standard_error_of_difference`.

    Raises:
      ValueError: a set has fewer than two videos, or features are not finite.
    """
    result: dict[str, float | list[float]] = {}
    for metric, network, view in _measured(protocol, real):
        if network == PIXELS or metric == "kvd":
            result |= _of_values(metric, real.values, generated.values, protocol)
            continue
        if metric.startswith("is_"):
            for splits in protocol.inception_splits:
                parts = [part.score for part in generated.scores[network, view, splits]]
                name = metric if splits == 1 else f"{metric}_{splits}_splits"
                result[name] = float(np.mean(parts))
                if splits > 1:
                    result[f"{name}_standard_deviation"] = float(np.std(parts))
            continue
        groups = generated.statistics[network, view]
        target = _merged(real.statistics[network, view])
        result[metric] = _distance(target, _merged(groups))
        if len(groups) == _GROUPS and min(group.count for group in groups) > 1:
            leave_one_out = [
                _distance(target, _merged(groups[:g] + groups[g + 1 :])) for g in range(_GROUPS)
            ]
            result[f"{metric}_standard_error"] = _jackknife_error(leave_one_out)
            result[f"{metric}_leave_one_out"] = leave_one_out
    return result


def standard_error_of_difference(
    metric: str, result: Mapping[str, Any], other: Mapping[str, Any]
) -> float:
    """Returns the standard error of the difference between two results' Frechet distances.

    This is the jackknife of the difference. If samples i of both results share observed frames or
    noise, the errors are correlated, and that of the difference is smaller than the two suggest.

    Args:
      metric: name of the distance, for example 'fvd'.
      result: numbers of `compare`.
      other: numbers of equally many other samples, against the same real videos.

    Raises:
      KeyError: a result has no METRIC_leave_one_out.
    """
    ours, theirs = (np.asarray(r[f"{metric}_leave_one_out"]) for r in (result, other))
    return _jackknife_error(ours - theirs)


def _jackknife_error(leave_one_out: Sequence[float] | np.ndarray) -> float:
    """Returns the standard error by the delete-a-group jackknife (Efron and Stein 1981)."""
    return math.sqrt((len(leave_one_out) - 1) * np.var(leave_one_out))


def _measured(protocol: Protocol, summary: Summary) -> Iterator[tuple[str, str, str]]:
    """Yields (name, network, view) of each metric; for metrics by block, of each block."""
    for metric in protocol.metrics:
        network, view = METRICS[metric]
        if view != "blocks":
            yield metric, network, view
        else:
            blocks = [v for n, v in summary.statistics if n == network and v.startswith("block_")]
            yield from ((f"fvd_{block}", network, block) for block in sorted(blocks, key=_number))


def _clips_of_views(
    views: set[tuple[str, str]], videos: np.ndarray, protocol: Protocol
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (network, view, clips); each block is a view of its own."""
    for network, view in sorted(views):
        if view != "blocks":
            yield network, view, videos
            continue
        size = protocol.block_frames
        if videos.shape[1] < size:
            raise ValueError(f"videos have {videos.shape[1]} frames, fewer than a block of {size}")
        for block in range(videos.shape[1] // size):
            yield network, f"block_{block}", videos[:, block * size : (block + 1) * size]


def _number(block: str) -> int:
    return int(block.rpartition("_")[2])


def _of_values(
    metric: str,
    real: dict[tuple[str], list[Values]],
    generated: dict[tuple[str], list[Values]],
    protocol: Protocol,
) -> dict[str, float]:
    """Returns a per-video metric and its standard error."""
    if (metric,) not in generated:
        return {}
    numbers = generated[metric,][0].ordered
    samples, clips = protocol.samples_per_given, protocol.clips_per_video
    if metric == "kvd":
        of_real = real[metric,][0].ordered
        videos = [np.arange(len(of_real)) // clips, protocol.video_of(np.arange(len(numbers)))]
        distance, error, low, high = kernel_distance(of_real, numbers, *videos)
        return {"kvd": distance, "kvd_standard_error": error, "kvd_low": low, "kvd_high": high}
    # Samples of one real video are consecutive; only different real videos are independent.
    by_start = numbers[:, 0].reshape(-1, clips, samples)
    of_start = by_start.mean((1, 2))
    given = protocol.video_of(np.arange(0, len(numbers), clips * samples))
    if metric in PAIRED:
        best = _with_error(f"{metric}_best", by_start.max(2).mean(1), given) if samples > 1 else {}
        return _with_error(metric, of_start, given) | best
    of_real = real[metric,][0].ordered[:, 0].reshape(-1, clips).mean(1)
    if metric == "block_shape":
        of_its_real = _with_error(f"{metric}_of_real", of_real, np.arange(len(of_real)))
        return _with_error(metric, of_start, given) | of_its_real
    means = [values.mean() for values in (of_start, of_real)]
    if not means[1]:
        return {}
    ratio = float(means[0] / means[1])
    if min(len(np.unique(given)), len(of_real)) < 2:
        return {metric: ratio}
    errors = (standard_error(of_start, given), standard_error(of_real))
    relative = [error / max(mean, 1e-12) for error, mean in zip(errors, means, strict=True)]
    return {metric: ratio, f"{metric}_standard_error": ratio * math.hypot(*relative)}


def _with_error(name: str, values: np.ndarray, videos: np.ndarray) -> dict[str, float]:
    """Returns the mean of values and, with two or more different videos, its standard error."""
    result = {name: float(values.mean())}
    if len(np.unique(videos)) > 1:
        result[f"{name}_standard_error"] = standard_error(values, videos)
    return result


def warnings_of(real: Summary, generated: Summary, protocol: Protocol) -> list[str]:
    """Returns warnings about numbers of videos and a missing metric, one sentence each.

    For the arguments, see `compare`.
    """
    warnings = []
    for name, summary, expected in (
        ("real", real, protocol.num_real),
        ("generated", generated, protocol.num_generated),
    ):
        if expected and summary.count != expected:
            warnings.append(
                f"{summary.count} {name} videos, where the protocol {protocol.name} has {expected}"
            )
        for (network, view), groups in sorted(summary.statistics.items()):
            features = len(groups[0].mean)
            # KVD and the Inception Score need no covariance.
            distances = [
                (n, v)
                for metric, n, v in _measured(protocol, real)
                if metric.startswith(("fvd", "fid"))
            ]
            if summary.count <= features and (network, view) in distances:
                warnings.append(
                    f"{summary.count} {name} videos are too few for the covariance of {features} "
                    f"features of {network}: the distance is biased, and comparable only with "
                    "distances of as many videos"
                )
    if "motion" in protocol.metrics and not real.values["motion",][0].numbers.any():
        warnings.append("motion left out: the real videos have none, and it is relative to theirs")
    for (network, _, splits), parts in sorted(generated.scores.items()):
        classes = len(parts[0].probabilities)
        if generated.count / splits < _VIDEOS_PER_CLASS * classes:
            warnings.append(
                f"{generated.count / splits:g} videos per split are few for the Inception Score of "
                f"{network}, over {classes} classes: it is biased towards 1, and comparable only "
                "with scores of as many videos"
            )
    return list(dict.fromkeys(warnings))  # views and blocks of a network have the same


def _batches(videos: Iterable[np.ndarray], count: int, size: int) -> Iterator[np.ndarray]:
    videos = itertools.islice(videos, count)
    while batch := list(itertools.islice(videos, size)):
        yield np.stack(batch)


def _outputs(extractor: Network, view: str, videos: np.ndarray, batch_size: int) -> Features:
    """Returns a network's outputs for videos [n, ...], padded internally to a full batch."""
    count = len(videos)
    videos = np.resize(videos, (batch_size, *videos.shape[1:])) if count < batch_size else videos
    if view != "avg":
        inputs = videos[:, 0] if view == "first" else videos
        return {name: values[:count] for name, values in extractor(inputs).items()}
    frames = [extractor(videos[:, frame]) for frame in range(videos.shape[1])]
    out = {"features": np.mean([frame["features"] for frame in frames], axis=0)[:count]}
    if "probabilities" in frames[0]:
        # Equals the mean logits up to a constant, which the softmax ignores.
        logits = np.mean(
            [np.log(np.maximum(frame["probabilities"], 1e-30)) for frame in frames], axis=0
        )
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        out["probabilities"] = (odds / odds.sum(-1, keepdims=True))[:count]
    return out


def _of_pixels(
    protocol: Protocol, videos: np.ndarray, references: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns per-video numbers of predicted frames, for the metrics that need no network."""
    result, predicted = {}, protocol.predicted(videos.shape[1])
    if "motion" in protocol.metrics:  # between each predicted frame and the frame before it
        result["motion"] = motion(videos[:, max(0, protocol.frames_given - 1) :])
    if "block_shape" in protocol.metrics:
        result["block_shape"] = block_shape(videos[:, predicted])
    if references is not None:
        pair = [v[:, predicted] for v in (references, videos)]
        functions = {"psnr": psnr, "ssim": ssim}
        result |= {m: functions[m](*pair) for m in PAIRED if m in protocol.metrics}
    return {metric: numbers[:, None] for metric, numbers in result.items()}


def _add_values(
    values: dict[tuple[str], list[Values]], metric: str, indices: np.ndarray, numbers: np.ndarray
) -> None:
    part = Values(len(numbers), np.asarray(indices), np.asarray(numbers))
    values[metric,] = [values[metric,][0].merge(part)] if (metric,) in values else [part]


def _add_features(
    statistics: dict[tuple[str, str], list[FeatureStatistics]],
    key: tuple[str, str],
    indices: np.ndarray,
    features: np.ndarray,
) -> None:
    """Adds features [n, features]; index i belongs to group i modulo the number of groups."""
    groups = _GROUPS if features.shape[1] <= _MAX_GROUPED_FEATURES else 1
    parts = statistics.setdefault(key, [FeatureStatistics.empty(features.shape[1])] * groups)
    for group in range(groups):
        vectors = features[indices % groups == group]
        parts[group] = parts[group].merge(FeatureStatistics.of(vectors))


def _add_scores(
    scores: dict[tuple[str, str, int], list[ScoreSums]],
    key: tuple[str, str, int],
    indices: np.ndarray,
    out: Features,
    count: int,
) -> None:
    """Adds the probabilities of the videos `indices` to their splits of the `count` videos."""
    _, _, splits = key
    parts = scores.setdefault(key, [ScoreSums.empty(out["probabilities"].shape[1])] * splits)
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(count), splits)])
    split_of_video = np.searchsorted(ends, indices, side="right")
    for split in np.unique(split_of_video):
        parts[split] = parts[split].merge(
            ScoreSums.of(out["probabilities"][split_of_video == split])
        )


def _merged_lists(ours: dict, theirs: dict) -> dict:
    """Merges two dicts of lists of statistics, item by item."""
    both = {
        key: [a.merge(b) for a, b in zip(ours[key], theirs[key], strict=True)]
        for key in ours.keys() & theirs.keys()
    }
    return {**ours, **theirs, **both}


_merged = functools.partial(functools.reduce, FeatureStatistics.merge)


def _distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
