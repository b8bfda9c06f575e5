"""Seconds to the first training step and the first samples, with an empty and a warm cache.

    python benchmarks/first_step.py [--config=FILE] [--runs=N]

Runs `python -m vdm.main` for one training step with its checkpoint, and then for one batch of
samples. Both run once with an empty compilation cache (JAX_COMPILATION_CACHE_DIR), and once with a
warm cache.

Prints and writes benchmarks/results/first_step.json. Takes five minutes on one core.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from measuring import ROOT, median_and_quartiles, seconds, write_result


def run(config, workdir, mode, cache):
    """Returns the seconds of one command, including Python's start-up."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["JAX_COMPILATION_CACHE_DIR"] = cache
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "vdm.main", f"--config={config}", f"--workdir={workdir}"]
    fields = ("num_steps=1", "decay_steps=0", "warmup_steps=0", "sample_every=0")
    command += [f"--mode={mode}", "--config.sample.num_videos=16"]
    command += [f"--config.training.{field}" for field in fields]
    options = {"cwd": ROOT, "env": environment, "check": True, "stdout": subprocess.DEVNULL}
    return seconds(lambda: subprocess.run(command, **options))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/moving_digits.py")
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    if flags.runs < 2:
        parser.error(f"--runs is {flags.runs}, and must be at least 2, for quartiles")
    kinds = ("empty cache", "restart")
    times = {mode: {kind: [] for kind in kinds} for mode in ("train", "sample")}
    for _ in range(flags.runs):
        with tempfile.TemporaryDirectory() as folder:
            for kind in kinds:
                for mode in times:
                    workdir = f"{folder}/{kind}"
                    times[mode][kind].append(run(flags.config, workdir, mode, f"{folder}/cache"))
    result = {
        mode: {kind: median_and_quartiles(values) for kind, values in by_kind.items()}
        for mode, by_kind in times.items()
    }
    write_result("first_step", {"runs": flags.runs, "seconds": result}, "flax")


if __name__ == "__main__":
    main()
