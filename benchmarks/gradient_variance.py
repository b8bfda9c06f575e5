"""The variance of the gradient with independent images in the batch, the reason for joint training.

    python benchmarks/gradient_variance.py [--images 0 4 8] [--batches=128]

The paper's abstract says that joint training on images reduces the variance of minibatch gradients.
The shipped model of moving digits takes the gradient of its training loss on many batches of its
usual size, with 0, 4 and 8 images per video. Reported are E |g - E g|^2 / |E g|^2 with its
jackknife error, and at equal cost: times the number of frames over that without images.

Prints and writes benchmarks/results/gradient_variance.json. Takes ten minutes on two cores.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from measuring import ROOT, write_result

from vdm.build import make_model, make_schedule, random_key
from vdm.configuration.stored import from_record
from vdm.data.datasets import make_data_set
from vdm.diffusion.loss import diffusion_loss
from vdm.exported import load_exported, load_exported_config
from vdm.training.step import join_images

CHECKPOINT = ROOT / "checkpoints" / "moving_digits.safetensors"


def gradients(config, params, count: int):
    """Yields the gradient of the training loss on each of `count` batches, as one vector."""
    model, schedule = make_model(config), make_schedule(config)
    source = make_data_set(config, "train")

    @jax.jit
    def gradient(params, batch, index):
        key = jax.random.fold_in(random_key(config.seed), index)
        loss_key, dropout_key = jax.random.split(key)

        def loss(params):
            def network(z, log_snr):
                return model.apply(
                    {"params": params},
                    z,
                    log_snr,
                    batch,
                    num_images=config.data.num_images,
                    train=True,
                    rngs={"dropout": dropout_key},
                )

            x = join_images(batch)
            target = config.diffusion.target
            return diffusion_loss(loss_key, network, x, target=target, schedule=schedule).mean()

        return ravel_pytree(jax.grad(loss)(params))[0]

    size = config.training.batch_size
    for index in range(count):
        batch = jax.tree.map(jnp.asarray, source.batch(index * size, size))
        yield np.asarray(gradient(params, batch, index), np.float64)


def relative_variance(vectors: np.ndarray) -> tuple[float, float]:
    """Returns E |g - E g|^2 / |E g|^2 of vectors [batches, size], and its standard error.

    Both expectations are estimated without bias from the same batches.
    """
    count, total = len(vectors), vectors.sum(0)
    squares = np.square(vectors).sum(1)

    def ratio(total, squares, count):
        spread = (squares - total @ total / count) / (count - 1)
        return spread / (total @ total / count**2 - spread / count)

    whole = ratio(total, squares.sum(), count)
    without = [
        ratio(total - vector, squares.sum() - square, count - 1)
        for vector, square in zip(vectors, squares, strict=True)
    ]
    return float(whole), float(np.sqrt((count - 1) * np.var(without)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--batches", type=int, default=128)
    arguments = parser.parse_args()
    config = from_record(load_exported_config(CHECKPOINT)[0], CHECKPOINT)
    params = jax.tree.map(jnp.asarray, load_exported(CHECKPOINT))
    rows = []
    for images in arguments.images:
        config.data.num_images = images
        vectors = np.stack(list(gradients(config, params, arguments.batches)))
        variance, error = relative_variance(vectors)
        frames = config.data.frames + images
        rows.append(
            {
                "images": images,
                "relative_variance": variance,
                "standard_error": error,
                "frames": frames,
                "at_equal_cost": variance * frames / config.data.frames,
            }
        )
        print(rows[-1], flush=True)
    write_result("gradient_variance", {"batches": arguments.batches, "rows": rows})


if __name__ == "__main__":
    main()
