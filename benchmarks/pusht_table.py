"""Table 2 of the paper in miniature: video prediction from one frame of PushT.

    pip install -e ".[pusht,metrics,docs]"
    python -m vdm.data.prepare pusht
    python benchmarks/pusht_table.py [--checkpoint=FILE] [--rows ROW ...] [--config.field=value ...]

Each row evaluates one or four predictions of each of 256 test clips by the protocol 'pusht'
(docs/evaluation.md). All rows use the same seeds. The metrics are FVD, KVD, PSNR, SSIM, motion, and
the share of frames in which the block keeps its shape. 'train_videos' compares real training clips
with real test clips: a perfect model would reach these numbers. `+-` is a standard error, by the
jackknife for FVD and by the bootstrap for KVD. A run replaces its own rows of the file and keeps
the other rows. --rows without a ROW only draws the figure from the file's rows.

Prints and writes benchmarks/results/pusht_table.json. Draws docs/images/pusht_weights.png: FVD
against the reconstruction weight, beside the distance from benchmarks/gaussian_conditioning.py.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

from matplotlib.figure import Figure
from measuring import IMAGES, RESULTS, ROOT, hardware, stored_rows, with_row, write_result

from vdm.metrics.measure import standard_error_of_difference

CHECKPOINT = "checkpoints/pusht.safetensors"
_16_STEPS = ["--config.sample.sampler=dpmpp_2m", "--config.sample.num_steps=16"]
_ANCESTRAL = ["--config.sample.sampler=ancestral", "--config.sample.num_steps=64"]
_REPLACED = ["--config.sample.conditioning=replacement"]
_GUIDED = ["--config.sample.conditioning=reconstruction"]
_FORCED = ["--config.sample.conditioning=diffusion_forcing"]
_FOUR_EACH = ["--config.eval.num_videos=1024", "--config.sample.per_example=4"]
_WEIGHTS = (1, 2, 5, 10, 20)
_RECONSTRUCTION = {
    f"reconstruction, w_r {weight}": [
        *_GUIDED,
        *_16_STEPS,
        f"--config.sample.reconstruction_weight={weight}",
    ]
    for weight in _WEIGHTS
}
ROWS = {
    "train_videos": ["--config.eval.baseline=train_videos"],
    "repeat_first_frame": ["--config.eval.baseline=repeat_first_frame"],
    "replacement": [*_REPLACED, *_16_STEPS],
    **_RECONSTRUCTION,
    "replacement, ancestral": [*_REPLACED, *_ANCESTRAL],
    "reconstruction, ancestral": [*_GUIDED, *_ANCESTRAL],
    "reconstruction, langevin": [
        *_GUIDED,
        "--config.sample.sampler=langevin",
        "--config.sample.num_steps=32",
    ],
    **{
        f"diffusion forcing, history weight {weight}": [
            *_FORCED,
            *_16_STEPS,
            f"--config.sample.history_guidance_weight={weight}",
        ]
        for weight in (1, 4)
    },
    "diffusion forcing, ancestral": [*_FORCED, *_ANCESTRAL],
    "diffusion forcing, history weight 3, blocks of 5 frames": [
        *_FORCED,
        "--config.predict.stride=5",
        "--config.sample.sampler=dpmpp_2m",
        "--config.sample.num_steps=8",
        "--config.sample.history_guidance_weight=3",
    ],
}
ROWS |= {
    f"{name}, 4 predictions each": [*ROWS[name], *_FOUR_EACH]
    for name in ("replacement", "reconstruction, w_r 10")
}
_METRICS = ("fvd", "kvd", "psnr", "ssim", "motion", "block_shape")


def evaluated(checkpoint: str, options: list[str], workdir: str) -> dict:
    """Returns the result of an evaluation, and its hours."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "vdm.main", "--mode=eval", f"--workdir={workdir}"]
    command += [f"--config.checkpoint={checkpoint}", *options]
    subprocess.run(command, cwd=ROOT, check=True)
    (path,) = pathlib.Path(workdir, "eval").glob("pusht_*.json")
    result = json.loads(path.read_text())
    return {**result, "hours": (time.perf_counter() - start) / 3600}


def row_of(name: str, options: list[str], result: dict) -> dict:
    """Returns the numbers of a row, and the settings that determine them."""
    numbers = {
        key: value
        for key, value in result.items()
        if key.startswith(_METRICS) and isinstance(value, float | list)
    }
    return {
        "row": name,
        "options": shlex.join(options),
        "seed": result["config"]["sample"]["seed"],
        "videos": result["protocol"]["num_generated"],
        "training_steps": result["generated"]["step"],
        "hardware": hardware(),
        "hours": result["hours"],
        **numbers,
        "warnings": result["warnings"],
    }


