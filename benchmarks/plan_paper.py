"""Plans of the paper's six models on the paper's own TPU v4 slices, from a host without TPUs.

    pip install -e ".[tpu]"
    python benchmarks/plan_paper.py [NAME ...]     # bair_train, ucf101_guided, ...; all by default
    python benchmarks/plan_paper.py --report       # tables, predicted scaling and its figure

A name is a configuration and a step, or one of MORE; each is a compilation of one to ten minutes on
one core. Its plan is written to benchmarks/results/plans/NAME.json, with the command in it that
makes it alone. --report reads these files, writes benchmarks/results/plan_paper.json and
docs/images/plan_scaling.png (which needs matplotlib) and prints the tables of docs/plan.md.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys

from vdm.config import default_config
from vdm.planning.collectives import Collective
from vdm.planning.hardware.peaks import GIB, HARDWARE
from vdm.planning.hardware.topology import link_share
from vdm.planning.roofline import Estimate

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLANS = ROOT / "benchmarks/results/plans"
STEPS = ("train", "sample", "guided")
SLICES = {  # appendix A of the paper; a chip, with both of its cores, is a device
    "ucf101": "v4:4x4x8",
    "bair": "v4:4x4x8",
    "kinetics600": "v4:4x8x8",
    "text_small": "v4:4x4x4",
    "text_large": "v4:4x4x8",
    "text_9x128": "v4:4x4x8",
}
# The slices of 4 to 512 chips.
SIZES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
# One card of 141 GB, which nothing here compiles for: compiled for one TPU v5p of 95 GB instead.
_CARD = ["topology=v5p:2x2x1", "devices=1", "hardware=h200"]
MORE = {  # name: (configuration, options)
    "bair_train_4_chips": ("bair", ["topology=v4:2x2x1"], ["training.batch_size=4"]),
    "bair_train_512_chips": ("bair", ["topology=v4:8x8x8"], ["training.batch_size=512"]),
    "ucf101_train_fsdp_8": ("ucf101", ["topology=v4:4x4x8"], ["mesh.fsdp=8"]),
    "ucf101_train_activations": (
        "ucf101",
        ["topology=v4:4x4x8"],
        ["model.remat=activations"],
    ),
    "ucf101_train_8_videos": ("ucf101", _CARD, ["training.batch_size=8"]),
    "kinetics600_train_8_videos": ("kinetics600", _CARD, ["training.batch_size=8"]),
}
RUNS = {
    f"{config}_{step}": (config, [f"topology={topology}", f"steps=('{step}',)"], [])
    for config, topology in SLICES.items()
    for step in STEPS
} | {
    name: (config, [*options, "steps=('train',)"], changes)
    for name, (config, options, changes) in MORE.items()
}


def plan(name: str) -> None:
    """Compiles one step in a process of its own, whose memory the next one needs."""
    config, options, changes = RUNS[name]
    options = [*options, f"output=benchmarks/results/plans/{name}.json"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "vdm.main",
            f"--config=configs/{config}.py",
            "--mode=plan",
            *(f"--config.plan.{option}" for option in options),
            *(f"--config.{change}" for change in changes),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
    )


def read_plans() -> dict[str, dict]:
    """{name: plan} of what has been compiled, with the plan's only step under 'step'."""
    plans = {}
    for name in RUNS:
        path = PLANS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            plans[name] = result | {"step": next(iter(result["steps"].values()))}
    return plans


