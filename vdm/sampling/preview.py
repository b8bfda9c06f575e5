"""The sample videos that training logs."""

from collections.abc import Callable

import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.sampling.generate import make_generator
from vdm.video.display import video_grid


def preview_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the configuration of previews: 'generate' replaces 'cascade', which needs a model."""
    config = config.copy_and_resolve_references()
    if config.sample.task == "cascade":
        config.sample.task = "generate"
    return config


def make_preview(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[[dict], np.ndarray]:
    """Returns a function from parameters to a grid of the first samples, uint8 [frames, H, W, c].

    It draws one batch: config.sample.num_videos or config.sample.batch_size videos, whichever is
    less.
    """
    config = preview_config(config)
    generator = make_generator(config, mesh)
    indices = range(min(config.sample.num_videos, config.sample.batch_size))
    return lambda params: video_grid(generator(params, indices))
