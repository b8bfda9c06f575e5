"""Two sets of videos and a protocol in, numbers out; what is held does not grow with the videos."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from vdm.metrics.features import Features
from vdm.metrics.frechet import frechet_distance
from vdm.metrics.inception_score import ScoreSums
from vdm.metrics.protocols import METRICS, Protocol
from vdm.metrics.statistics import FeatureStatistics

# Of the jackknife by which a Frechet distance's error is estimated: video i is in group i modulo
# this. Networks with more features than _MOST_FEATURES_GROUPED have one group and no error bar: a
# covariance of 4,096 features takes 134 MB, and its root half a minute.
_GROUPS = 10
_MOST_FEATURES_GROUPED = 512

# As `vdm.metrics.features.make_extractor` gives it.
Network = Callable[[np.ndarray], Features]


@dataclasses.dataclass
class Summary:
    """What is kept of a set of videos.

    Attributes:
      count: of videos.
      statistics: of (network, view), a group each.
      scores: of (network, view, number of splits), a split each.
    """

    count: int
    statistics: dict[tuple[str, str], list[FeatureStatistics]]
    scores: dict[tuple[str, str, int], list[ScoreSums]]

    def merge(self, other: "Summary") -> "Summary":
        """That of both sets of videos, by the same protocol."""
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
    """Runs the protocol's networks over videos, all of a set or some.

    Args:
      videos: uint8 [frames, height, width, 3] each, all of one shape; read one batch at a time.
      count: videos of the whole set.
      protocol: which metrics.
      extractors: a network of each name that the protocol asks for.
      indices: which of the set the videos are, all by default; there must be as many.
      batch_size: videos to go through a network at once.

    Raises:
      ValueError: too few videos, or frames for a network.
    """
    views = {METRICS[metric] for metric in protocol.metrics}
    scored = {METRICS[metric] for metric in protocol.metrics if metric.startswith("is_")}
    summary = Summary(0, {}, {})
    of_set = np.arange(count) if indices is None else np.asarray(indices)
    for batch in _batches(videos, len(of_set), batch_size):
        if not protocol.given_frames_counted:
            batch = batch[:, protocol.frames_given :]
        places = of_set[summary.count :][: len(batch)]
        for network, view in sorted(views):
            out = _seen_by(extractors[network], view, batch, batch_size)
            _add_features(summary.statistics, (network, view), places, out["features"])
            if (network, view) in scored:
                for splits in protocol.inception_splits:
                    _add_scores(summary.scores, (network, view, splits), places, out, count)
        summary.count += len(batch)
    if summary.count < len(of_set):
        raise ValueError(f"{len(of_set)} videos are needed, and there are {summary.count}")
    return summary


def compare(real: Summary, generated: Summary, protocol: Protocol) -> dict[str, float]:
    """The protocol's metrics by name, with the standard errors that are known."""
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
        truth = _merged(real.statistics[network, view])
        result[metric] = _distance(truth, _merged(groups))
        if len(groups) == _GROUPS and min(group.count for group in groups) > 1:
            without = [
                _distance(truth, _merged(groups[:g] + groups[g + 1 :])) for g in range(_GROUPS)
            ]
            # The delete-a-group jackknife (Efron and Stein 1981).
            result[f"{metric}_standard_error"] = math.sqrt((_GROUPS - 1) * np.var(without))
    return result


def warnings_of(real: Summary, generated: Summary, protocol: Protocol) -> list[str]:
    """What a reader of the numbers has to know, a sentence each."""
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
                    "others of as many videos"
                )
    return warnings


def _batches(videos: Iterable[np.ndarray], count: int, size: int) -> Iterator[np.ndarray]:
    batch = []
    for index, video in enumerate(videos):
        if index == count:
            break
        batch.append(video)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _seen_by(
    extractor: Network, view: str, videos: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """What a network makes of videos [n, ...], without those that fill up the last batch."""
    count = len(videos)
    videos = np.resize(videos, (batch_size, *videos.shape[1:])) if count < batch_size else videos
    if view == "video":
        return {name: values[:count] for name, values in extractor(videos).items()}
    if view == "first":
        return {name: values[:count] for name, values in extractor(videos[:, 0]).items()}
    of_frames = [extractor(videos[:, frame]) for frame in range(videos.shape[1])]
    out = {"features": np.mean([frame["features"] for frame in of_frames], axis=0)[:count]}
    if "probabilities" in of_frames[0]:
        # The mean of the activations before the softmax, up to a constant that the softmax ignores.
        logits = np.mean(
            [np.log(np.maximum(frame["probabilities"], 1e-30)) for frame in of_frames], axis=0
        )
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        out["probabilities"] = (odds / odds.sum(-1, keepdims=True))[:count]
    return out


def _add_features(statistics, key, indices, features):
    groups = _GROUPS if features.shape[1] <= _MOST_FEATURES_GROUPED else 1
    so_far = statistics.setdefault(key, [FeatureStatistics.none(features.shape[1])] * groups)
    for group in range(groups):
        of_group = features[indices % groups == group]
        so_far[group] = so_far[group].merge(FeatureStatistics.of(of_group))


def _add_scores(scores, key, indices, out, count):
    network, _, splits = key
    if "probabilities" not in out:
        raise ValueError(
            f"the Inception Score needs the classes of {network}, whose weights "
            "are not there: import them with python -m vdm.metrics.import_weights"
        )
    parts = scores.setdefault(key, [ScoreSums.none(out["probabilities"].shape[1])] * splits)
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(count), splits)])
    of_split = np.searchsorted(ends, indices, side="right")
    for split in np.unique(of_split):
        parts[split] = parts[split].merge(ScoreSums.of(out["probabilities"][of_split == split]))


def _merged_lists(ours: dict, theirs: dict) -> dict:
    """Of each key the parts of both, merged one by one."""
    both = {
        key: [a.merge(b) for a, b in zip(ours[key], theirs[key], strict=True)]
        for key in ours.keys() & theirs.keys()
    }
    return {**ours, **theirs, **both}


def _merged(groups: list[FeatureStatistics]) -> FeatureStatistics:
    total = FeatureStatistics.none(len(groups[0].mean))
    for group in groups:
        total = total.merge(group)
    return total


def _distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
