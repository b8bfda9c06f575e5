"""Video Diffusion Models (Ho et al., 2022) in JAX and Flax.

`vdm.load` opens a trained model that samples, predicts and extends videos, and `vdm.metrics`
compares sets of videos. Both are imported at first use: `import vdm` imports no other package.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdm import metrics
    from vdm.video_model import load

__version__ = "0.1.0"
__all__ = ["__version__", "load", "metrics"]


def __getattr__(name: str):
    if name == "load":
        return importlib.import_module("vdm.video_model").load
    if name == "metrics":
        return importlib.import_module("vdm.metrics")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
