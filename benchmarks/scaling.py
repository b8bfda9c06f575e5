"""How the cost of a training step grows with frames, with resolution and with the batch.

    python benchmarks/scaling.py [--config=FILE] [--base-channels=N] [--rounds=N]
        [--frames 8 16 ...] [--resolutions 32 64 ...] [--batches 1 2 ...]

A network of the paper's shape (configs/bair.py) with fewer channels at first, so that it runs on
two cores. One of the three is varied at a time from 8 frames of 32x32 pixels in a batch of 1, and
an exponent fitted: time ~ size ** exponent, by least squares of the logarithms. A batch that does
not fit in memory ends the row. On an accelerator give --base-channels=128 and larger batches.

Prints and writes benchmarks/results/scaling.json, or scaling_gpu.json. Six minutes on one core.
"""

import argparse

import jax
import numpy as np
from measuring import (
    ROOT,
    interleaved,
    load_config,
    median_and_quartiles,
    training_step,
    write_result,
)

SMALLEST = {"frames": 8, "resolution": 32, "batch": 1}


def measure(config, size, rounds):
    """One row, or None where the device has too little memory."""
    config = config.copy_and_resolve_references()
    config.data.frames, config.data.resolution = size["frames"], size["resolution"]
    config.training.batch_size = size["batch"]
    try:
        run, planned, *_ = training_step(config)
        times = interleaved({"step": run}, rounds)["step"]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        return None
    return size | {"seconds": median_and_quartiles(times), "planned_bytes": planned}


def exponent(rows, name):
    """The slope of log seconds over log size."""
    sizes, times = zip(*((row[name], row["seconds"]["median"]) for row in rows), strict=True)
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/bair.py"))
    parser.add_argument("--base-channels", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", nargs="+", type=int, default=(8, 16, 32, 64))
    parser.add_argument("--resolutions", nargs="+", type=int, default=(32, 64, 128))
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 2, 4, 8))
    flags = parser.parse_args()
    config = load_config(flags.config)
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
        rows = []
        for value in values:
            size = SMALLEST | {name: value}
            key = tuple(size.values())
            if key not in measured:
                measured[key] = measure(config, size, flags.rounds)
            if measured[key] is None:
                break
            print(measured[key], flush=True)
            rows.append(measured[key])
        results[name] = {"rows": rows, "exponent": exponent(rows, name)}
    write_result(
        "scaling" if on_cpu else "scaling_gpu",
        {"base_channels": flags.base_channels, "dtype": config.model.dtype, **results},
        "flax",
    )


if __name__ == "__main__":
    main()
