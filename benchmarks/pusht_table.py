"""Table 2 of the paper in miniature: video prediction from one frame of PushT.

    python -m vdm.data.prepare pusht
    python benchmarks/pusht_table.py [--checkpoint=FILE] [--rows ROW ...] [--config.field=value ...]

Each row is an evaluation by the protocol 'pusht' (docs/evaluation.md) of 256 samples, one for each
of 256 test clips, with the same seeds: FVD, KVD, PSNR, SSIM, motion, and the share of frames in
which the block keeps its shape. 'train_videos' compares real training with real test clips, which a
perfect model would reach. `+-` is a standard error: of FVD by the jackknife, of KVD by the
bootstrap. A run replaces its own rows of the file and keeps the others.

Prints and writes benchmarks/results/pusht_table.json.
"""

import argparse
import json
import math
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

from measuring import RESULTS, ROOT, hardware, write_result

CHECKPOINT = "checkpoints/pusht.safetensors"
_AT_ONCE = ["--config.predict.stride=0", "--config.sample.num_steps=16"]
_GUIDED = ["--config.sample.conditioning=reconstruction", *_AT_ONCE]
_FORCED = ["--config.sample.conditioning=diffusion_forcing"]
_RECONSTRUCTION = {
    f"reconstruction, w_r {weight}": [*_GUIDED, f"--config.sample.reconstruction_weight={weight}"]
    for weight in (1, 2, 5, 10, 20)
}
ROWS = {
    "train_videos": ["--config.eval.baseline=train_videos"],
    "repeat_first_frame": ["--config.eval.baseline=repeat_first_frame"],
    "replacement": ["--config.sample.conditioning=replacement", *_AT_ONCE],
    **_RECONSTRUCTION,
    "reconstruction, ancestral": [
        *_GUIDED,
        "--config.sample.sampler=ancestral",
        "--config.sample.num_steps=64",
    ],
    "reconstruction, langevin": [
        *_GUIDED,
        "--config.sample.sampler=langevin",
        "--config.sample.num_steps=32",
    ],
    **{
        f"diffusion forcing, history weight {weight}": [
            *_FORCED,
            *_AT_ONCE,
            f"--config.sample.history_guidance_weight={weight}",
        ]
        for weight in (1, 4)
    },
    "diffusion forcing, ancestral": [
        *_FORCED,
        "--config.predict.stride=0",
        "--config.sample.history_guidance_weight=1",
        "--config.sample.sampler=ancestral",
        "--config.sample.num_steps=64",
    ],
    "diffusion forcing, history weight 3, blocks of 5 frames": [
        *_FORCED,
        "--config.predict.stride=5",
        "--config.sample.num_steps=8",
        "--config.sample.history_guidance_weight=3",
    ],
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
    """Returns the numbers of a row, with what determines them."""
    numbers = {
        key: value
        for key, value in result.items()
        if key.startswith(_METRICS) and isinstance(value, float)
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
    """Returns what the rows say of the paper's claim, one sentence each."""
    by_name = {row["row"]: row for row in rows}
    guided = [row for name, row in by_name.items() if name in _RECONSTRUCTION]
    if not guided:
        return []
    best = min(guided, key=lambda row: row["fvd"])
    sentences = []
    for other in ("replacement", "repeat_first_frame"):
        if other not in by_name:
            continue
        compared = by_name[other]
        gap = compared["fvd"] - best["fvd"]
        error = math.hypot(*(row["fvd_standard_error"] for row in (compared, best)))
        sentences.append(
            f"FVD of {best['row']} is {best['fvd'] / compared['fvd']:.2f} of that of {other}, "
            f"{'below' if gap > 0 else 'above'} it by {abs(gap) / error:.1f} standard errors"
        )
    return sentences


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=CHECKPOINT)
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS))
    flags, options = parser.parse_known_args()
    path = RESULTS / "pusht_table.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in flags.rows:
        with tempfile.TemporaryDirectory() as workdir:
            settings = [*ROWS[name], *options]
            row = row_of(name, settings, evaluated(flags.checkpoint, settings, workdir))
        rows = [r for r in rows if r["row"] != name] + [row]
        rows.sort(key=lambda r: list(ROWS).index(r["row"]))
        write_result(path.stem, {"rows": rows, "claims": claims(rows)}, "flax")


if __name__ == "__main__":
    main()
