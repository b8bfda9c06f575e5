"""Sample quality against throughput: each sampler by its number of steps.

    python benchmarks/quality_by_steps.py [--samplers ddim dpmpp_2m] [--steps 8 16] [--videos=64]

The shipped model of moving digits, class-conditional on the labels of held-out videos, without
classifier-free guidance, with the same seeds for all rows. Quality is digit persistence, and the
share of videos that show the requested digit (vdm/evaluation/digit_persistence.py). The time
excludes compilation. A run replaces its own rows of the file and keeps the others.

Prints and writes benchmarks/results/quality_by_steps.json. Half an hour on one core for all.
"""

import argparse
import json
from functools import partial

import jax
import numpy as np
from measuring import RESULTS, ROOT, load_config, seconds, write_result

from vdm.data.datasets import held_out_videos
from vdm.diffusion.samplers import SAMPLERS
from vdm.evaluation.digit_persistence import persistence_report
from vdm.exported import load_exported
from vdm.parallel.mesh import make_mesh, replicated
from vdm.sampling.conditions import conditions
from vdm.sampling.generate import make_generator
from vdm.video.pixels import to_uint8

STEPS = (8, 16, 32, 64, 128, 256)


def measure(config, params, mesh) -> dict:
    """Measures one sampler at one number of steps."""
    count, size = config.sample.num_videos, config.sample.batch_size
    generator = make_generator(config, mesh)
    videos = [generator(params, range(size))]  # compiles

    def generate(first):
        videos.append(generator(params, range(first, first + size)))

    times = [seconds(partial(generate, first)) for first in range(size, count, size)]
    videos = np.concatenate(videos)
    real = to_uint8(held_out_videos(config, videos.shape[1]).batch(0, count)["video"])
    labels = conditions(config, range(count))["label"]
    report = persistence_report(videos, real=real, labels=labels)
    fields = ("persistence", "persistence_standard_error", "as_asked")
    return {
        "sampler": config.sample.sampler,
        "steps": config.sample.num_steps,
        "videos": count,
        "videos_per_minute": 60 * size / min(times),
        **{field: report["samples"][field] for field in fields},
        "persistence_of_real_videos": report["real"]["persistence"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", choices=tuple(SAMPLERS), default=tuple(SAMPLERS))
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--videos", type=int, default=64)
    flags = parser.parse_args()
    config = load_config(ROOT / "configs/moving_digits.py")
    config.sample.guidance_weight = 1.0
    config.sample.num_videos, config.sample.batch_size = flags.videos, flags.videos // 2
    mesh = make_mesh(config)
    params = load_exported(ROOT / "checkpoints/moving_digits.safetensors")
    params = jax.device_put(params, replicated(mesh))
    path = RESULTS / "quality_by_steps.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for steps in flags.steps:
        for sampler in flags.samplers:
            config.sample.sampler, config.sample.num_steps = sampler, steps
            row = measure(config, params, mesh)
            rows = [r for r in rows if (r["sampler"], r["steps"]) != (sampler, steps)] + [row]
            rows.sort(key=lambda r: (r["sampler"], r["steps"]))
            write_result(path.stem, {"rows": rows}, "flax")


if __name__ == "__main__":
    main()
