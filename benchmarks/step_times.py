"""Times of training, sampling and guided steps on the attached devices, in one table by batch size.

    python benchmarks/step_times.py --config=configs/ucf101.py --batches=1,2,4,8

Options: --config.SECTION.FIELD=VALUE for any field, --steps=train,sample,guided and --rounds=10.

The steps are those of --mode=plan, on random videos, so neither data nor a checkpoint is needed.
Each cell runs in its own process, so that the process measures the peak memory of this cell only. A
cell that does not fit is reported as a separate row. The utilisation is the FLOPs of products and
convolutions over the vendor's bfloat16 peak. For a training step without model.remat, it is the
model FLOPs utilisation (MFU). A 141 GB card takes configs/ucf101.py and configs/kinetics600.py with
8 videos of 24 frames.

Prints the table and writes benchmarks/results/step_times_CONFIG.json.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

import jax
from absl import app, flags
from measuring import ROOT, interleaved, measured_step, median_and_quartiles, write_result
from ml_collections import config_flags

from vdm import markdown
from vdm.parallel.mesh import make_mesh
from vdm.planning.plan import describe, make_target
from vdm.planning.steps import STEPS

_CONFIG = config_flags.DEFINE_config_file("config", str(ROOT / "configs/moving_digits.py"))
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed calls.", lower_bound=1)
_STEPS = flags.DEFINE_list("steps", list(STEPS), "Steps to measure.")
_BATCHES = flags.DEFINE_list("batches", ["1", "2", "4", "8"], "Videos on all devices together.")
_OUTPUT = flags.DEFINE_string("output", None, "Measures one cell in this process, for its JSON.")

flags.register_validator("steps", set(STEPS).issuperset, f"steps are of {', '.join(STEPS)}")
flags.register_validator(
    "batches",
    lambda sizes: all(size.isdecimal() and int(size) for size in sizes),
    "batches are positive integers",
)

# Steps per call of a sampler. The time of one step is the time of the call over this number.
_SAMPLER_STEPS = 4


def peak_memory() -> dict:
    """Peak memory of the device, or of the process if the device does not report its own."""
    if peak := (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"):
        return {"peak_bytes": peak, "peak_bytes_of": "device"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_bytes": peak, "peak_bytes_of": "process"}


def measure(config, name: str, batch: int) -> dict:
    """Returns the row of one step and batch."""
    config.training.batch_size = config.sample.batch_size = batch
    config.sample.num_steps = _SAMPLER_STEPS
    step = measured_step(config, name)
    target = make_target(config, make_mesh(config))
    times = interleaved({"call": step.run}, _ROUNDS.value)["call"]
    seconds = median_and_quartiles([time / step.steps for time in times])
    flops, peak_flops = step.compiled.written_flops, target.hardware.flops
    return {
        "seconds": seconds,
        "videos_per_second_per_device": batch / jax.device_count() / seconds["median"],
        "flops_per_second_per_device": flops / seconds["median"],
        "utilisation": peak_flops and flops / seconds["median"] / peak_flops,
        **peak_memory(),
        "plan": describe(step.compiled, target),
    }


def measure_in_process(name: str, batch: str, folder: str) -> dict:
    """Returns the row of `measure` from a separate process, or the last line of its failure."""
    output = f"{folder}/{name}_{batch}.json"
    own = [f"--steps={name}", f"--batches={batch}", f"--output={output}"]
    command = [sys.executable, *sys.argv, *own]
    done = subprocess.run(command, env=os.environ, stderr=subprocess.PIPE, text=True)
    row = {"step": name, "videos": int(batch)}
    if done.returncode:
        return row | {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return row | json.loads(pathlib.Path(output).read_text())


def cells(row: dict) -> list[str]:
    """Returns the cells of a row of the printed table."""
    if "failed" in row:
        return [row["step"], str(row["videos"]), f"failed: {row['failed']}", "", "", "", ""]
    seconds, utilisation, plan = row["seconds"], row["utilisation"], row["plan"]
    low, high = seconds["quartiles"]
    return [
        row["step"],
        str(row["videos"]),
        f"{seconds['median']:.4g} ({low:.4g} to {high:.4g})",
        f"{row['videos_per_second_per_device']:.3g}",
        f"{utilisation:.1%}" if utilisation else "peak unknown",
        f"{row['peak_bytes'] / 2**30:.2f} ({row['peak_bytes_of']})",
        f"{plan['memory']['total_bytes'] / 2**30:.2f}",
    ]


HEADER = (
    "step",
    "videos",
    "s per step",
    "videos per s and device",
    "utilisation",
    "peak memory, GiB",
    "planned, GiB",
)


def main(_):
    if _OUTPUT.value:
        row = measure(_CONFIG.value, _STEPS.value[0], int(_BATCHES.value[0]))
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(row))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure_in_process(name, batch, folder)
            for name in _STEPS.value
            for batch in _BATCHES.value
        ]
    stem = pathlib.Path(flags.FLAGS["config"].config_filename).stem
    write_result(f"step_times_{stem}", {"rounds": _ROUNDS.value, "rows": rows}, "flax")
    print("\n".join(markdown.table(HEADER, map(cells, rows))))


if __name__ == "__main__":
    app.run(main)
