"""A dense layer and a training step with and without folding of tokens (vdm/models/dense.py).

    python benchmarks/folded_dense.py [--config=FILE] [--batch=N] [--rounds=N]

The layer is the widest of the configuration's attention at its highest resolution, with its
gradients. On a CPU each core is a device; `taskset -c 0` in front measures one.

Prints and writes benchmarks/results/folded_dense_xDEVICES.json. Two minutes on two cores.
"""

import argparse
import os
from unittest import mock

import flax.linen as nn
import jax
from measuring import ROOT, compared, interleaved, load_config, training_step, write_result

from vdm.models.dense import fold


def layer_with_gradients(shape, features, dot_general):
    """Gradients of a dense layer's summed squares, by kernel and input, on one device."""
    layer = nn.Dense(features, dot_general=dot_general)
    h = jax.random.normal(jax.random.key(0), shape)
    params = layer.init(jax.random.key(1), h)
    gradients = jax.jit(jax.grad(lambda p, h: (layer.apply(p, h) ** 2).sum(), argnums=(0, 1)))
    return lambda: jax.block_until_ready(gradients(params, h))


def widest_attention(config):
    """The shape of what enters query, key and value together, and their features."""
    model, data = config.model, config.data
    side = max(model.attention_resolutions)
    level = (data.resolution // model.patch_size // side).bit_length() - 1
    channels = model.base_channels * model.channel_multipliers[level]
    videos = config.training.batch_size // jax.device_count()
    return (videos, data.frames + data.num_images, side, side, channels), 3 * channels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    parser.add_argument("--batch", type=int, default=0, help="0: that of the configuration")
    parser.add_argument("--rounds", type=int, default=25)
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    config = load_config(flags.config)
    config.training.batch_size = flags.batch or config.training.batch_size
    shape, features = widest_attention(config)
    layers = {
        "folded": layer_with_gradients(shape, features, fold),
        "unfolded": layer_with_gradients(shape, features, jax.lax.dot_general),
    }
    steps = {"folded": training_step(config)[0]}
    with (
        mock.patch("vdm.models.attention.fold", jax.lax.dot_general),
        mock.patch("vdm.models.blocks.fold", jax.lax.dot_general),
    ):
        steps["unfolded"] = training_step(config)[0]
    write_result(
        f"folded_dense_x{jax.device_count()}",
        {
            "rounds": flags.rounds,
            "layer_shape": [*shape, features],
            "layer": compared(interleaved(layers, flags.rounds), "unfolded"),
            "training_step": compared(interleaved(steps, flags.rounds), "unfolded"),
        },
        "flax",
    )


if __name__ == "__main__":
    main()
