"""Training and sampling steps of a configuration as jitted functions with abstract arguments.

No arrays are created: parameters, batches and observations are `jax.ShapeDtypeStruct`s with the
shardings of a real run.
"""

import dataclasses
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from vdm.build import evaluates_twice, init_params
from vdm.data.shapes import batch_shapes, condition_shapes
from vdm.diffusion.conditioning import ObservedFrames, ObservedLowResolution
from vdm.parallel.mesh import check_divides, replicated, rounded_up
from vdm.parallel.rows import abstract_rows
from vdm.sampling.generate import make_draw, micro_batches
from vdm.sampling.tasks import frames_drawn
from vdm.training.checkpoints import abstract_on
from vdm.training.state import state_shapes
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
        micro-batches. The compiler counts FLOPs and bytes of one iteration only.
      steps: steps per call of the function; the plan reports one of them.
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
    the devices as in sampling. 'guided' is the same step, conditioned on the observation of
    config.sample.task (for 'generate', which has none, on observed frames as in 'extend').

    Raises:
      ValueError: the number of devices does not divide the batch.
    """
    is_for_cpu = mesh.devices.flat[0].platform == "cpu" and not config.plan.hardware
    if config.model.spatial_attention == "auto" and not is_for_cpu:
        # 'auto' would choose by the attached devices, but the plan may be for others.
        config = config.copy_and_resolve_references()
        config.model.spatial_attention = "whole"
    return {"train": _train, "sample": _sample, "guided": _guided}[name](config, mesh)


def _train(config: ml_collections.ConfigDict, mesh: Mesh) -> Step:
    size = config.training.batch_size
    check_divides(mesh, size, "training.batch_size", config.training.accumulate)
    state = abstract_on(mesh, state_shapes(config))
    return Step(
        "train",
        f"training step of {size} videos",
        size,
        make_train_step(config, mesh),
        (state, abstract_rows(mesh, batch_shapes(config, size))),
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
    indices = abstract_rows(mesh, jax.ShapeDtypeStruct((size,), jnp.int32))
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated(mesh))
    block = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    condition = abstract_rows(mesh, condition_shapes(config, size))
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
        (params, seed, indices, block, condition, abstract_rows(mesh, observation)),
        repeats=settings.num_steps * parts,
        steps=settings.num_steps,
    )


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
