"""Plans of the paper's six models on the paper's own TPU v4 slices, from a host without TPUs.

    pip install -e ".[tpu]"
    python benchmarks/plan_paper.py [--config=NAME ...] [--step=train|sample|guided ...]

Without arguments all six configurations and all three steps, each a compilation of two to ten
minutes on one core. A step's plan is written to benchmarks/results/plans/NAME_STEP.json, with the
command in it that makes it alone.
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLANS = ROOT / "benchmarks/results/plans"
SLICES = {  # appendix A of the paper; a chip, with both of its cores, is a device
    "ucf101": "v4:4x4x8",
    "bair": "v4:4x4x8",
    "kinetics600": "v4:4x8x8",
    "text_small": "v4:4x4x4",
    "text_large": "v4:4x4x8",
    "text_9x128": "v4:4x4x8",
}
STEPS = ("train", "sample", "guided")


def plan(config: str, step: str) -> None:
    """Compiles one step in a process of its own, whose memory the next one needs."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "vdm.main",
            f"--config=configs/{config}.py",
            "--mode=plan",
            f"--config.plan.topology={SLICES[config]}",
            f"--config.plan.steps=('{step}',)",
            f"--config.plan.output=benchmarks/results/plans/{config}_{step}.json",
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", choices=SLICES, default=list(SLICES))
    parser.add_argument("--step", nargs="+", choices=STEPS, default=list(STEPS))
    flags = parser.parse_args()
    for config in flags.config:
        for step in flags.step:
            plan(config, step)


if __name__ == "__main__":
    main()
