"""What reconstruction guidance costs: time and memory of a guided step over an unguided one.

    python benchmarks/guidance_cost.py [--config=FILE] [--topology=v4:2x2x1]

Sampling of 16 videos by the model of configs/moving_digits.py, or of another configuration, with
random weights, in 8 steps of dpmpp_2m: without an observation, and guided by 8 of 16 frames, the
latter also with each form of rematerialisation and in micro-batches of 8, 4 and 2 videos. Timings
are interleaved, and what is reported is the median of the ratios of neighbours. The memory is what
XLA plans for arguments, results and temporaries. Takes four minutes on two cores.

With --topology it compiles for one chip of TPUs that are not here and reports memory and
arithmetic instead of time. Needs `pip install "jax[tpu]"` and TPU_SKIP_MDS_QUERY=1; the committed
results have JAX_OPTIMIZATION_LEVEL=O0, by which the memory is an upper bound.

Prints and writes benchmarks/results/guidance_cost.json, or guidance_cost_TOPOLOGY.json.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc

from vdm.build import init_params, make_denoiser
from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.guidance import ReconstructionOptions
from vdm.diffusion.samplers import sample
from vdm.models.unet import REMAT

ROOT = pathlib.Path(__file__).resolve().parents[1]
VIDEOS, STEPS, ROUNDS = 16, 8, 15
MICRO_BATCHES = (8, 4, 2)  # videos


def load_config(path):
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def compiled_samplers(config, sharding):
    """{name: compiled (params, keys) -> x}, for the device of a sharding, and the arguments."""
    data = config.data
    shape = (VIDEOS, data.frames, data.resolution, data.resolution, data.channels)
    observation = ObservedFrames(jnp.zeros(shape), jnp.arange(data.frames) < data.frames // 2)

    def sampler(observation, remat="none", micro_batches=1):
        own = config.copy_and_resolve_references()
        own.model.remat = remat

        def draw(params, keys):
            return sample(
                keys,
                make_denoiser(own, params, {}, clip=None if observation is None else False),
                shape,
                sampler="dpmpp_2m",
                num_steps=STEPS,
                observation=observation,
                reconstruction_options=ReconstructionOptions(
                    clip=True, micro_batches=micro_batches
                ),
            )

        return jax.jit(draw, in_shardings=sharding, out_shardings=sharding)

    def arguments():
        params = jax.tree.map(  # no layer at zero, where it starts: a gradient goes through all
            lambda leaf: leaf + 0.02 * jax.random.normal(jax.random.key(1), leaf.shape, leaf.dtype),
            init_params(config),
        )
        return params, jax.random.split(jax.random.key(0), VIDEOS)

    samplers = {"unguided": sampler(None), "guided": sampler(observation)}
    for remat in REMAT[1:]:
        samplers[f"guided, remat {remat}"] = sampler(observation, remat)
    for size in MICRO_BATCHES:
        micro_batches = VIDEOS // size
        samplers[f"guided, {size} at a time"] = sampler(observation, micro_batches=micro_batches)
    shapes = jax.eval_shape(arguments)
    return {name: draw.lower(*shapes).compile() for name, draw in samplers.items()}, arguments


def seconds(draw, arguments):
    start = time.perf_counter()
    jax.block_until_ready(draw(*arguments))
    return time.perf_counter() - start


def planned_bytes(draw):
    plan = draw.memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes


def memory_of(samplers):
    planned = {name: planned_bytes(draw) for name, draw in samplers.items()}
    return {
        name: {
            "megabytes": planned[name] / 1e6,
            "memory_over_unguided": planned[name] / planned["unguided"],
        }
        for name in samplers
    }


def arithmetic_of(samplers):
    flops = {name: draw.cost_analysis()["flops"] for name, draw in samplers.items()}
    return {name: {"flops_over_unguided": flops[name] / flops["unguided"]} for name in samplers}


def time_of(samplers, arguments):
    for draw in samplers.values():
        seconds(draw, arguments)
    rounds = [
        {name: seconds(draw, arguments) for name, draw in samplers.items()} for _ in range(ROUNDS)
    ]
    result = {}
    for name in samplers:
        ratios = [times[name] / times["unguided"] for times in rounds]
        quartiles = statistics.quantiles(ratios, n=4)
        result[name] = {
            "seconds_per_step": statistics.median(times[name] for times in rounds) / STEPS,
            "time_over_unguided": quartiles[1],
            "time_quartiles": [quartiles[0], quartiles[2]],
        }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    parser.add_argument("--topology", help="of TPUs to compile for, for instance v4:2x2x1")
    flags = parser.parse_args()
    if flags.topology:
        device = get_topology_desc(flags.topology, "tpu").devices[0]
    else:
        device = jax.devices()[0]
    samplers, arguments = compiled_samplers(
        load_config(flags.config), jax.sharding.SingleDeviceSharding(device)
    )
    memory = memory_of(samplers)
    work = arithmetic_of(samplers) if flags.topology else time_of(samplers, jax.jit(arguments)())
    result = {
        "command": " ".join(["python benchmarks/guidance_cost.py", *sys.argv[1:]]),
        "hardware": (
            f"{device.device_kind}, not attached"
            if flags.topology
            else f"{device.device_kind}, {os.cpu_count()} cores"
        ),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "videos": VIDEOS,
        "steps": STEPS,
        "rounds": 0 if flags.topology else ROUNDS,
        **{name: memory[name] | work[name] for name in samplers},
    }
    name = "guidance_cost" + (f"_{flags.topology.replace(':', '_')}" if flags.topology else "")
    path = ROOT / f"benchmarks/results/{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
