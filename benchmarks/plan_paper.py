"""Plans of the paper's six models on the paper's TPU v4 slices, compiled on a host without TPUs.

    pip install -e ".[tpu]"
    python benchmarks/plan_paper.py [NAME ...]   # bair_train, ucf101_guided, ...; default: all
    python benchmarks/plan_paper.py --report     # summary and predicted scaling

Each plan compiles one step and is written to benchmarks/results/plans/NAME.json. This takes one to
ten minutes on one core. --report reads these files and writes benchmarks/results/plan_paper.json.
benchmarks/fill_tables.py then fills docs/plan.md from the report.
"""

import argparse
import json
import math
import os
import subprocess
import sys

from measuring import RESULTS, ROOT

from vdm.config import default_config
from vdm.planning.collectives import Collective
from vdm.planning.hardware.peaks import HARDWARE
from vdm.planning.hardware.topology import link_share
from vdm.planning.roofline import Estimate

SLICES = {  # appendix A of the paper; one chip is one device
    "ucf101": "v4:4x4x8",
    "bair": "v4:4x4x8",
    "kinetics600": "v4:4x8x8",
    "text_small": "v4:4x4x4",
    "text_large": "v4:4x4x8",
    "text_9x128": "v4:4x4x8",
}
GRADIENT_BYTES = 2  # per parameter: training reduces bfloat16 gradients
SIZES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
# There is no compiler for a GPU without the GPU: compiled for 95 GB TPU v5p chips instead.
_CARD = ["topology=v5p:2x2x1", "devices=1", "hardware=h200"]
_GPUS = {8: ("v5p:2x2x2", 1), 16: ("v5p:2x2x4", 8)}  # number: (slice, mesh.fsdp)
# On 8 and 16 GPUs the paper's batch goes through the network in passes of 4 videos per GPU.
_VIDEOS_PER_PASS = 4
RUNS = {  # name: (configuration, options of config.plan, changes of the configuration)
    f"{config}_{step}": (config, [f"topology={topology}", f"steps=('{step}',)"], [])
    for config, topology in SLICES.items()
    for step in ("train", "sample", "guided")
}
RUNS |= {
    name: (config, [*options, "steps=('train',)"], [change])
    for name, config, options, change in (
        ("bair_train_4_chips", "bair", ["topology=v4:2x2x1"], "training.batch_size=4"),
        ("bair_train_512_chips", "bair", ["topology=v4:8x8x8"], "training.batch_size=512"),
        ("ucf101_train_fsdp_8", "ucf101", ["topology=v4:4x4x8"], "mesh.fsdp=8"),
        ("ucf101_train_8_videos", "ucf101", _CARD, "training.batch_size=8"),
    )
}
RUNS |= {
    f"{config}_train_{count}_gpus": (
        config,
        [f"topology={topology}", "hardware=h100", "steps=('train',)"],
        [f"mesh.fsdp={fsdp}", f"training.accumulate={batch_size // (_VIDEOS_PER_PASS * count)}"],
    )
    for config, batch_size in (dict.fromkeys(SLICES, 128) | {"kinetics600": 256}).items()
    for count, (topology, fsdp) in _GPUS.items()
}


def plan(name: str) -> None:
    """Compiles one step in its own process, which frees the memory afterwards."""
    config, options, changes = RUNS[name]
    options = [*options, f"output=benchmarks/results/plans/{name}.json"]
    command = [sys.executable, "-m", "vdm.main", f"--config=configs/{config}.py", "--mode=plan"]
    command += [f"--config.plan.{option}" for option in options]
    command += [f"--config.{change}" for change in changes]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=True)


def read_plans() -> dict[str, dict]:
    """Returns {name: plan} of the compiled plans, with the plan's only step as 'step'."""
    plans = {}
    for name in RUNS:
        path = RESULTS / f"plans/{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            plans[name] = result | {"step": next(iter(result["steps"].values()))}
    return plans


def volumes(plans: dict[str, dict]) -> dict[str, dict]:
    """Returns the reduced bytes of data-parallel training, compiled and in closed form."""
    result = {}
    for name, plan in plans.items():
        if "train" in name and plan["mesh"]["fsdp"] == 1 and plan["devices"] > 1:
            row = {
                "chips": plan["devices"],
                "compiled_bytes": plan["step"]["collectives"]["all-reduce"]["payload_bytes"],
                "closed_form_bytes": GRADIENT_BYTES * plan["parameters"],
            }
            result[name] = row | {"ratio": row["compiled_bytes"] / row["closed_form_bytes"]}
    return result


def predicted_scaling(plans: dict[str, dict]) -> dict[str, list[dict]]:
    """Returns the efficiency of data-parallel training on 4 to 512 chips, per configuration.

    Weak scaling keeps the videos per chip of the paper, strong scaling the paper's batch, for as
    many chips as it has videos. The efficiency is the time without communication over the time with
    communication after the computation, from one compiled step.
    """
    hardware, efficiency = HARDWARE["v4"], default_config().plan.link_efficiency
    scaling = {}
    for config in SLICES:
        if (plan := plans.get(f"{config}_train")) is None:
            continue
        step, rows = plan["step"], []
        for size in SIZES:
            chips = math.prod(map(int, size.split("x")))
            sent = Collective("all-reduce", GRADIENT_BYTES * plan["parameters"], chips).sent
            links = sent / (hardware.link_bandwidth * link_share(f"v4:{size}") * efficiency)
            row = {"chips": chips, "sent_bytes": sent, "link_seconds": links}
            for kind, share in (("weak", 1.0), ("strong", plan["devices"] / chips)):
                if share * step["videos_per_device"] >= 1:
                    times = [step["seconds"][part] * share for part in ("compute", "memory")]
                    row[kind] = max(times) / Estimate(*times, links).sequential
            rows.append(row)
        scaling[config] = rows
    return scaling


def report() -> None:
    """Writes the summary."""
    plans = read_plans()
    steps = {name: plan["step"] | {"chips": plan["devices"]} for name, plan in plans.items()}
    summary = {
        "command": "python benchmarks/plan_paper.py --report",
        "steps": steps,
        "volumes": volumes(plans),
        "scaling": predicted_scaling(plans),
    }
    (RESULTS / "plan_paper.json").write_text(json.dumps(summary, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *RUNS], default=[])
    parser.add_argument("--report", action="store_true")
    flags = parser.parse_args()
    if flags.report:
        report()
        return
    for name in flags.names or RUNS:
        plan(name)


if __name__ == "__main__":
    main()
