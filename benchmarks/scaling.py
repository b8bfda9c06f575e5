"""Scaling of a training step's time and memory with frames, resolution and batch size.

    python benchmarks/scaling.py [--config=FILE] [--base-channels=N] [--rounds=N]
        [--frames 8 16 ...] [--resolutions 32 64 ...] [--batches 1 2 ...]

The network has the paper's shape (configs/bair.py), but fewer base channels, for two cores. Frames,
resolution and batch size vary one by one, from 8 frames of 32x32 pixels and a batch of 1. In
time ~ size ** exponent, the exponent is a least-squares fit of the logarithms. On a GPU, use
--base-channels=128.

Prints and writes benchmarks/results/scaling.json, or scaling_gpu.json. Takes six minutes on one
core.
"""

import argparse

import jax
import measuring
import numpy as np

SMALLEST = {"frames": 8, "resolution": 32, "batch": 1}


def measure(config, size, rounds):
    """Measures one size."""
    config = config.copy_and_resolve_references()
    config.data.frames, config.data.resolution = size["frames"], size["resolution"]
    config.training.batch_size = size["batch"]
    step = measuring.measured_step(config, "train")
    times = measuring.interleaved({"step": step.run}, rounds)["step"]
    planned = step.compiled.memory.arguments + step.compiled.memory.temporaries
    return size | {"seconds": measuring.median_and_quartiles(times), "planned_bytes": planned}


def exponent(rows, name):
    """Fits the slope of log seconds over log size."""
    sizes, times = zip(*((row[name], row["seconds"]["median"]) for row in rows), strict=True)
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(measuring.ROOT / "configs/bair.py"))
    parser.add_argument("--base-channels", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", nargs="+", type=int, default=(8, 16, 32, 64))
    parser.add_argument("--resolutions", nargs="+", type=int, default=(32, 64, 128))
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 2, 4, 8))
    flags = parser.parse_args()
    config = measuring.load_config(flags.config)
    config.data.num_images = 0
    config.data.condition, config.model.num_classes = "none", 0
    config.model.base_channels = flags.base_channels
    config.model.head_dim = min(config.model.head_dim, flags.base_channels)
    config.model.embedding_dim = 4 * flags.base_channels
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu:
        config.model.dtype = "float32"
    measured, results = {}, {}
    varied = {"frames": flags.frames, "resolution": flags.resolutions, "batch": flags.batches}
    for name, values in varied.items():
        sizes = [SMALLEST | {name: value} for value in values]
        for size in sizes:
            if str(size) not in measured:
                measured[str(size)] = measure(config, size, flags.rounds)
                print(measured[str(size)], flush=True)
        rows = [measured[str(size)] for size in sizes]
        results[name] = {"rows": rows, "exponent": exponent(rows, name)}
    results |= {"base_channels": flags.base_channels, "dtype": config.model.dtype}
    measuring.write_result("scaling" if on_cpu else "scaling_gpu", results, "flax")


if __name__ == "__main__":
    main()