def table_of_steps(plans: dict[str, dict]) -> str:
    """A row a compiled step."""
    lines = [
        "| | chips | videos a chip | memory, GiB | arguments | temporaries | TFLOP a chip "
        "| as written | sends, GB | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in plans.items():
        step = result["step"]
        memory, seconds = step["memory"], step.get("seconds")
        total = f"{memory['total_bytes'] / GIB:.1f} of {memory['device_bytes'] / GIB:.0f}"
        cells = [
            name.replace("_", " "),
            result["devices"],
            f"{step['videos_per_device']:g}",
            f"**{total}**" if step["fits"] else f"{total}: does not fit",
            f"{memory['argument_bytes'] / GIB:.2f}",
            f"{memory['temporary_bytes'] / GIB:.2f}",
            f"{step['flops'] / 1e12:.1f}" if step["flops"] else "",
            f"{step['flops_as_written'] / 1e12:.1f}",
            f"{step['sent_bytes'] / 1e9:.3g}",
            f"{seconds['overlapped']:.3f} to {seconds['in_turn']:.3f}" if seconds else "",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def reduced_bytes(parameters: int) -> int:
    """What data-parallel training reduces: a bfloat16 gradient of each parameter."""
    return 2 * parameters


def table_of_volumes(plans: dict[str, dict]) -> tuple[str, dict]:
    """What the data-parallel training steps reduce, compiled and in the closed form."""
    lines = [
        "| | chips | compiled, MB | 2 bytes a parameter, MB | ratio |",
        "|---|---|---|---|---|",
    ]
    result = {}
    for name, plan_of in plans.items():
        if "train" not in name or plan_of["mesh"]["fsdp"] > 1 or plan_of["devices"] == 1:
            continue
        compiled = plan_of["step"]["collectives"]["all-reduce"]["payload_bytes"]
        closed = reduced_bytes(plan_of["parameters"])
        result[name] = {"compiled_bytes": compiled, "closed_form_bytes": closed}
        lines.append(
            f"| {name.replace('_', ' ')} | {plan_of['devices']} | {compiled / 1e6:.1f} "
            f"| {closed / 1e6:.1f} | {compiled / closed:.4f} |"
        )
    return "\n".join(lines), result


def predicted_scaling(plans: dict[str, dict]) -> dict[str, list[dict]]:
    """Efficiency of data-parallel training on 4 to 512 chips, from one compiled step each.

    With as many videos a chip as in the paper, and with the paper's batch, as far as it has a video
    for each chip. The efficiency is the time without communication over the time with it, hidden or
    not.
    """
    hardware, efficiency = HARDWARE["v4"], default_config().plan.link_efficiency
    scaling = {}
    for config in SLICES:
        result = plans.get(f"{config}_train")
        if result is None:
            continue
        step, rows = result["step"], []
        for size in SIZES:
            chips = math.prod(map(int, size.split("x")))
            reduced = Collective("all-reduce", reduced_bytes(result["parameters"]), chips)
            bandwidth = hardware.link_bandwidth * link_share(f"v4:{size}") * efficiency
            links = reduced.sent / bandwidth
            row = {"chips": chips, "sent_bytes": reduced.sent, "link_seconds": links}
            for kind, share in (
                ("same_videos_a_chip", 1.0),
                ("same_batch", result["devices"] / chips),
            ):
                if share * step["videos_per_device"] < 1:
                    continue
                of_step = Estimate(
                    step["seconds"]["compute"] * share, step["seconds"]["memory"] * share, links
                )
                alone = max(of_step.compute, of_step.memory)
                row[kind] = {
                    "in_turn": alone / of_step.in_turn,
                    "overlapped": alone / of_step.overlapped,
                }
            rows.append(row)
        scaling[config] = rows
    return scaling


def table_of_scaling(scaling: dict[str, list[dict]], kind: str) -> str:
    """A row a configuration, a column a number of chips: percent, nothing overlapped."""
    chips = [row["chips"] for row in next(iter(scaling.values()))]
    lines = [f"| | {' | '.join(map(str, chips))} |", "|---" * (len(chips) + 1) + "|"]
    for config, rows in scaling.items():
        cells = [f"{100 * row[kind]['in_turn']:.0f}" if kind in row else "" for row in rows]
        lines.append(f"| {config.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_scaling(scaling: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Predicted efficiency by chips, with communication after the rest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    titles = {
        "same_videos_a_chip": "as many videos a chip as in the paper",
        "same_batch": "the paper's batch, whatever the chips",
    }
    markers = {"ucf101": "o", "bair": "v", "kinetics600": "s", "text_small": "D"}
    markers |= {"text_large": "^", "text_9x128": "P"}
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        for place, (config, rows) in enumerate(scaling.items()):
            shown = [row for row in rows if kind in row]
            axis.plot(
                [row["chips"] for row in shown],
                [100 * row[kind]["in_turn"] for row in shown],
                marker=markers[config],
                markersize=11 - 1.5 * place,  # the three largest models lie on one another
                label=config.replace("_", " "),
                alpha=0.8,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks([row["chips"] for row in rows], [row["chips"] for row in rows])
        axis.set_xlabel("TPU v4 chips")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("predicted efficiency, %, nothing overlapped")
    axes[0].set_ylim(75, 101)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def report() -> None:
    """Writes the summary and the figure, and prints the tables."""
    plans = read_plans()
    volumes_table, volumes = table_of_volumes(plans)
    scaling = predicted_scaling(plans)
    draw_scaling(scaling, ROOT / "docs/images/plan_scaling.png")
    summary = {
        "command": "python benchmarks/plan_paper.py --report",
        "fits": {name: result["step"]["fits"] for name, result in plans.items()},
        "volumes": volumes,
        "scaling": scaling,
    }
    path = ROOT / "benchmarks/results/plan_paper.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    print(table_of_steps(plans), volumes_table, sep="\n\n")
    for kind in ("same_videos_a_chip", "same_batch"):
        print(f"\n{kind}\n\n{table_of_scaling(scaling, kind)}")


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
