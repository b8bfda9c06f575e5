"""The steps that a configuration runs, as jitted functions with the shapes of their arguments.

Nothing here makes an array: parameters, batches and observations are shapes and dtypes with the
shardings that the run itself gives them.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from vdm.build import init_params
from vdm.diffusion.conditioning import ObservedFrames, ObservedLowResolution
from vdm.parallel.mesh import batch_sharding, check_divides, replicated, rounded_up
from vdm.sampling.generate import make_draw, micro_batches
from vdm.training.checkpoints import abstract_on
from vdm.training.state import init_state
from vdm.training.step import make_train_step

STEPS = ("train", "sample", "guided")


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function, ready to be traced.

    Attributes:
      name: one of STEPS.
      what: in words, for the report.
      batch_size: videos that it works on, on all devices.
      function: jitted.
      arguments: shapes, dtypes and shardings.
      repeats: turns of the loop in which the function does its work: micro-batches, or all steps
        of a sampler, times the micro-batches of a guided one. The compiler's counts have one.
      steps: that the function takes, each of which the plan describes.
    """

    name: str
    what: str
    batch_size: int
    function: Callable
    arguments: tuple
    repeats: int = 1
    steps: int = 1


def make_step(config: ml_collections.ConfigDict, mesh: Mesh, name: str) -> Step:
    """A step by name.

    'train' is a training step of config.training.batch_size videos. 'sample' is one step of
    config.sample.sampler without an observation, of config.sample.batch_size videos or the next
    multiple of the devices, as sampling fills it up. 'guided' is the same given an observation of
    the form that config.sample.task makes; of the task 'generate', whose samples observe nothing,
    that of 'extend', with which such models make longer videos.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    return {"train": _train, "sample": _sample, "guided": _guided}[name](config, mesh)


def _train(config: ml_collections.ConfigDict, mesh: Mesh) -> Step:
    size = config.training.batch_size
    check_divides(mesh, size, "training.batch_size", config.training.accumulate)
    state = abstract_on(mesh, jax.eval_shape(partial(init_state, config)))
    return Step(
        "train",
        f"training step of {size} videos",
        size,
        make_train_step(config, mesh),
        (state, _on_batch(mesh, _batch(config, size))),
        repeats=config.training.accumulate,
    )


def _sample(config: ml_collections.ConfigDict, mesh: Mesh) -> Step:
    return _draw(config, mesh, "sample", None)


def _guided(config: ml_collections.ConfigDict, mesh: Mesh) -> Step:
    size = rounded_up(mesh, config.sample.batch_size)
    return _draw(config, mesh, "guided", _observation(config, size))


def _draw(config: ml_collections.ConfigDict, mesh: Mesh, name: str, observation) -> Step:
    config = config.copy_and_resolve_references()
    config.sample.repaint_repeats = 1  # so that every turn of the loop is a step
    settings = config.sample
    size = rounded_up(mesh, settings.batch_size)
    params = abstract_on(mesh, jax.eval_shape(partial(init_params, config)))
    indices = _on_batch(mesh, jax.ShapeDtypeStruct((size,), jnp.int32))
    block = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    condition = _on_batch(mesh, _condition(config, size))
    parts = 1 if observation is None else micro_batches(config, mesh, size)
    what = f"step of {settings.sampler} of {size} videos"
    if observation is not None:
        what += f" by {settings.conditioning}"
    if condition and settings.guidance_weight not in (0, 1):
        what += " with classifier-free guidance"
    return Step(
        name,
        what,
        size,
        make_draw(config, mesh),
        (params, indices, block, condition, _on_batch(mesh, observation)),
        repeats=settings.num_steps * parts,
        steps=settings.num_steps,
    )


def _batch(config: ml_collections.ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a data set gives for training: videos, images and the condition of each."""
    data = config.data
    frame = (data.resolution, data.resolution, data.channels)
    batch = {"video": jax.ShapeDtypeStruct((size, data.frames, *frame), jnp.float32)}
    condition = _condition(config, size)
    if data.num_images:
        images = (size, data.num_images)
        batch["images"] = jax.ShapeDtypeStruct((*images, *frame), jnp.float32)
        condition |= {
            f"image_{name}": jax.ShapeDtypeStruct((*images, *of_video.shape[1:]), of_video.dtype)
            for name, of_video in condition.items()
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
    return {}


def _observation(config: ml_collections.ConfigDict, size: int):
    data, task = config.data, config.sample.task
    frames = (size, data.frames)
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


def _on_batch(mesh: Mesh, tree):
    split = batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split), tree
    )
