"""Metrics of sets of videos (FVD, FID, Inception Score), and the feature networks behind them.

`fvd`, `kvd` and `fid` compare two sets of videos; `compare_sets` computes a protocol's metrics.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdm.metrics.sets import compare_sets, fid, fvd, kvd

__all__ = ["compare_sets", "fid", "fvd", "kvd"]


def __getattr__(name: str):  # imported at first use
    if name in __all__:
        return getattr(importlib.import_module("vdm.metrics.sets"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
