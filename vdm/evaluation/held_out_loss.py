"""The training loss on held-out videos, per bin of log-SNR."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.build import make_model, make_schedule, random_key
from vdm.data.batches import Batches
from vdm.data.datasets import make_data_set, number_of_videos
from vdm.diffusion.loss import loss_at
from vdm.metrics.statistics import standard_error
from vdm.parallel.mesh import batch_sharding, replicated, rounded_up
from vdm.parallel.messages import gathered, is_first_process
from vdm.parallel.rows import local_rows, shard_batch, shard_rows
from vdm.progress import progress

_NUM_TIMES = 10_000  # times in the average over t

# Bins of log-SNR, from noise to data, each with log_snr_from, log_snr_to, loss and standard_error;
# one video has no standard error.
Rows = list[dict[str, float]]


def make_held_out_loss(
    config: ml_collections.ConfigDict, mesh: Mesh, *, warn: bool = False
) -> Callable[[dict], Rows]:
    """Returns a function from parameters to their held-out loss, compiled once.

    The loss is the mean squared error of the training target, without
    config.diffusion.loss_weighting, over the first config.eval.num_videos test videos, or over all
    of them if there are fewer, in bins of equal width in log-SNR. Each video is evaluated once per
    bin, at a log-SNR uniform in the bin; noise and log-SNR are functions of (config.sample.seed,
    video, bin). Independent images are not evaluated.

    Every process must make every call, and gets the result. `warn` prints a warning if there are
    fewer videos than config.eval.num_videos.
    """
    config = config.copy_and_resolve_references()
    config.data.num_images = 0  # clips do not depend on it
    settings = config.eval
    model = make_model(config)
    source = make_data_set(config, "test")
    # 0 for an endless data set.
    count = min(settings.num_videos, number_of_videos(source) or settings.num_videos)
    if warn and count < settings.num_videos and is_first_process():
        print(
            f"warning: config.eval.num_videos is {settings.num_videos}, and there are only {count} "
            "held-out videos: the held-out loss is over these",
            flush=True,
        )
    edges = _edges(config)

    def loss_of_video(params, index, example, bin_index, low, high):
        key = jax.random.fold_in(random_key(config.sample.seed), index)
        log_snr_key, noise_key = jax.random.split(jax.random.fold_in(key, bin_index))
        log_snr = jax.random.uniform(log_snr_key, (1,), minval=low, maxval=high)
        condition = {name: value[None] for name, value in example.items()}
        return loss_at(
            noise_key,
            lambda z, log_snr: model.apply({"params": params}, z, log_snr, condition),
            example["video"][None],
            log_snr,
            target=config.diffusion.target,
        )[0]

    split = batch_sharding(mesh)
    on_all = replicated(mesh)
    losses_of_batch = jax.jit(
        jax.vmap(loss_of_video, in_axes=(None, 0, 0, None, None, None)),
        in_shardings=(None, split, split, on_all, on_all, on_all),
        out_shardings=split,
    )
    size = rounded_up(mesh, settings.batch_size)
    rows = local_rows(mesh, size)
    steps = range(-(-count // size))

    def losses_of(params: dict) -> Rows:
        losses: list[list[np.ndarray]] = [[] for _ in range(settings.log_snr_bins)]
        batches = Batches(
            source,
            steps,
            size,
            rows=rows,
            place=lambda batch: shard_batch(mesh, batch, size),
            num_workers=config.data.num_workers,
            prefetch=config.data.prefetch,
        )
        with batches, progress("held-out loss", count, "videos") as bar:
            for step in steps:
                batch = batches.next()
                indices = shard_rows(mesh, step * size + np.array(rows), size)
                for index in range(settings.log_snr_bins):
                    low, high = edges[index : index + 2]
                    batch_losses = losses_of_batch(params, indices, batch, index, low, high)
                    losses[index].append(gathered(batch_losses))
                bar.update(min(size, count - step * size))
        return [
            _row(low, high, np.concatenate(parts)[:count])
            for low, high, parts in zip(edges[:-1], edges[1:], losses, strict=True)
        ]

    return losses_of


def mean_loss(config: ml_collections.ConfigDict, rows: Rows) -> float:
    """Returns the held-out loss as a single number, an estimate of the training objective.

    As in training, the weight of a bin is the fraction of uniform times t with a log-SNR in it.
    """
    edges = _edges(config)
    times = (jnp.arange(_NUM_TIMES) + 0.5) / _NUM_TIMES
    log_snr = np.asarray(make_schedule(config)(times))
    log_snr = np.clip(log_snr, edges[0], edges[-1])  # the end points may differ by rounding
    counts, _ = np.histogram(log_snr, edges)
    return float(np.average([row["loss"] for row in rows], weights=counts))


def make_mean_held_out_loss(
    config: ml_collections.ConfigDict, mesh: Mesh
) -> Callable[[dict], float]:
    """Returns a function from parameters to `mean_loss` of their `make_held_out_loss`.

    Prints a warning if there are fewer held-out videos than config.eval.num_videos.
    """
    losses_of = make_held_out_loss(config, mesh, warn=True)
    return lambda params: mean_loss(config, losses_of(params))


def _edges(config: ml_collections.ConfigDict) -> np.ndarray:
    diffusion = config.diffusion
    limits = (diffusion.log_snr_min, diffusion.log_snr_max)
    return np.linspace(*limits, config.eval.log_snr_bins + 1) + diffusion.log_snr_shift


def _row(low: float, high: float, losses: np.ndarray) -> dict[str, float]:
    losses = losses.astype(np.float64)
    row = {
        "log_snr_from": float(low),
        "log_snr_to": float(high),
        "loss": float(losses.mean()),
    }
    if len(losses) > 1:
        row["standard_error"] = standard_error(losses)
    return row
