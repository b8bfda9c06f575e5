"""What reconstruction guidance costs: time and memory of a guided step over an unguided one.

    python benchmarks/guidance_cost.py [--config=FILE]

Sampling of 16 videos by the model of configs/moving_digits.py, or of another configuration, with
random weights, in 8 steps of dpmpp_2m: without an observation, guided by 8 of 16 frames, and the
latter with rematerialised blocks. Timings are interleaved, and what is reported is the median of
the ratios of neighbours. The memory is what XLA plans for arguments, results and temporaries.
Prints and writes benchmarks/results/guidance_cost.json. Takes two minutes on two cores.
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
from vdm.diffusion.samplers import sample

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/guidance_cost.json"
VIDEOS, STEPS, ROUNDS = 16, 8, 15


def load_config(path):
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def compiled_samplers(config):
    """{name: compiled (params, keys) -> x}, and the arguments."""
    data = config.data
    shape = (VIDEOS, data.frames, data.resolution, data.resolution, data.channels)
    observation = ObservedFrames(jnp.zeros(shape), jnp.arange(data.frames) < data.frames // 2)
    remat = config.copy_and_resolve_references()
    remat.model.remat = True

    def sampler(config, observation):
        def draw(params, keys):
            return sample(
                keys,
                make_denoiser(config, params, {}, clip=None if observation is None else False),
                shape,
                sampler="dpmpp_2m",
                num_steps=STEPS,
                observation=observation,
                reconstruction_options={"clip": True},
            )

        return jax.jit(draw)

    arguments = (
        jax.jit(lambda: init_params(config))(),
        jax.random.split(jax.random.key(0), VIDEOS),
    )
    samplers = {
        "unguided": sampler(config, None),
        "guided": sampler(config, observation),
        "guided_remat": sampler(remat, observation),
    }
    return {name: draw.lower(*arguments).compile() for name, draw in samplers.items()}, arguments


def seconds(draw, arguments):
    start = time.perf_counter()
    jax.block_until_ready(draw(*arguments))
    return time.perf_counter() - start


def planned_bytes(draw):
    plan = draw.memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    path = parser.parse_args().config
    samplers, arguments = compiled_samplers(load_config(path))
    for draw in samplers.values():
        seconds(draw, arguments)
    rounds = [
        {name: seconds(draw, arguments) for name, draw in samplers.items()} for _ in range(ROUNDS)
    ]
    result = {
        "command": f"python benchmarks/guidance_cost.py --config={pathlib.Path(path).name}",
        "hardware": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "videos": VIDEOS,
        "steps": STEPS,
        "rounds": ROUNDS,
    }
    memory = {name: planned_bytes(draw) for name, draw in samplers.items()}
    for name in samplers:
        ratios = [times[name] / times["unguided"] for times in rounds]
        quartiles = statistics.quantiles(ratios, n=4)
        result[name] = {
            "seconds_per_step": statistics.median(times[name] for times in rounds) / STEPS,
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
