"""Measures two sets of videos by a protocol, in memory independent of the number of videos."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from vdm.metrics.features import Features
from vdm.metrics.frechet import frechet_distance
from vdm.metrics.inception_score import ScoreSums
from vdm.metrics.protocols import METRICS, Protocol
from vdm.metrics.statistics import FeatureStatistics
from vdm.progress import progress

# Groups of the jackknife that estimates the error of a Frechet distance; none above this number of
# features, since a covariance of 4,096 features takes 134 MB, and its root half a minute.
_GROUPS = 10
_MAX_GROUPED_FEATURES = 512

# For example a `vdm.metrics.features.Extractor`.
Network = Callable[[np.ndarray], Features]


@dataclasses.dataclass
class Summary:
    """Sufficient statistics of a set of videos."""

    count: int  # number of videos
    # By (network, view), one per jackknife group.
    statistics: dict[tuple[str, str], list[FeatureStatistics]]
    # By (network, view, number of splits), one per split.
    scores: dict[tuple[str, str, int], list[ScoreSums]]

    def merge(self, other: "Summary") -> "Summary":
        """Returns the summary of both sets of videos, measured by the same protocol."""
        return Summary(
            self.count + other.count,
            _merged_lists(self.statistics, other.statistics),
            _merged_lists(self.scores, other.scores),
        )


def summarize(
    videos: Iterable[np.ndarray],
    count: int,
    protocol: Protocol,
    extractors: Mapping[str, Network],
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 8,
) -> Summary:
    """Runs the networks of a protocol over a set of videos, or over a part of it.

    Args:
      videos: uint8 [frames, height, width, 3] each, of equal shape; one batch is read per step.
      count: number of videos of the whole set.
      protocol: its metrics choose the networks.
      extractors: networks by name, at least those of the protocol.
      indices: indices of `videos` in the whole set; default all.
      batch_size: number of videos per call of a network.

    Raises:
      ValueError: there are too few videos, or too few frames for a network.
    """
    views = {METRICS[metric] for metric in protocol.metrics}
    scored = {METRICS[metric] for metric in protocol.metrics if metric.startswith("is_")}
    summary = Summary(0, {}, {})
    own = np.arange(count) if indices is None else np.asarray(indices)
    with progress("features", len(own), "videos") as bar:
        for batch in _batches(videos, len(own), batch_size):
            if not protocol.given_frames_counted:
                batch = batch[:, protocol.frames_given :]
            positions = own[summary.count :][: len(batch)]
            for network, view in sorted(views):
                out = _outputs(extractors[network], view, batch, batch_size)
                _add_features(summary.statistics, (network, view), positions, out["features"])
                if (network, view) in scored:
                    for splits in protocol.inception_splits:
                        _add_scores(summary.scores, (network, view, splits), positions, out, count)
            summary.count += len(batch)
            bar.update(len(batch))
    if summary.count < len(own):
        raise ValueError(f"{len(own)} videos are needed, and there are {summary.count}")
    return summary


def compare(real: Summary, generated: Summary, protocol: Protocol) -> dict[str, float]:
    """Returns the metrics of a protocol by name, with standard errors where available."""
    result = {}
    for metric in protocol.metrics:
        network, view = METRICS[metric]
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
            # Delete-a-group jackknife (Efron and Stein 1981).
            result[f"{metric}_standard_error"] = math.sqrt((_GROUPS - 1) * np.var(leave_one_out))
    return result


def warnings_of(real: Summary, generated: Summary, protocol: Protocol) -> list[str]:
    """Returns warnings about the numbers of videos, one sentence each."""
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
            if summary.count <= features and any(
                METRICS[metric] == (network, view) and not metric.startswith("is_")
                for metric in protocol.metrics
            ):
                warnings.append(
                    f"{summary.count} {name} videos are too few for the covariance of {features} "
                    f"features of {network}: the distance is biased, and comparable only with "
                    "distances of as many videos"
                )
    return warnings


def _batches(videos: Iterable[np.ndarray], count: int, size: int) -> Iterator[np.ndarray]:
    videos = itertools.islice(videos, count)
    while batch := list(itertools.islice(videos, size)):
        yield np.stack(batch)


def _outputs(extractor: Network, view: str, videos: np.ndarray, batch_size: int) -> Features:
    """Returns a network's outputs for videos [n, ...], which it pads to a full batch."""
    count = len(videos)
    videos = np.resize(videos, (batch_size, *videos.shape[1:])) if count < batch_size else videos
    if view != "avg":
        inputs = videos if view == "video" else videos[:, 0]
        return {name: values[:count] for name, values in extractor(inputs).items()}
    frames = [extractor(videos[:, frame]) for frame in range(videos.shape[1])]
    out = {"features": np.mean([frame["features"] for frame in frames], axis=0)[:count]}
    if "probabilities" in frames[0]:
        # Mean of the logits, up to a constant that the softmax ignores.
        logits = np.mean(
            [np.log(np.maximum(frame["probabilities"], 1e-30)) for frame in frames], axis=0
        )
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        out["probabilities"] = (odds / odds.sum(-1, keepdims=True))[:count]
    return out


def _add_features(
    statistics: dict[tuple[str, str], list[FeatureStatistics]],
    key: tuple[str, str],
    indices: np.ndarray,
    features: np.ndarray,
) -> None:
    """Adds features [n, features] of the videos `indices`; video i is in group i modulo groups."""
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
    network, _, splits = key
    if "probabilities" not in out:
        raise ValueError(
            f"the Inception Score needs the last layer of {network}, which its weights file lacks: "
            "import weights with python -m vdm.metrics.import_weights"
        )
    parts = scores.setdefault(key, [ScoreSums.empty(out["probabilities"].shape[1])] * splits)
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(count), splits)])
    split_of_video = np.searchsorted(ends, indices, side="right")
    for split in np.unique(split_of_video):
        parts[split] = parts[split].merge(
            ScoreSums.of(out["probabilities"][split_of_video == split])
        )


def _merged_lists(ours: dict, theirs: dict) -> dict:
    """Merges two dicts of lists of statistics, list item by list item."""
    both = {
        key: [a.merge(b) for a, b in zip(ours[key], theirs[key], strict=True)]
        for key in ours.keys() & theirs.keys()
    }
    return {**ours, **theirs, **both}


_merged = functools.partial(functools.reduce, FeatureStatistics.merge)


def _distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
