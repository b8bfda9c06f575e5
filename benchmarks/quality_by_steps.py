"""Sample quality and throughput of each sampler and each student, by number of steps.

    python benchmarks/quality_by_steps.py [--samplers ddim ...] [--steps 8 16] [--students FILE]

Measures the shipped model of moving digits and its students (docs/distillation.md). They sample
with the labels of held-out videos and without classifier-free guidance. All rows use the same
seeds. Quality is measured by digit_fvd to 1,024 other held-out videos
(vdm/evaluation/digit_network.py), by digit persistence, and by the share of videos that show the
requested digit. `+-` is a standard error, by the bootstrap for digit_fvd, and binomial for shares.
The row 'real videos' measures the held-out videos themselves.

The time is that of the fastest batch, and excludes compilation. A run replaces its own rows of the
file and keeps the other rows. Prints and writes benchmarks/results/quality_by_steps.json. The
default rows take three quarters of an hour on two cores.
"""

import argparse
import pathlib
from functools import partial

from measuring import (
    ROOT,
    distance_and_error,
    hardware,
    load_config,
    stored_rows,
    timed_samples,
    with_row,
    write_result,
)

from vdm.configuration.resolve import resolve
from vdm.data.datasets import held_out_videos
from vdm.diffusion.samplers import SAMPLERS
from vdm.evaluation.digit_network import load_digit_network, video_features
from vdm.evaluation.digit_persistence import persistence_report
from vdm.exported import load_exported
from vdm.sampling.conditions import conditions
from vdm.video.pixels import to_uint8

CHECKPOINT = ROOT / "checkpoints/moving_digits.safetensors"
STEPS = (1, 2, 4, 8, 16, 64, 256)
REFERENCES = 1024  # real videos
REAL, STUDENT = "real videos", "student"


def measured(videos, real, labels, references) -> dict:
    """Returns the numbers of a row."""
    report = persistence_report(videos, real=real, labels=labels)["samples"]
    network = load_digit_network()
    distance, error = distance_and_error(
        video_features(network, videos), video_features(network, references)
    )
    fields = ("persistence", "persistence_standard_error", "as_asked")
    return {
        "videos": len(videos),
        "digit_fvd": distance,
        "digit_fvd_standard_error": error,
        **{field: report[field] for field in fields},
        "hardware": hardware(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="*", choices=tuple(SAMPLERS), default=tuple(SAMPLERS))
    parser.add_argument("--steps", nargs="*", type=int, default=STEPS)
    parser.add_argument("--students", nargs="*", default=(), help="exported files of students")
    parser.add_argument("--videos", type=int, default=256)
    flags = parser.parse_args()
    base = load_config(ROOT / "configs/moving_digits.py")
    base.sample.update(guidance_weight=1.0, num_videos=flags.videos, batch_size=flags.videos // 4)
    runs = {}
    for sampler in flags.samplers:
        for steps in flags.steps:
            config = base.copy_and_resolve_references()
            config.sample.update(sampler=sampler, num_steps=steps)
            runs[sampler, steps] = config, CHECKPOINT
    for path in flags.students:
        config = resolve(None, None, {"checkpoint": path})
        config.sample.update(num_videos=flags.videos, batch_size=flags.videos // 4)
        runs[STUDENT, config.sample.num_steps] = config, pathlib.Path(path)

    held_out = held_out_videos(base, base.data.frames)
    everything = to_uint8(held_out.batch(0, flags.videos + REFERENCES)["video"])
    real, references = everything[: flags.videos], everything[flags.videos :]
    measure = partial(
        measured,
        real=real,
        labels=conditions(base, range(flags.videos))["label"],
        references=references,
    )
    rows = stored_rows("quality_by_steps")
    order = (REAL, *SAMPLERS, STUDENT)

    def keep(row):
        nonlocal rows
        rows = with_row(rows, row, ("sampler", "steps"))
        rows.sort(key=lambda r: (order.index(r["sampler"]), -r.get("steps", 0)))
        write_result("quality_by_steps", {"rows": rows}, "flax")

    keep({"sampler": REAL, **measure(real)})
    for (sampler, steps), (config, checkpoint) in runs.items():
        videos, seconds = timed_samples(config, load_exported(checkpoint), flags.videos)
        numbers = measure(videos)
        keep({"sampler": sampler, "steps": steps, "videos_per_minute": 60 / seconds, **numbers})


if __name__ == "__main__":
    main()
