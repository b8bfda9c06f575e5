"""Time and memory of a sampling step with reconstruction guidance, relative to an unguided step.

    python benchmarks/guidance_cost.py [--config=FILE] [--topology=v4:2x2x1]

Samples 16 videos with random weights in 8 steps of dpmpp_2m. Measures sampling without an
observation; guided by 8 of 16 frames; guided, with each form of gradient checkpointing; and guided,
in micro-batches of 8, 4 and 2 videos. The runs are interleaved. A time is the median of the ratios
within a round. Memory is XLA's plan for arguments, results and temporaries. Takes four minutes on
two cores.

--topology compiles for one unattached TPU chip, and reports FLOPs instead of time. It needs
`pip install "jax[tpu]"` and TPU_SKIP_MDS_QUERY=1. The committed result was compiled with
JAX_OPTIMIZATION_LEVEL=O0. At this level, the memory is an upper bound.

Prints and writes benchmarks/results/guidance_cost.json, or guidance_cost_TOPOLOGY.json.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from measuring import ROOT, compared, interleaved, load_config, nonzero_params, write_result

from vdm.build import make_denoiser
from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.guidance import ReconstructionOptions
from vdm.diffusion.samplers import sample
from vdm.models.unet import REMAT

VIDEOS, STEPS, ROUNDS = 16, 8, 15
MICRO_BATCHES = (8, 4, 2)  # videos


def make_arguments(config):
    return nonzero_params(config), jax.random.split(jax.random.key(0), VIDEOS)


def compiled_samplers(config, sharding):
    """Returns {name: compiled (params, keys) -> x} for the device of a sharding."""
    data = config.data
    shape = (VIDEOS, data.frames, data.resolution, data.resolution, data.channels)
    observed = ObservedFrames(jnp.zeros(shape), jnp.arange(data.frames) < data.frames // 2)

    def compiled(observation, remat="none", micro_batches=1):
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

        jitted = jax.jit(draw, in_shardings=sharding, out_shardings=sharding)
        return jitted.lower(*jax.eval_shape(partial(make_arguments, config))).compile()

    return (
        {"unguided": compiled(None), "guided": compiled(observed)}
        | {f"guided, remat {remat}": compiled(observed, remat) for remat in REMAT[1:]}
        | {
            f"guided, micro-batches of {size}": compiled(observed, micro_batches=VIDEOS // size)
            for size in MICRO_BATCHES
        }
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    parser.add_argument("--topology", help="TPUs to compile for, for example v4:2x2x1")
    flags = parser.parse_args()
    config = load_config(flags.config)
    devices = get_topology_desc(flags.topology, "tpu").devices if flags.topology else jax.devices()
    samplers = compiled_samplers(config, jax.sharding.SingleDeviceSharding(devices[0]))
    rows = {}
    for name, draw in samplers.items():
        plan = draw.memory_analysis()
        size = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        rows[name] = {"megabytes": size / 1e6}
        rows[name]["memory_over_unguided"] = size / 1e6 / rows["unguided"]["megabytes"]
    if flags.topology:
        flops = {name: draw.cost_analysis()["flops"] for name, draw in samplers.items()}
        for name, row in rows.items():
            row["flops_over_unguided"] = flops[name] / flops["unguided"]
        name = f"guidance_cost_{flags.topology.replace(':', '_')}"
        rows["hardware"] = f"{devices[0].device_kind}, unattached"
    else:
        arguments = jax.jit(partial(make_arguments, config))()
        runs = {
            name: lambda draw=draw: jax.block_until_ready(draw(*arguments))
            for name, draw in samplers.items()
        }
        for name, times in compared(interleaved(runs, ROUNDS), "unguided").items():
            rows[name]["seconds_per_step"] = times["seconds"]["median"] / STEPS
            rows[name]["time_over_unguided"] = times["time_over_reference"]["median"]
            rows[name]["time_quartiles"] = times["time_over_reference"]["quartiles"]
        name = "guidance_cost"
    write_result(name, {"videos": VIDEOS, "steps": STEPS, "rounds": ROUNDS, **rows}, "flax")


if __name__ == "__main__":
    main()
