"""Sample i of a run as a function of (seed, i), on all devices."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm import parallel
from vdm.build import make_denoiser, make_schedule
from vdm.data.media import to_uint8, video_grid
from vdm.data.source import make_source
from vdm.data.words import encode_caption
from vdm.diffusion.samplers import sample

# (parameters, indices) -> uint8 videos [len(indices), frames, height, width, channels]
Generator = Callable[[dict, Sequence[int]], np.ndarray]


def make_generator(config: ml_collections.ConfigDict, mesh: Mesh) -> Generator:
    """A function that makes the samples of given indices, compiled once.

    The noise of sample i is a function of (config.sample.seed, i) alone, and so is its condition:
    neither depends on the batch, nor on the number of devices.
    """
    settings, data = config.sample, config.data
    frame_shape = (data.resolution, data.resolution, data.channels)
    on_all, split = parallel.replicated(mesh), parallel.batch_sharding(mesh)

    def generate(params, indices, condition):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(settings.seed), indices)
        return sample(
            keys,
            make_denoiser(config, params, condition),
            (len(indices), data.frames, *frame_shape),
            sampler=settings.sampler,
            num_steps=settings.num_steps,
            gamma=settings.gamma,
            langevin_step_size=settings.langevin_step_size,
            schedule=make_schedule(config),
        )

    jitted = jax.jit(generate, in_shardings=(on_all, split, split), out_shardings=split)

    def generate_batch(params: dict, indices: Sequence[int]) -> np.ndarray:
        # Short batches are filled up: one shape compiles once, and divides over the devices.
        size = -(-settings.batch_size // mesh.size) * mesh.size
        filled = np.resize(np.asarray(indices, np.int32), size)
        condition = parallel.shard_batch(mesh, conditions(config, filled))
        return to_uint8(jitted(params, jnp.asarray(filled), condition))[: len(indices)]

    def generate_all(params: dict, indices: Sequence[int]) -> np.ndarray:
        size = settings.batch_size
        parts = [indices[first : first + size] for first in range(0, len(indices), size)]
        return np.concatenate([generate_batch(params, part) for part in parts])

    return generate_all


def conditions(config: ml_collections.ConfigDict, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """What the samples of given indices are conditioned on, as the network takes it.

    config.sample.label or config.sample.caption where they are given; otherwise sample i has the
    label or the caption of example i of the held-out data.
    """
    data, settings = config.data, config.sample
    count = len(indices)
    if data.condition == "label" and settings.label >= 0:
        return {"label": np.full(count, settings.label, np.int32)}
    if data.condition == "text" and settings.caption:
        text, text_mask = encode_caption(
            settings.caption, tokens=data.text_tokens, width=config.model.text_width
        )
        return {
            "text": np.tile(text, (count, 1, 1)),
            "text_mask": np.tile(text_mask, (count, 1)),
        }
    if data.condition == "none":
        return {}
    source = make_source(config, "test")
    examples = [source.example(int(index)) for index in indices]
    names = {"label": ("label",), "text": ("text", "text_mask")}[data.condition]
    return {name: np.stack([example[name] for example in examples]) for name in names}


def describe_conditions(
    config: ml_collections.ConfigDict, indices: Sequence[int]
) -> dict[str, np.ndarray]:
    """The labels or captions of samples, as people read them, under 'label' or 'caption'."""
    data, settings = config.data, config.sample
    if data.condition == "label":
        return {"label": conditions(config, indices)["label"]}
    if data.condition == "text":
        source = make_source(config, "test")
        captions = [settings.caption or source.caption(int(index)) for index in indices]
        return {"caption": np.array(captions)}
    return {}


def make_preview(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[[dict], np.ndarray]:
    """Draws the first samples of a run side by side: (parameters) -> uint8 [frames, H, W, c]."""
    generator = make_generator(config, mesh)
    indices = range(min(config.sample.num_videos, config.sample.batch_size))
    return lambda params: video_grid(generator(params, indices))
