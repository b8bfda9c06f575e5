"""Training and sampling steps of a configuration as jitted functions with abstract arguments.

No arrays are created: parameters, batches and observations are shapes and dtypes with the shardings
of a real run.
"""

import dataclasses
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from vdm.build import evaluates_twice, init_params
from vdm.diffusion.conditioning import ObservedFrames, ObservedLowResolution
from vdm.parallel.mesh import batch_sharding, check_divides, replicated, rounded_up
from vdm.sampling.generate import make_draw, micro_batches
from vdm.sampling.tasks import frames_drawn
from vdm.training.checkpoints import abstract_on
from vdm.training.state import init_state
from vdm.training.step import make_train_step

STEPS = ("train", "sample", "guided")


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function with abstract arguments, ready to trace.

    Attributes:
      name: one of STEPS.
      description: the step in words, for the report.
      batch_size: videos on all devices together.
      function: the jitted function.
      arguments: shapes, dtypes and shardings.
      repeats: iterations of the function's main loop: micro-batches, or sampler steps times
        micro-batches. The compiler counts FLOPs and bytes of one iteration.
      steps: steps per call of the function; the plan is of one of them.
    """

    name: str
    description: str
    batch_size: int
    function: jax.stages.Wrapped
    arguments: tuple
    repeats: int = 1
    steps: int = 1


def make_step(config: ml_collections.ConfigDict, mesh: Mesh, name: str) -> Step:
    """Returns a step by its name.

    'train' is a training step of config.training.batch_size videos. 'sample' is an unconditional
    step of config.sample.sampler on config.sample.batch_size videos, rounded up to a multiple of
    the devices as in sampling. 'guided' is the same step conditioned on the observation of
    config.sample.task; for the task 'generate', which has none, on observed frames as in 'extend'.

    Raises:
      ValueError: if the number of devices does not divide the batch.
    """
    if config.model.spatial_attention == "auto" and mesh.devices.flat[0].platform != "cpu":
        # 'auto' is a choice by the attached devices, and these may not be.
        config = config.copy_and_resolve_references()
        config.model.spatial_attention = "whole"
    return {"train": _train, "sample": _sample, "guided": _guided}[name](config, mesh)


def _train(config: ml_collections.ConfigDict, mesh: Mesh) -> Step:
    size = config.training.batch_size
    check_divides(mesh, size, "training.batch_size", config.training.accumulate)
    state = abstract_on(mesh, jax.eval_shape(partial(init_state, config)))
    return Step(
        "train",
        f"training step of {size} videos",
        size,
        cast(jax.stages.Wrapped, make_train_step(config, mesh)),
        (state, _split(mesh, _batch(config, size))),
        repeats=config.training.accumulate,
    )


def _sample(config: ml_collections.ConfigDict, mesh: Mesh) -> Step:
    return _draw(config, mesh, "sample", None)


def _guided(config: ml_collections.ConfigDict, mesh: Mesh) -> Step:
    size = rounded_up(mesh, config.sample.batch_size)
    return _draw(config, mesh, "guided", _observation(config, size))


def _draw(config: ml_collections.ConfigDict, mesh: Mesh, name: str, observation) -> Step:
    config = config.copy_and_resolve_references()
    config.sample.repaint_repeats = 1  # each iteration of the loop is then one step
    settings = config.sample
    size = rounded_up(mesh, settings.batch_size)
    settings.batch_size = size  # whole videos on each device
    params = abstract_on(mesh, jax.eval_shape(partial(init_params, config)))
    indices = _split(mesh, jax.ShapeDtypeStruct((size,), jnp.int32))
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated(mesh))
    block = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    condition = _split(mesh, _condition(config, size))
    parts = 1 if observation is None else micro_batches(config, mesh, size)
    description = f"step of {settings.sampler} of {size} videos"
    if observation is not None:
        description += f" by {settings.conditioning}"
    if condition and evaluates_twice(config):
        description += " with classifier-free guidance"
    return Step(
        name,
        description,
        size,
        cast(jax.stages.Wrapped, make_draw(config, mesh)),
        (params, seed, indices, block, condition, _split(mesh, observation)),
        repeats=settings.num_steps * parts,
        steps=settings.num_steps,
    )


def _batch(config: ml_collections.ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch: videos, independent images and their conditions."""
    data = config.data
    frame = (data.resolution, data.resolution, data.channels)
    batch = {"video": jax.ShapeDtypeStruct((size, data.frames, *frame), jnp.float32)}
    condition = _condition(config, size)
    if data.num_images:
        images = (size, data.num_images)
        described = {} if data.condition == "action" else condition
        batch["images"] = jax.ShapeDtypeStruct((*images, *frame), jnp.float32)
        condition |= {
            f"image_{name}": jax.ShapeDtypeStruct((*images, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in described.items()
        }
    return batch | condition


def _condition(config: ml_collections.ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    data = config.data
    if data.condition == "label":
        return {"label": jax.ShapeDtypeStruct((size,), jnp.int32)}
    if data.condition == "text":
        tokens = (size, data.text_tokens)
        return {
            "text": jax.ShapeDtypeStruct((*tokens, config.model.text_width), jnp.float32),
            "text_mask": jax.ShapeDtypeStruct(tokens, jnp.bool_),
        }
    if data.condition == "action":
        frames = (size, data.frames)
        return {
            "action": jax.ShapeDtypeStruct((*frames, config.model.action_width), jnp.float32),
            "action_mask": jax.ShapeDtypeStruct(frames, jnp.bool_),
        }
    return {}


def _observation(config: ml_collections.ConfigDict, size: int):
    data, task = config.data, config.sample.task
    frames = (size, frames_drawn(config))
    mask = jax.ShapeDtypeStruct(frames, jnp.bool_)

    def video(side):
        return jax.ShapeDtypeStruct((*frames, side, side, data.channels), jnp.float32)

    if task == "upsample":
        low = video(data.resolution // config.upsample.factor)
        return ObservedLowResolution(low, downsampling=config.upsample.downsampling)
    observed = ObservedFrames(video(data.resolution), mask)
    if task == "cascade":
        return observed, ObservedLowResolution(video(data.resolution // 2), mask)
    return observed


def _split(mesh: Mesh, tree):
    """The tree with the first axis of each leaf split over all devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
