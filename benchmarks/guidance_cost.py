"""What reconstruction guidance costs: time and memory of a guided step over an unguided one.

    python benchmarks/guidance_cost.py [--config=FILE]

One evaluation of the denoiser of configs/moving_digits.py, or of another configuration, for 16
videos, with random weights: as it is, guided by 8 of 16 frames, and the latter with rematerialised
blocks. Timings are interleaved, and what is reported is the median of the ratios of neighbours. The
memory is what XLA plans for arguments, results and temporaries. Prints and writes
benchmarks/results/guidance_cost.json. Takes two minutes on two cores.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import time

import jax
import jax.numpy as jnp

from vdm.build import init_params, make_denoiser
from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.guidance import reconstruction_guidance

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/guidance_cost.json"
VIDEOS, ROUNDS = 16, 15


def load_config(path):
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def compiled_steps(config):
    """{name: compiled (params, z, log_snr) -> x_hat}."""
    data = config.data
    shape = (VIDEOS, data.frames, data.resolution, data.resolution, data.channels)
    observation = ObservedFrames(jnp.zeros(shape), jnp.arange(data.frames) < data.frames // 2)
    remat = config.copy_and_resolve_references()
    remat.model.remat = True

    def unguided(params, z, log_snr):
        return make_denoiser(config, params, {})(z, log_snr)

    def guided_by(config):
        def guided(params, z, log_snr):
            denoiser = make_denoiser(config, params, {}, clip=False)
            return reconstruction_guidance(denoiser, observation, 1.0, clip=True)(z, log_snr)

        return guided

    params = jax.jit(lambda: init_params(config))()
    z = jax.random.normal(jax.random.key(0), shape)
    arguments = (params, z, jnp.zeros(VIDEOS))
    steps = {
        "unguided": unguided,
        "guided": guided_by(config),
        "guided_remat": guided_by(remat),
    }
    compiled = {name: jax.jit(step).lower(*arguments).compile() for name, step in steps.items()}
    return compiled, arguments


def seconds(step, arguments):
    start = time.perf_counter()
    jax.block_until_ready(step(*arguments))
    return time.perf_counter() - start


def planned_bytes(step):
    plan = step.memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    path = parser.parse_args().config
    steps, arguments = compiled_steps(load_config(path))
    for step in steps.values():
        seconds(step, arguments)
    rounds = [
        {name: seconds(step, arguments) for name, step in steps.items()} for _ in range(ROUNDS)
    ]
    result = {
        "command": f"python benchmarks/guidance_cost.py --config={pathlib.Path(path).name}",
        "hardware": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "videos": VIDEOS,
        "rounds": ROUNDS,
    }
    memory = {name: planned_bytes(step) for name, step in steps.items()}
    for name in steps:
        ratios = [times[name] / times["unguided"] for times in rounds]
        quartiles = statistics.quantiles(ratios, n=4)
        result[name] = {
            "seconds": statistics.median(times[name] for times in rounds),
            "time_over_unguided": quartiles[1],
            "time_quartiles": [quartiles[0], quartiles[2]],
            "megabytes": memory[name] / 1e6,
            "memory_over_unguided": memory[name] / memory["unguided"],
        }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
