"""Seconds to the first training step and to the first sample, and what a compilation cache saves.

    python benchmarks/first_step.py [--config=FILE] [--runs=N]

Starts `python -m vdm.main` as a user does: one training step with its checkpoint, then one batch of
samples from it; first with an empty compilation cache, then again as after a restart. The cache is
JAX's own, chosen by JAX_COMPILATION_CACHE_DIR; a third kind of run has none.

Prints and writes benchmarks/results/first_step.json. Five minutes on one core.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from measuring import ROOT, median_and_quartiles, seconds, write_result


def run(config, workdir, mode, cache):
    """Seconds of one command, start of Python included."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "vdm.main", f"--config={config}", f"--workdir={workdir}"]
    options = ["--config.training.sample_every=0", "--config.sample.num_videos=16"]
    steps = ["--config.training.num_steps=1", "--config.training.decay_steps=0"]
    steps.append("--config.training.warmup_steps=0")
    return seconds(
        lambda: subprocess.run(
            [*command, f"--mode={mode}", *options, *steps],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/moving_digits.py")
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    kinds = ("no cache", "empty cache", "restart")
    times = {mode: {kind: [] for kind in kinds} for mode in ("train", "sample")}
    for _ in range(flags.runs):
        with tempfile.TemporaryDirectory() as folder:
            for kind in kinds:
                cache = None if kind == "no cache" else f"{folder}/cache"
                for mode in times:
                    elapsed = run(flags.config, f"{folder}/{kind}", mode, cache)
                    times[mode][kind].append(elapsed)
                    print(mode, kind, f"{elapsed:.1f} s", flush=True)
    seconds_of = {
        mode: {kind: median_and_quartiles(values) for kind, values in of_mode.items()}
        for mode, of_mode in times.items()
    }
    write_result("first_step", {"runs": flags.runs, "seconds": seconds_of}, "flax")


if __name__ == "__main__":
    main()
