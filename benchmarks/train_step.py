"""Time, memory and utilisation of the training step on the attached devices, beside its plan.

    python benchmarks/train_step.py --config=configs/ucf101.py --config.training.batch_size=8

Options: --config.SECTION.FIELD=VALUE for any field, and --rounds=10.

Trains on random videos, so needs neither data nor a checkpoint. Reports the seconds per step, the
peak memory, the FLOP utilisation (FLOPs of products and convolutions over the vendor's bfloat16
peak) and the plan of --mode=plan for the same devices. A 141 GB card takes configs/ucf101.py and
configs/kinetics600.py with 8 videos of 24 frames.

Prints and writes benchmarks/results/train_step_CONFIG_BATCH.json.
"""

import pathlib
import resource

import jax
from absl import app, flags
from measuring import ROOT, interleaved, median_and_quartiles, training_step, write_result
from ml_collections import config_flags

from vdm.parallel.mesh import make_mesh
from vdm.planning import report
from vdm.planning.plan import describe, make_target

_CONFIG = config_flags.DEFINE_config_file("config", str(ROOT / "configs/moving_digits.py"))
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed steps.")


def peak_memory(device):
    """Peak memory of the device, or of the process if the device does not report its own."""
    if peak := (device.memory_stats() or {}).get("peak_bytes_in_use"):
        return {"peak_bytes": peak, "peak_bytes_of": "device"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_bytes": peak, "peak_bytes_of": "process"}


def main(_):
    config = _CONFIG.value
    step = training_step(config)
    target = make_target(config, make_mesh(config))
    plan = describe(step.compiled, target)
    print(report.step_lines("plan", plan), flush=True)
    times = median_and_quartiles(interleaved({"step": step.run}, _ROUNDS.value)["step"])
    state = step.run()
    summed_steps = (int(state.step) - 1) % config.training.log_every + 1
    batch, flops = config.training.batch_size, step.compiled.written_flops
    peak_flops = target.hardware.flops
    stem = pathlib.Path(flags.FLAGS["config"].config_filename).stem
    result = {
        "videos": batch,
        "seconds": times,
        "videos_per_second_per_device": batch / jax.device_count() / times["median"],
        "flops_per_second_per_device": flops / times["median"],
        "utilisation": peak_flops and flops / times["median"] / peak_flops,
        **peak_memory(jax.devices()[0]),
        "mean_loss": float(state.metric_sums["loss"]) / summed_steps,
        "plan": plan,
    }
    write_result(f"train_step_{stem}_{batch}", result, "flax")


if __name__ == "__main__":
    app.run(main)
