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
import json
import pathlib
from functools import partial

import jax
import numpy as np
from measuring import RESULTS, ROOT, hardware, load_config, seconds, write_result

from vdm.configuration.resolve import resolve
from vdm.data.datasets import held_out_videos
from vdm.diffusion.samplers import SAMPLERS
from vdm.evaluation.digit_network import load_digit_network, video_features
from vdm.evaluation.digit_persistence import persistence_report
from vdm.exported import load_exported
from vdm.metrics.frechet import frechet_distance
from vdm.parallel.mesh import make_mesh, replicated
from vdm.sampling.conditions import conditions
from vdm.sampling.generate import make_generator
from vdm.video.pixels import to_uint8

CHECKPOINT = ROOT / "checkpoints/moving_digits.safetensors"
STEPS = (1, 2, 4, 8, 16, 64, 256)
REFERENCES, BOOTSTRAP = 1024, 200
REAL, STUDENT = "real videos", "student"


def distance_and_error(videos: np.ndarray, references: np.ndarray) -> tuple[float, float]:
    """Returns digit_fvd of videos to references, and its standard error by the bootstrap."""
    network = load_digit_network()
    features, targets = video_features(network, videos), video_features(network, references)
    of_references = targets.mean(0), np.cov(targets.T)

    def distance(rows):
        return frechet_distance(rows.mean(0), np.cov(rows.T), *of_references)

    draws = np.random.default_rng(0).integers(len(features), size=(BOOTSTRAP, len(features)))
    return distance(features), float(np.std([distance(features[draw]) for draw in draws], ddof=1))


def sampled(config, params) -> tuple[np.ndarray, float]:
    """Returns config.sample.num_videos videos, and videos per minute."""
    count, size = config.sample.num_videos, config.sample.batch_size
    mesh = make_mesh(config)
    generator, params = make_generator(config, mesh), jax.device_put(params, replicated(mesh))
    videos = [generator(params, range(size))]  # compiles

    def generate(first):
        videos.append(generator(params, range(first, first + size)))

    times = [seconds(partial(generate, first)) for first in range(size, count, size)]
    return np.concatenate(videos), 60 * size / min(times)


def measured(videos, real, labels, references) -> dict:
    """Returns the numbers of a row."""
    report = persistence_report(videos, real=real, labels=labels)["samples"]
    distance, error = distance_and_error(videos, references)
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
    path = RESULTS / "quality_by_steps.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    order = (REAL, *SAMPLERS, STUDENT)

    def keep(row):
        nonlocal rows
        names = row["sampler"], row.get("steps")
        rows = [r for r in rows if (r["sampler"], r.get("steps")) != names] + [row]
        rows.sort(key=lambda r: (order.index(r["sampler"]), -r.get("steps", 0)))
        write_result(path.stem, {"rows": rows}, "flax")

    keep({"sampler": REAL, **measure(real)})
    for (sampler, steps), (config, checkpoint) in runs.items():
        videos, speed = sampled(config, load_exported(checkpoint))
        numbers = measure(videos)
        keep({"sampler": sampler, "steps": steps, "videos_per_minute": speed, **numbers})


if __name__ == "__main__":
    main()
