"""Gradient variance with independent images in the batch: the paper's reason for joint training.

    python benchmarks/gradient_variance.py [--images 0 4 8] [--batches=256] [--steps=300]

The paper's abstract says that joint training on images reduces the variance of minibatch gradients.
A network of moving digits (configs/moving_digits.py) trains for --steps steps with the largest
number of images. The benchmark then computes the gradient g of the training loss at its parameters,
on many batches of the usual number of videos, with 0, 4 and 8 images per video and independent
times. It reports the variance E |g - E g|^2, and the variance relative to |E g|^2, each with its
jackknife error. For equal cost, it also reports both times the ratio of the number of frames to the
number of frames without images.

Prints and writes benchmarks/results/gradient_variance.json. Takes ten minutes on two cores.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from measuring import ROOT, write_result

from vdm.build import make_model, make_schedule, random_key
from vdm.configuration.resolve import load_file
from vdm.data.datasets import make_data_set
from vdm.diffusion.loss import diffusion_loss
from vdm.parallel.mesh import make_mesh
from vdm.parallel.rows import shard_batch
from vdm.training.objective import training_network
from vdm.training.state import init_state
from vdm.training.step import join_images, make_train_step


def gradients(config, params, count: int):
    """Yields the gradient of the training loss on each of `count` batches, as one vector."""
    model, schedule = make_model(config), make_schedule(config)
    source = make_data_set(config, "train")

    @jax.jit
    def gradient(params, batch, index):
        key = jax.random.fold_in(random_key(config.seed), index)
        loss_key, dropout_key = jax.random.split(key)

        def loss(params):
            network = training_network(config, model, params, batch, dropout_key)
            x = join_images(batch)
            target = config.diffusion.target
            return diffusion_loss(loss_key, network, x, target=target, schedule=schedule).mean()

        return ravel_pytree(jax.grad(loss)(params))[0]

    size = config.training.batch_size
    for index in range(count):
        batch = jax.tree.map(jnp.asarray, source.batch(index * size, size))
        yield np.asarray(gradient(params, batch, index), np.float64)


def trained_parameters(config, steps: int) -> dict:
    """Returns the parameters after some training steps on one device."""
    mesh = make_mesh(config, jax.devices()[:1])
    source, step = make_data_set(config, "train"), make_train_step(config, mesh)
    state, size = jax.jit(partial(init_state, config))(), config.training.batch_size
    for index in range(steps):
        state = step(state, shard_batch(mesh, source.batch(index, size), size))
    return state.params


def variances(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the variance of vectors [batches, size], absolute and relative, and both errors.

    The variance is E |g - E g|^2, and the relative variance is its ratio to |E g|^2. Both
    expectations are estimated without bias from the same batches.
    """
    count, total = len(vectors), vectors.sum(0)
    squares = np.square(vectors).sum(1)

    def both(total, squares, count):
        variance = (squares - total @ total / count) / (count - 1)
        return variance, variance / (total @ total / count**2 - variance / count)

    without = [
        both(total - vector, squares.sum() - square, count - 1)
        for vector, square in zip(vectors, squares, strict=True)
    ]
    errors = np.sqrt((count - 1) * np.var(without, axis=0))
    return np.array(both(total, squares.sum(), count)), errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--batches", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    config = load_file(ROOT / "configs" / "moving_digits.py")
    config.data.num_images = max(arguments.images)
    params = trained_parameters(config, arguments.steps)
    rows = {}
    for images in arguments.images:
        config.data.num_images = images
        vectors = np.stack(list(gradients(config, params, arguments.batches)))
        values, errors = variances(vectors)
        cost = 1 + images / config.data.frames
        row: dict[str, float] = {"cost": cost}
        for name, value, error in zip(("variance", "relative"), values, errors, strict=True):
            row |= {name: value, f"{name}_error": error, f"{name}_at_equal_cost": value * cost}
        rows[str(images)] = row
        print(images, row, flush=True)
    settings = {"batches": arguments.batches, "steps": arguments.steps}
    write_result("gradient_variance", settings | {"rows": rows})


if __name__ == "__main__":
    main()