def claims(rows: list[dict]) -> list[str]:
    """Returns sentences that compare the rows with the paper's claim, by number of predictions.

    The standard errors of differences assume the same observed frames and noise for both methods.
    """
    rows = [row for row in rows if "fvd_leave_one_out" in row]
    return [
        sentence
        for videos in sorted({row["videos"] for row in rows})
        for sentence in _claims([row for row in rows if row["videos"] == videos])
    ]


def _claims(rows: list[dict]) -> list[str]:
    guided = [row for row in rows if row["row"].startswith("reconstruction, w_r")]
    if not guided:
        return []
    best = min(guided, key=lambda row: row["fvd"])
    by_name = {row["row"]: row for row in rows}
    sentences = []
    for compared in rows:
        other = compared["row"]
        if not other.startswith(("replacement", "repeat_first_frame")):
            continue
        # The row of the same sampler, if there is one.
        ours = by_name.get(f"reconstruction{other.removeprefix('replacement')}", best)
        gap = compared["fvd"] - ours["fvd"]
        error = standard_error_of_difference("fvd", compared, ours)
        sentences.append(
            f"FVD of {ours['row']} is {ours['fvd'] / compared['fvd']:.2f} of that of {other}, "
            f"{'below' if gap > 0 else 'above'} it by {abs(gap) / error:.1f} standard errors"
        )
    return sentences


def plot(rows: list[dict]) -> None:
    """Draws FVD against the reconstruction weight, beside the distance of Gaussian videos."""
    measured = json.loads((RESULTS / "gaussian_conditioning.json").read_text())["rows"]
    ancestral = [r for r in measured if r["options"] and r["options"]["sampler"] == "ancestral"]
    figure = Figure(figsize=(11, 4.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = {row["row"]: (row["fvd"], row["fvd_standard_error"]) for row in rows}
    plot_weights(left, numbers, "reconstruction, w_r {}")
    left.set(title="PushT, 256 predictions", ylabel="FVD", ylim=(0, None))
    numbers = {row["method"]: (row["distance"], row["standard_error"]) for row in ancestral}
    plot_weights(right, numbers, "reconstruction, weight {}.0")
    right.set(title="Gaussian videos", ylabel="squared 2-Wasserstein distance", ylim=(0, None))
    figure.savefig(IMAGES / "pusht_weights.png")


def plot_weights(axes, numbers: dict[str, tuple[float, float]], name: str) -> None:
    """Draws (number, standard error) by reconstruction weight, and a band of replacement."""
    weights = [weight for weight in _WEIGHTS if name.format(weight) in numbers]
    values, errors = zip(*(numbers[name.format(weight)] for weight in weights), strict=True)
    yerr = [2 * error for error in errors]
    axes.errorbar(weights, values, yerr, fmt="o-", color="#0072B2", label="reconstruction guidance")
    value, error = numbers["replacement"]
    axes.axhspan(value - 2 * error, value + 2 * error, color="#D55E00", alpha=0.15)
    axes.axhline(value, color="#D55E00", label="replacement")
    axes.set(xscale="log", xlabel="reconstruction weight $w_r$ (bars: two standard errors)")
    axes.set_xticks(_WEIGHTS, [str(weight) for weight in _WEIGHTS])
    axes.minorticks_off()
    axes.grid(color="0.9")
    axes.legend(frameon=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=CHECKPOINT)
    parser.add_argument("--rows", nargs="*", choices=tuple(ROWS), default=tuple(ROWS))
    flags, options = parser.parse_known_args()
    rows = stored_rows("pusht_table")
    for name in flags.rows:
        with tempfile.TemporaryDirectory() as workdir:
            settings = [*ROWS[name], *options]
            row = row_of(name, settings, evaluated(flags.checkpoint, settings, workdir))
        rows = with_row(rows, row, ("row",))
        rows.sort(key=lambda r: list(ROWS).index(r["row"]))
        write_result("pusht_table", {"rows": rows, "claims": claims(rows)}, "flax")
    measured = {row["row"] for row in rows}
    if "replacement" in measured and measured.intersection(_RECONSTRUCTION):
        plot(rows)


if __name__ == "__main__":
    main()
