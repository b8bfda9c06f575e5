"""Time and memory of the training step on the devices at hand, and what the plan says of them.

    python benchmarks/train_step.py --config=configs/ucf101.py --config.training.batch_size=8

Options: --config.SECTION.FIELD=VALUE, --rounds=10, --output=FILE.

Takes steps on random videos, so that neither data nor a checkpoint is needed, of any configuration,
with all of its options. What is reported: the median and quartiles of the seconds of a step, the
most memory that a device had in use, and beside them the plan of --mode=plan for the same devices.
One card of at least 80 GB takes configs/ucf101.py and configs/kinetics600.py with 8 videos of 24
frames; run it on a machine that does nothing else.

Prints and writes benchmarks/results/train_step_CONFIG_BATCH.json, or --output.
"""

import json
import pathlib
import resource
import shlex
import statistics
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from vdm.parallel.mesh import make_mesh
from vdm.planning import report
from vdm.planning.compile import read_off
from vdm.planning.hardware.peaks import HARDWARE, hardware_of
from vdm.planning.plan import efficiencies_of
from vdm.planning.roofline import estimate
from vdm.planning.steps import make_step
from vdm.training.state import init_state

ROOT = pathlib.Path(__file__).resolve().parents[1]
_CONFIG = config_flags.DEFINE_config_file("config", str(ROOT / "configs/moving_digits.py"))
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Steps that are timed, after one that is not.")
_OUTPUT = flags.DEFINE_string("output", "", "The JSON file.")


def random_batch(shapes, key):
    """Arrays of given shapes and shardings: videos in [-1, 1], labels and masks of zeros."""

    def fill(key):
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.uniform(own, leaf.shape, leaf.dtype, -1, 1)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for own, (name, leaf) in zip(keys, shapes.items(), strict=True)
        }

    return jax.jit(fill, out_shardings={name: leaf.sharding for name, leaf in shapes.items()})(key)


def peak_bytes(device):
    """The most memory in use so far: of the device, or of the process where it does not say."""
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "of the device"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "of the process"


def seconds_of(function, *arguments):
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, result


def main(_):
    config = _CONFIG.value
    mesh = make_mesh(config)
    device = mesh.devices.flat[0]
    step = make_step(config, mesh, "train")
    abstract_state, shapes = step.arguments

    start = time.monotonic()
    traced = step.function.trace(*step.arguments)
    executable = traced.lower().compile()
    compiled = read_off(step, traced, executable, mesh.size, time.monotonic() - start)
    name = config.plan.hardware
    hardware = HARDWARE[name] if name else hardware_of(device)
    time_of = estimate(
        hardware,
        efficiencies_of(config),
        flops=compiled.flops or compiled.written_flops,
        memory_bytes=compiled.memory_bytes or 0.0,
        collectives=compiled.collectives,
    )
    planned = report.describe(compiled, hardware, time_of, mesh.size)
    print(report.of_step("the plan", planned), flush=True)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    state = jax.jit(partial(init_state, config), out_shardings=shardings)()
    batch = random_batch(shapes, jax.random.key(1))
    _, state = seconds_of(executable, state, batch)
    times = []
    for _ in range(_ROUNDS.value):
        seconds, state = seconds_of(executable, state, batch)
        times.append(seconds)
    summed_steps = (int(state.step) - 1) % config.training.log_every + 1
    loss = float(state.metric_sums["loss"]) / summed_steps
    peak, whose = peak_bytes(device)
    median = statistics.median(times)
    result = {
        "command": shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
        "hardware": f"{mesh.size} x {device.device_kind}",
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
        "videos": step.batch_size,
        "seconds": median,
        "seconds_quartiles": statistics.quantiles(times, n=4)[::2] if len(times) > 1 else None,
        "videos_per_second_per_device": step.batch_size / mesh.size / median,
        "flops_per_second_per_device": compiled.written_flops / median,
        "peak_bytes": peak,
        "peak_bytes_are": whose,
        "mean_loss": loss,
        "plan": planned,
    }
    print(
        f"measured: {median:.4g} s a step, peak memory {peak / 2**30:.2f} GiB {whose}, "
        f"{result['flops_per_second_per_device'] / 1e12:.3g} TFLOP/s a device, mean loss {loss:.3f}"
    )
    stem = pathlib.Path(flags.FLAGS["config"].config_filename).stem
    default = ROOT / f"benchmarks/results/train_step_{stem}_{step.batch_size}.json"
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else default
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    app.run(main)
