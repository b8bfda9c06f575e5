"""The training loss on held-out videos, by log-SNR."""

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.build import make_model, random_key
from vdm.data.datasets import make_data_set
from vdm.diffusion.loss import loss_at
from vdm.parallel.mesh import batch_sharding, replicated, rounded_up
from vdm.parallel.messages import gathered
from vdm.parallel.rows import local_rows, shard_batch, shard_rows


def held_out_loss(
    config: ml_collections.ConfigDict, params: dict, mesh: Mesh
) -> list[dict[str, float]]:
    """Returns the mean training loss over test videos by log-SNR.

    The bins have equal width, and cover the log-SNRs of the schedule.

    Each video counts once per bin, at a log-SNR uniform in the bin; noise and log-SNR are functions
    of (config.sample.seed, video, bin). Independent images are not evaluated.

    Returns:
      One dict per bin, from noise to data: log_snr_from, log_snr_to, loss and standard_error. The
      loss is the mean squared error of the training target.
    """
    settings = config.eval
    model = make_model(config)
    source = make_data_set(config, "test")
    diffusion = config.diffusion
    limits = (diffusion.log_snr_min, diffusion.log_snr_max)
    edges = np.linspace(*limits, settings.log_snr_bins + 1) + diffusion.log_snr_shift

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
    losses: list[list[np.ndarray]] = [[] for _ in range(settings.log_snr_bins)]
    for first in range(0, settings.num_videos, size):
        examples = [source.example(first + row) for row in rows]
        names = [name for name in examples[0] if not name.startswith("image")]
        local = {name: np.stack([example[name] for example in examples]) for name in names}
        batch = shard_batch(mesh, local, size)
        indices = shard_rows(mesh, first + np.array(rows), size)
        for index in range(settings.log_snr_bins):
            low, high = edges[index : index + 2]
            batch_losses = losses_of_batch(params, indices, batch, index, low, high)
            losses[index].append(gathered(batch_losses))
    return [
        _row(low, high, np.concatenate(parts)[: settings.num_videos])
        for low, high, parts in zip(edges[:-1], edges[1:], losses, strict=True)
    ]


def _row(low: float, high: float, losses: np.ndarray) -> dict[str, float]:
    losses = losses.astype(np.float64)
    return {
        "log_snr_from": float(low),
        "log_snr_to": float(high),
        "loss": float(losses.mean()),
        "standard_error": float(losses.std(ddof=1) / len(losses) ** 0.5),
    }
