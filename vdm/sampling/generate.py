"""Sample i of a run as a function of (seed, i), on all devices."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.build import make_denoiser, make_schedule
from vdm.config import default_config
from vdm.data.captions.encoded import encode_given
from vdm.data.datasets import make_data_set
from vdm.data.folder.user_videos import load_videos
from vdm.diffusion.samplers import sample
from vdm.exported import load_exported, load_exported_config
from vdm.parallel.mesh import batch_sharding, replicated, rounded_up, sharded_params
from vdm.parallel.messages import gathered
from vdm.parallel.rows import local_rows, rows_of, shard_rows
from vdm.sampling.tasks import TASKS, frames_needed
from vdm.video.display import video_grid
from vdm.video.pixels import from_uint8, to_uint8

# (parameters, indices) -> uint8 videos [len(indices), frames, height, width, channels]
Generator = Callable[[dict, Sequence[int]], np.ndarray]


def make_generator(config: ml_collections.ConfigDict, mesh: Mesh) -> Generator:
    """A function that makes the samples of given indices by config.sample.task, compiled once.

    The noise of sample i is a function of (config.sample.seed, i) alone, and so are its condition
    and what is observed: nothing depends on the batch, nor on the number of devices.
    """
    settings = config.sample
    task, jitted = TASKS[settings.task], make_draw(config, mesh)
    observed = _make_observed(config, mesh)

    def generate_batch(params: dict, indices: Sequence[int]) -> np.ndarray:
        # Short batches are filled up: one shape compiles once, and divides over the devices.
        size = rounded_up(mesh, settings.batch_size)
        rows = local_rows(mesh, size)
        filled = np.resize(np.asarray(indices, np.int32), size)
        mine = filled[rows]
        on_mesh = partial(shard_rows, mesh, batch_size=size)
        condition = jax.tree.map(on_mesh, conditions(config, mine))

        def draw(block, observation):
            observation = jax.tree.map(on_mesh, observation)
            return rows_of(jitted(params, on_mesh(mine), block, condition, observation))

        videos = on_mesh(to_uint8(task(config, draw, observed(filled, rows))))
        return gathered(videos)[: len(indices)]

    def generate_all(params: dict, indices: Sequence[int]) -> np.ndarray:
        size = settings.batch_size
        parts = [indices[first : first + size] for first in range(0, len(indices), size)]
        return np.concatenate([generate_batch(params, part) for part in parts])

    return generate_all


def make_draw(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[..., jax.Array]:
    """The jitted sampler: (params, indices, block, condition, observation) -> x."""
    settings, data = config.sample, config.data
    frame_shape = (data.resolution, data.resolution, data.channels)
    on_all, split = replicated(mesh), batch_sharding(mesh)
    clips_after = config.diffusion.clip and settings.reconstruction_clip == "after"

    def draw(params, indices, block, condition, observation):
        of_sample = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(settings.seed), indices)
        guided = observation is not None and settings.conditioning == "reconstruction"
        clip = False if guided and clips_after else None

        def denoiser(z, log_snr, condition):
            return make_denoiser(config, params, condition, clip=clip)(z, log_snr)

        return sample(
            jax.vmap(jax.random.fold_in, (0, None))(of_sample, block),
            denoiser,
            (len(indices), data.frames, *frame_shape),
            condition=condition,
            sampler=settings.sampler,
            num_steps=settings.num_steps,
            gamma=settings.gamma,
            langevin_step_size=settings.langevin_step_size,
            schedule=make_schedule(config),
            observation=observation,
            conditioning=settings.conditioning,
            weight=settings.reconstruction_weight,
            reconstruction_options={
                "clip": clips_after,
                "normalization": settings.reconstruction_normalization,
                "data_variance": settings.reconstruction_data_variance or None,
                "micro_batches": micro_batches(config, mesh, len(indices)),
            },
            repaint_jump_length=settings.repaint_jump_length,
            repaint_repeats=settings.repaint_repeats,
            return_observed=settings.return_observed,
        )

    shardings = (None, split, on_all, split, split)  # parameters as they are
    return jax.jit(draw, in_shardings=shardings, out_shardings=split)


def micro_batches(config: ml_collections.ConfigDict, mesh: Mesh, batch_size: int) -> int:
    """How many equal parts of a batch are guided one after the other.

    The fewest that have config.sample.reconstruction_micro_batch videos of each device or fewer.
    """
    settings, of_device = config.sample, batch_size // mesh.size
    if settings.conditioning != "reconstruction" or not settings.reconstruction_micro_batch:
        return 1
    least = math.ceil(of_device / settings.reconstruction_micro_batch)
    return next(count for count in range(least, of_device + 1) if of_device % count == 0)


def _make_observed(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> Callable[[np.ndarray, list[int]], np.ndarray | None]:
    """The videos [rows, frames, ...] that the task starts from.

    A function of the indices of a whole batch and of the rows of it that this process makes.
    """
    settings = config.sample
    if settings.task == "generate":
        return lambda indices, rows: None
    if settings.task == "cascade":
        path = Path(config.cascade.base_checkpoint)
        saved, _ = load_exported_config(path)
        for field in ("channel_multipliers", "attention_resolutions"):  # lists in JSON
            saved["model"][field] = tuple(saved["model"][field])
        saved["model"]["remat"] = config.model.remat  # which changes no number
        # Fields that came after the checkpoint have their defaults.
        base_config = default_config()
        base_config.update(saved)
        for field in ("seed", "batch_size", "label", "caption"):
            base_config.sample[field] = settings[field]
        base = make_generator(base_config, mesh)
        params = sharded_params(mesh, load_exported(path))
        return lambda indices, rows: from_uint8(base(params, indices)[rows])
    if settings.observed:
        videos = from_uint8(load_observed(config))
        return lambda indices, rows: videos[examples_of(config, indices[rows]) % len(videos)]
    source = make_data_set(config, "test")
    return lambda indices, rows: np.stack(
        [source.example(int(i))["video"] for i in examples_of(config, indices[rows])]
    )


def load_observed(config: ml_collections.ConfigDict) -> np.ndarray:
    """The user's videos under config.sample.observed, uint8, of the frames and size of the task.

    Raises:
      ValueError, OSError: with one sentence that names the file or the frame that does not fit.
    """
    side = config.data.resolution
    if config.sample.task == "upsample":
        side //= config.upsample.factor
    needed = frames_needed(config)
    videos = load_videos(
        Path(config.sample.observed).expanduser(),
        num_frames=needed,
        resolution=side,
        channels=config.data.channels,
        frame_rate=config.data.frame_rate,
    )
    # What is not observed is not read, and makes all blocks of one shape.
    missing = max(0, config.data.frames - needed)
    return np.pad(videos, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))


def examples_of(config: ml_collections.ConfigDict, indices: Sequence[int]) -> np.ndarray:
    """The held-out example of each sample, from which come its condition and what it observes."""
    return np.asarray(indices, int) // config.sample.per_example


def conditions(config: ml_collections.ConfigDict, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """What the samples of given indices are conditioned on, as the network takes it.

    config.sample.label or config.sample.caption where they are given; otherwise each sample has the
    label or the caption of its held-out example.
    """
    data, settings = config.data, config.sample
    count = len(indices)
    if data.condition == "label" and settings.label >= 0:
        return {"label": np.full(count, settings.label, np.int32)}
    if data.condition == "text" and settings.caption:
        text, text_mask = encode_given(config, settings.caption)
        return {
            "text": np.tile(text, (count, 1, 1)),
            "text_mask": np.tile(text_mask, (count, 1)),
        }
    if data.condition == "none":
        return {}
    source = make_data_set(config, "test")
    examples = [source.example(int(i)) for i in examples_of(config, indices)]
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
        source = make_data_set(config, "test")
        captions = [
            settings.caption or source.caption(int(i)) for i in examples_of(config, indices)
        ]
        return {"caption": np.array(captions)}
    return {}


def preview_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration by which training shows samples: what its task needs is at hand.

    A cascade, which needs another model, gives way to generation.
    """
    config = config.copy_and_resolve_references()
    if config.sample.task == "cascade":
        config.sample.task = "generate"
    return config


def make_preview(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[[dict], np.ndarray]:
    """Draws the first samples of a run side by side: (parameters) -> uint8 [frames, H, W, c]."""
    config = preview_config(config)
    generator = make_generator(config, mesh)
    indices = range(min(config.sample.num_videos, config.sample.batch_size))
    return lambda params: video_grid(generator(params, indices))
