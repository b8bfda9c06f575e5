"""Rows of the miniature tables: tables 1, 4, 5 and 6 of the paper on moving digits.

    python benchmarks/miniature_tables.py TABLE ROW --seed=N  # one row at one seed
    python benchmarks/miniature_tables.py 5         # all rows and seeds without a record
    python benchmarks/miniature_tables.py 6 --gif   # the videos of docs/miniature_tables.md

`vdm/evaluation/miniature_tables.py` defines the rows, and the paper's claims that they test;
`python -m vdm.evaluation.tables` prints the tables. Most rows sample from the shipped checkpoint,
and their seed is the sampling seed. The rows of table 4, and `unconditional` of table 1, train a
model first. Their seed is used for training and sampling. `--workdir=DIR` keeps the runs of these
rows, so that training can resume. `--samples=DIR` keeps samples, and measures kept samples again.

Prints and writes benchmarks/results/miniature/table_TABLE_ROW_seed_N.json. Rows that already have a
record are skipped, except with --seed or --samples.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from gradient_variance import gradients, variances
from measuring import RESULTS, ROOT, load_config, write_gif, write_result

from vdm.data.datasets import held_out_videos
from vdm.evaluation.digit_network import change_at_seams, digit_metrics, load_digit_network
from vdm.evaluation.miniature_tables import (
    BLOCK,
    SEEDS,
    MiniatureTable,
    Row,
    record_name,
    table_of,
)
from vdm.sampling.conditions import conditions
from vdm.video.pixels import to_uint8
from vdm.video_model import VideoModel, load

CHECKPOINT = "moving_digits"
_REAL_VIDEOS = 512  # of each comparison
_GRADIENTS = 64  # batches of a gradient variance
_IN_GIF = 9  # videos per group


def loaded_model(row: Row, seed: int, workdir: pathlib.Path) -> VideoModel:
    """Returns the model of a row; trains it in the workdir, or resumes there."""
    if row.source == "shipped":
        return load(CHECKPOINT)
    command = [sys.executable, "-m", "vdm.main", "--config=moving_digits", "--mode=train"]
    options = {"seed": seed, "training.sample_every": 0, **row.training}
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in options.items())]
    subprocess.run(command, cwd=ROOT, check=True)
    return load(workdir)


def sampled(model: VideoModel, row: Row, seed: int, videos: int) -> np.ndarray:
    """Returns samples of a model, uint8 [videos, frames, height, width, 1]."""
    if row.overlap:
        model.config.extend.update(overlap=row.overlap, stride=BLOCK - row.overlap)
    return model.sample(videos, num_frames=row.frames, seed=seed, **row.settings)


def videos_of(row: Row, seed: int, count: int, workdir: pathlib.Path):
    """Returns the videos of a row, and the model that drew them, or None."""
    config = load_config(ROOT / "configs/moving_digits.py")
    if row.source == "noise":
        generator = np.random.default_rng(seed)
        shape = (count, row.frames, config.data.resolution, config.data.resolution, 1)
        return generator.integers(256, size=shape, dtype=np.uint8), None
    if row.source == "train_videos":
        source = held_out_videos(config, row.frames, "train")
        return to_uint8(source.batch(seed * count, count)["video"]), None
    model = loaded_model(row, seed, workdir)
    return sampled(model, row, seed, count), model


def gradient_variance(model: VideoModel, count: int) -> dict:
    """Returns the variance of the training gradient at the model's parameters, and its error."""
    params = jax.tree.map(np.asarray, model.params)
    values, errors = variances(np.stack(list(gradients(model.config, params, count))))
    return {"gradient_variance": float(values[0]), "gradient_variance_error": float(errors[0])}


def measured(row: Row, videos: np.ndarray, real_videos: int = _REAL_VIDEOS) -> dict:
    """Returns the metrics of a row's videos, and for extensions those of each block of frames."""
    config = load_config(ROOT / "configs/moving_digits.py")
    real = to_uint8(held_out_videos(config, row.frames).batch(0, real_videos)["video"])
    labels = None
    if row.source == "shipped":
        labels = conditions(config, range(len(videos)))["label"]
    result = {"metrics": digit_metrics(videos, real, labels)}
    if row.overlap:
        result["metrics"]["change_at_seams"] = change_at_seams(videos, row.seams)
        blocks = [slice(first, first + BLOCK) for first in range(0, row.frames, BLOCK)]
        by_block = [digit_metrics(videos[:, block], real[:, block]) for block in blocks]
        for metric in ("digit_fvd", "digit_fid", "digit_is", "persistence"):
            result[f"{metric}_by_block"] = [metrics[metric] for metrics in by_block]
    return result


