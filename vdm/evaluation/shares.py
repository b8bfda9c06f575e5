"""Merges the summaries of one set of videos that several processes computed."""

import dataclasses
from typing import Any

import jax
import numpy as np

from vdm.files import AnyPath, make_folder, replacing
from vdm.metrics.inception_score import ScoreSums
from vdm.metrics.measure import Summary, Values
from vdm.metrics.statistics import FeatureStatistics
from vdm.parallel.messages import is_first_process, wait_for_all

_PARTS = {"statistics": FeatureStatistics, "scores": ScoreSums, "values": Values}


def merged(folder: AnyPath, share: Summary) -> Summary | None:
    """Merges all processes' summaries on process 0; returns None on the others.

    Processes exchange files, which process 0 reads one by one: a covariance of 4,096 features takes
    134 MB, too much for every process to gather. Every process must make the call, with the same
    shared folder, created if missing.
    """
    if jax.process_count() == 1:
        return share
    make_folder(folder)
    paths = [folder / f"share_{index:05}.npz" for index in range(jax.process_count())]
    arrays: dict[str, Any] = to_arrays(share)
    with replacing(paths[jax.process_index()]) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    wait_for_all("all shares are measured")
    if is_first_process():
        for path in paths[1:]:
            with path.open("rb") as content, np.load(content) as saved:
                share = share.merge(from_arrays(dict(saved)))
        for path in paths:
            path.unlink()
    wait_for_all("all shares are merged")  # the next call writes files of the same names
    return share if is_first_process() else None


def to_arrays(summary: Summary) -> dict[str, np.ndarray]:
    """Converts a summary to arrays 'count' and 'KIND/NETWORK/VIEW[/SPLITS]/FIELD' [parts, ...]."""
    arrays = {"count": np.array(summary.count)}
    for kind, part_class in _PARTS.items():
        for key, parts in getattr(summary, kind).items():
            for field in dataclasses.fields(part_class):
                values = [getattr(part, field.name) for part in parts]
                arrays["/".join(map(str, (kind, *key, field.name)))] = np.stack(values)
    return arrays


def from_arrays(arrays: dict[str, np.ndarray]) -> Summary:
    """Converts arrays back to a summary: the inverse of `to_arrays`."""
    summary = Summary(int(arrays["count"]), {}, {})
    for name in arrays:
        kind, *key = name.split("/")[:-1] or [""]
        if kind not in _PARTS or not name.endswith("/count"):
            continue
        prefix = name.removesuffix("count")
        fields = [arrays[prefix + field.name] for field in dataclasses.fields(_PARTS[kind])]
        columns = [values.tolist() if values.ndim == 1 else values for values in fields]
        parts = [_PARTS[kind](*values) for values in zip(*columns, strict=True)]
        getattr(summary, kind)[(*key[:2], *map(int, key[2:]))] = parts
    return summary
