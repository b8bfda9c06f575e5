"""Generates samples on all devices; sample i is a function of (seed, i).

Sample i has the key fold_in(key(config.sample.seed), i), and each of its blocks fold_in(sample's
key, block). The low-resolution model of a cascade uses another key derived from the seed. Samples
do not depend on the batch size, the number of devices or the number of processes.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.build import make_denoiser, make_schedule, random_key
from vdm.checks import validate
from vdm.configuration.stored import from_record
from vdm.diffusion.guidance import ReconstructionOptions
from vdm.diffusion.history_guidance import HistoryOptions
from vdm.diffusion.joint import joint_denoiser
from vdm.diffusion.samplers import sample
from vdm.exported import load_exported, load_exported_config
from vdm.files import as_path
from vdm.parallel.mesh import batch_sharding, replicated, rounded_up, sharded_params
from vdm.parallel.messages import all_processes, gathered
from vdm.parallel.rows import local_rows, replicate_rows, rows_of, shard_rows
from vdm.sampling.conditions import Indices, conditions, make_observed
from vdm.sampling.tasks import TASKS, frames_drawn, is_joint
from vdm.shipped import check_exists
from vdm.video.pixels import from_uint8, to_uint8

# (parameters, indices) -> uint8 videos [len(indices), frames, height, width, channels]
Generator = Callable[[dict, Indices], np.ndarray]


class SamplesNotFinite(ArithmeticError):
    """Sampled pixels are infinite or NaN."""


def make_generator(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    *,
    stage: int = 0,
    draw: Callable[..., jax.Array] | None = None,
    condition_of: Callable[[Indices], dict[str, np.ndarray]] | None = None,
    videos: np.ndarray | None = None,
) -> Generator:
    """Returns a function that samples videos for config.sample.task, compiled once.

    Every process must make every call, and gets all videos. A call raises SamplesNotFinite if a
    pixel is infinite or NaN.

    Args:
      config: the configuration.
      mesh: the devices.
      stage: index of the model in a cascade; models with different stages draw independent noise.
      draw: the sampler, possibly compiled already; default `make_draw`.
      condition_of: indices -> conditions of these samples; default `conditions`.
      videos: the observed videos, as returned by `load_observed`; default: see `make_observed`.
    """
    settings = config.sample
    task, jitted = TASKS[settings.task], draw or make_draw(config, mesh, stage=stage)
    draw_key_frames = _make_key_frame_draw(config, mesh)
    by_block = divides_by_block(config, mesh)
    condition_of = condition_of or partial(conditions, config)
    observed = _make_observed_rows(config, mesh, videos)

    def generate_batch(params: dict, indices: Indices) -> np.ndarray:
        # Padded to a fixed shape, which compiles once and divides over the devices.
        size = settings.batch_size if by_block else rounded_up(mesh, settings.batch_size)
        rows = list(range(size)) if by_block else local_rows(mesh, size)
        padded = np.resize(np.asarray(indices, np.int32), size)
        local = padded[rows]
        on_mesh = partial(shard_rows, mesh, batch_size=size)
        if by_block:
            on_mesh = partial(replicate_rows, mesh)
        condition = jax.tree.map(on_mesh, condition_of(local))

        def draw_block(block, observation):
            observation = jax.tree.map(on_mesh, observation)
            seed, on_devices = np.uint32(settings.seed), on_mesh(local)
            arguments = (seed, on_devices, block, condition, observation)
            if draw_key_frames is not None and block == 0:
                return rows_of(draw_key_frames(*arguments))
            x = jitted(params, *arguments)
            return np.asarray(x.addressable_data(0)) if by_block else rows_of(x)

        sampled = task(config, draw_block, observed(padded, rows))
        if not all_processes(bool(np.isfinite(sampled).all())):
            raise SamplesNotFinite(
                f"samples {indices[0]} to {indices[-1]} have infinite or NaN pixels, and are not "
                "written: the weights are not finite, or the sampler's settings are too extreme"
            )
        pixels = to_uint8(sampled)
        return (pixels if by_block else gathered(on_mesh(pixels)))[: len(indices)]

    def generate_all(params: dict, indices: Indices) -> np.ndarray:
        size = settings.batch_size
        parts = [indices[first : first + size] for first in range(0, len(indices), size)]
        return np.concatenate([generate_batch(params, part) for part in parts])

    return generate_all


def make_draw(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    *,
    stage: int = 0,
    on_step: Callable[[jax.Array], object] | None = None,
) -> Callable[..., jax.Array]:
    """Returns the jitted sampler: (params, seed, indices, block, condition, observation) -> x.

    The compiled program depends on config.sample, except for the task, the seed, the condition and
    the observed videos, which are arguments; and, for joint denoising, on config.extend. For
    `on_step`, see `vdm.diffusion.samplers.sample`.
    """
    settings, data = config.sample, config.data
    frame_shape = (data.resolution, data.resolution, data.channels)
    on_all, split = replicated(mesh), batch_sharding(mesh)
    by_block = divides_by_block(config, mesh)
    if settings.conditioning == "diffusion_forcing":
        is_guided = settings.history_guidance_weight != 1
        clips_after = config.diffusion.clip and is_guided
    else:
        is_guided = settings.conditioning == "reconstruction"
        clips_after = config.diffusion.clip and settings.reconstruction_clip == "after"

    def draw(params, seed, indices, block, condition, observation):
        of_sample = jax.vmap(jax.random.fold_in, (None, 0))(_key(seed, stage), indices)
        clip = False if observation is not None and is_guided and clips_after else None

        def denoiser(z, log_snr, condition):
            return make_denoiser(config, params, condition, clip=clip)(z, log_snr)

        of_videos = denoiser
        if is_joint(config):
            of_videos = joint_denoiser(
                denoiser,
                config.extend.num_frames,
                data.frames,
                config.extend.overlap,
                multiple=mesh.size if by_block else 1,
                distribute=partial(jax.lax.with_sharding_constraint, shardings=split),
            )
        return sample(
            jax.vmap(jax.random.fold_in, (0, None))(of_sample, block),
            of_videos,
            (len(indices), frames_drawn(config), *frame_shape),
            condition=condition,
            sampler=settings.sampler,
            num_steps=settings.num_steps,
            gamma=settings.gamma,
            langevin_step_size=settings.langevin_step_size,
            schedule=make_schedule(config),
            observation=observation,
            conditioning=settings.conditioning,
            reconstruction_options=ReconstructionOptions(
                weight=settings.reconstruction_weight,
                clip=clips_after,
                normalization=settings.reconstruction_normalization,
                data_variance=settings.reconstruction_data_variance or None,
                micro_batches=micro_batches(config, mesh, len(indices)),
            ),
            repaint_jump_length=settings.repaint_jump_length,
            repaint_repeats=settings.repaint_repeats,
            history_options=HistoryOptions(
                weight=settings.history_guidance_weight,
                noise=settings.history_guidance_noise,
                context_noise=settings.context_noise,
                clip=clips_after,
            ),
            return_observed=settings.return_observed,
            on_step=on_step,
        )

    of_rows = on_all if by_block else split
    shardings = (None, on_all, of_rows, on_all, of_rows, of_rows)  # parameters as they are
    return jax.jit(draw, in_shardings=shardings, out_shardings=of_rows)


def divides_by_block(config: ml_collections.ConfigDict, mesh: Mesh) -> bool:
    """Returns whether joint denoising shards blocks, since there are fewer videos than devices."""
    return is_joint(config) and config.sample.batch_size < mesh.size


def _key(seed: jax.Array, stage: int) -> jax.Array:
    # Stages fold in numbers counted down from the maximum; sample indices count up from 0.
    key = random_key(seed)
    return jax.random.fold_in(key, 2**32 - stage) if stage else key


def micro_batches(config: ml_collections.ConfigDict, mesh: Mesh, batch_size: int) -> int:
    """Returns the number of micro-batches of a guided step.

    This is the smallest number for which no device guides more than
    config.sample.reconstruction_micro_batch videos per call.
    """
    settings, per_device = config.sample, max(1, batch_size // mesh.size)
    if settings.conditioning != "reconstruction" or not settings.reconstruction_micro_batch:
        return 1
    minimum = math.ceil(per_device / settings.reconstruction_micro_batch)
    return next(count for count in range(minimum, per_device + 1) if per_device % count == 0)


def _make_observed_rows(
    config: ml_collections.ConfigDict, mesh: Mesh, videos: np.ndarray | None
) -> Callable[[np.ndarray, list[int]], np.ndarray | None]:
    """Returns a function (batch indices, rows of this process) -> observed videos [rows, ...]."""
    if config.sample.task == "generate":
        return lambda indices, rows: None
    if config.sample.task == "cascade":
        base = _make_base_generator(config, mesh)
        return lambda indices, rows: from_uint8(base(indices)[rows])
    observed = make_observed(config, videos)
    return lambda indices, rows: observed(indices[rows])


def key_frame_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the key-frame model's configuration, with the sampling options of `config`.

    Raises:
      ValueError, OSError: the file is missing or damaged, or its model does not fit this one.
    """
    path = config.extend.key_frame_checkpoint
    check_exists(as_path(path), "extend.key_frame_checkpoint")
    found = from_record(load_exported_config(as_path(path))[0], path)
    frameskip = config.data.frameskip * config.extend.key_frame_interval
    if found.data.frameskip != frameskip:
        raise ValueError(
            f"{path} has data.frameskip {found.data.frameskip}, and must have {frameskip}, "
            "config.data.frameskip times config.extend.key_frame_interval"
        )
    for name in ("frames", "resolution", "channels", "condition", "frame_rate"):
        if found.data[name] != config.data[name]:
            raise ValueError(
                f"{path} has data.{name} {found.data[name]!r}, and config.data.{name} is "
                f"{config.data[name]!r}"
            )
    found.model.remat = config.model.remat  # changes memory, and no number
    found.sample.update(config.sample)
    found.extend.method = "autoregressive"  # its key frames are one block
    is_forced = config.sample.conditioning == "diffusion_forcing"
    if is_forced and found.diffusion.frame_times == "shared":
        raise ValueError(
            f"{path} has diffusion.frame_times 'shared', and must have one noise level per frame, "
            "since config.sample.conditioning is 'diffusion_forcing'"
        )
    try:
        validate(found)
    except ValueError as error:
        raise ValueError(f"the model of key frames, {path}, does not fit: {error}") from error
    return found


def _make_key_frame_draw(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> Callable[..., jax.Array] | None:
    """Returns the jitted sampler of the key-frame model; None if this model draws key frames."""
    if config.sample.task != "extend" or not config.extend.key_frame_checkpoint:
        return None
    path = as_path(config.extend.key_frame_checkpoint)
    draw = make_draw(key_frame_config(config), mesh)
    return partial(draw, sharded_params(mesh, load_exported(path)))


def _make_base_generator(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from indices to samples of the cascade's low-resolution model."""
    path = as_path(config.cascade.base_checkpoint)
    base_config = from_record(load_exported_config(path)[0], path)
    base_config.model.remat = config.model.remat  # changes memory, and no number
    for field in ("seed", "batch_size", "label", "caption", "per_example"):
        base_config.sample[field] = config.sample[field]
    base = make_generator(base_config, mesh, stage=1)
    return partial(base, sharded_params(mesh, load_exported(path)))