def run_row(table: MiniatureTable, row: Row, seed: int, flags: argparse.Namespace) -> dict:
    """Runs a row at a seed and returns its record."""
    name, start = record_name(table, row, seed), time.perf_counter()
    count = flags.videos or row.videos
    kept = flags.samples and flags.samples / f"{name}.npz"
    with tempfile.TemporaryDirectory() as temporary:
        workdir = pathlib.Path(flags.workdir or temporary) / name
        if kept and kept.exists():
            with np.load(kept) as saved:
                videos, model, seconds = saved["video"], None, float(saved["seconds"])
        else:
            videos, model = videos_of(row, seed, count, workdir)
            seconds = time.perf_counter() - start
        if kept and not kept.exists():
            np.savez(kept, video=videos, seconds=seconds)
        start = time.perf_counter()
        result = measured(row, videos)
        if row.source == "trained" and "gradient_variance" in table.metrics:
            model = model or load(workdir)
            result["metrics"] |= gradient_variance(model, _GRADIENTS)
    seconds += time.perf_counter() - start
    command = ["python", "benchmarks/miniature_tables.py", str(table.number), row.name]
    command += [f"--seed={seed}", *([f"--videos={count}"] if count != row.videos else [])]
    return {
        "command": shlex.join(command),
        "table": table.number,
        "row": row.name,
        "seed": seed,
        "videos": len(videos),
        "frames": row.frames,
        "source": row.source,
        "settings": dict(row.settings),
        "training": dict(row.training),
        "overlap": row.overlap,
        "digit_network": load_digit_network().digest(),
        "real_videos": _REAL_VIDEOS,
        "hours": seconds / 3600,
        **result,
    }


def draw_samples(table: MiniatureTable, samples: pathlib.Path | None) -> pathlib.Path:
    """Writes the first samples of a table's rows at seed 0, beside real videos.

    They come from the files of --samples, where these exist.
    """
    rows = [row for row in table.rows if row.overlap in (0, 8) and row.source == "shipped"]
    config = load_config(ROOT / "configs/moving_digits.py")
    real = to_uint8(held_out_videos(config, rows[0].frames).batch(0, _IN_GIF)["video"])
    groups = {"real": real}
    for row in rows:
        caption = row.settings.get("conditioning", f"weight {row.settings['guidance_weight']:g}")
        kept = samples and samples / f"{record_name(table, row, SEEDS[0])}.npz"
        if kept and kept.exists():
            groups[caption] = np.load(kept)["video"][:_IN_GIF]
        else:
            groups[caption] = sampled(load(CHECKPOINT), row, SEEDS[0], _IN_GIF)
    return write_gif(f"miniature_table_{table.number}", groups, scale=4)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=int, help="1, 4, 5 or 6")
    parser.add_argument("row", nargs="?", default="", help="default: all rows")
    parser.add_argument("--seed", type=int, help="default: 0, 1 and 2")
    parser.add_argument("--videos", type=int, default=0, help="per seed; default: the row's")
    parser.add_argument("--workdir", type=pathlib.Path, help="folder of runs that are trained")
    parser.add_argument("--samples", type=pathlib.Path, help="folder of samples to keep")
    parser.add_argument("--gif", action="store_true", help="writes the videos of the page instead")
    return parser.parse_args(argv)


def main() -> None:
    flags = parse()
    table = table_of(flags.table)
    if flags.gif:
        print(draw_samples(table, flags.samples))
        return
    rows = [table.row(flags.row)] if flags.row else table.rows
    seeds = SEEDS if flags.seed is None else (flags.seed,)
    for seed in seeds:
        for row in rows:
            name = f"miniature/{record_name(table, row, seed)}"
            is_done = (RESULTS / f"{name}.json").exists()
            if is_done and flags.seed is None and not flags.samples:
                print(f"{name}: already run")
                continue
            write_result(name, run_row(table, row, seed, flags), "flax")


if __name__ == "__main__":
    main()
