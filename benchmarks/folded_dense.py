"""A training step with and without folding the tokens of dense layers (vdm/models/dense.py).

    python benchmarks/folded_dense.py [--config=FILE] [--batch=N] [--rounds=N]

Prints and writes benchmarks/results/folded_dense.json. Two minutes on two cores.
"""

import argparse
import os
from unittest import mock

import jax
from measuring import ROOT, compared, interleaved, load_config, training_step, write_result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    parser.add_argument("--batch", type=int, default=0, help="0: that of the configuration")
    parser.add_argument("--rounds", type=int, default=25)
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    config = load_config(flags.config)
    config.training.batch_size = flags.batch or config.training.batch_size
    steps = {"folded": training_step(config)[0]}
    with (
        mock.patch("vdm.models.attention.fold", jax.lax.dot_general),
        mock.patch("vdm.models.blocks.fold", jax.lax.dot_general),
    ):
        steps["unfolded"] = training_step(config)[0]
    times = compared(interleaved(steps, flags.rounds), "unfolded")
    write_result("folded_dense", {"rounds": flags.rounds, "training_step": times}, "flax")


if __name__ == "__main__":
    main()
