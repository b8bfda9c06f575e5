"""Long videos by four methods of extension: drift by block, and cost.

    python benchmarks/extension.py [--videos=64] [--key_frame_checkpoint=FILE]

The shipped class-conditional model of moving digits samples 64 frames by four methods:
autoregressively without context noise on generated frames; autoregressively with context noise; by
key frames; and in overlapping blocks that are denoised jointly. All methods use the same labels,
seeds, sampler and conditioning. Measured for each block of 16 frames:

- as asked: the share of videos that show the digit of their label in at least 14 of the frames;
- the Frechet distance between features of sampled and of real clips. The features are the first 16
  principal components of real clips, and the norm of the rest. The error is the standard deviation
  over bootstrap samples;
- the displacement of the ink's centre of mass, in pixels per frame.

The row `real` measures other real videos, as many as there are samples. The rounds of all methods
are interleaved. The first round compiles, and is not timed. Times are processor seconds, summed
over all cores, so other programs on the machine change them little.

Prints and writes benchmarks/results/extension.json after each round. --key_frame_checkpoint is a
model with frameskip 4. Without it, the shipped model also draws the key frames, although it learned
frameskip 1. Takes about 10 minutes on one core.
"""

import argparse
import time

import numpy as np
from measuring import ROOT, distance_and_error, load_config, write_result

from vdm.configuration.stored import set_field
from vdm.data.datasets import held_out_videos
from vdm.evaluation.digit_persistence import (
    digit_classifier,
    digit_persistence,
    mean_displacement,
    share_as_asked,
)
from vdm.exported import load_exported
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.sampling.conditions import conditions
from vdm.sampling.generate import make_draw, make_generator
from vdm.video.pixels import to_uint8

NUM_FRAMES, NUM_REAL, NUM_COMPONENTS = 64, 1024, 16
CHECKPOINT = ROOT / "checkpoints/moving_digits.safetensors"


class ClipFeatures:
    """Principal components of real clips, fitted on the first 16 frames of uint8 videos."""

    def __init__(self, videos, frames):
        clips = self._flat(videos[:, :frames])
        self.mean = clips.mean(0)
        _, vectors = np.linalg.eigh(np.cov(clips.T))
        self.components = vectors[:, -NUM_COMPONENTS:]

    def __call__(self, clips):
        centred = self._flat(clips) - self.mean
        projected = centred @ self.components
        rest = np.linalg.norm(centred - projected @ self.components.T, axis=1, keepdims=True)
        return np.concatenate([projected, rest], axis=1)

    @staticmethod
    def _flat(clips):
        return clips.reshape(len(clips), -1).astype(np.float64) / 127.5 - 1


def measure(videos, labels, features, reference, frames) -> list[dict]:
    """Returns one row per block of a set of videos."""
    digits = digit_classifier().digits_seen(videos)
    rows = []
    for first in range(0, NUM_FRAMES, frames):
        clips, part = videos[:, first : first + frames], slice(first, first + frames)
        share = share_as_asked(digits[:, part], labels)
        distance, error = distance_and_error(features(clips), features(reference[:, part]))
        rows.append(
            {
                "frames": [first, first + frames - 1],
                "as_asked": share,
                "as_asked_standard_error": (share * (1 - share) / len(videos)) ** 0.5,
                "frechet_distance": distance,
                "frechet_distance_standard_error": error,
                "displacement": mean_displacement(clips),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--conditioning", default="replacement")
    parser.add_argument("--context_noise", type=float, default=0.1)
    parser.add_argument("--key_frame_checkpoint", default="")
    flags = parser.parse_args()
    base = load_config(ROOT / "configs/moving_digits.py")
    base.sample.update(
        task="extend", conditioning=flags.conditioning, batch_size=flags.batch_size, seed=0
    )
    base.sample.guidance_weight = 1.0
    base.extend.num_frames = NUM_FRAMES
    ways = {
        "autoregressive": {},
        "autoregressive, context noise": {"sample.context_noise": flags.context_noise},
        "key_frames": {
            "extend.method": "key_frames",
            "extend.key_frame_checkpoint": flags.key_frame_checkpoint,
        },
        "joint": {"extend.method": "joint"},
    }
    mesh, frames = make_mesh(base), base.data.frames
    params = sharded_params(mesh, load_exported(CHECKPOINT))
    shared_draw, generators = make_draw(base, mesh), {}
    for name, fields in ways.items():
        config = base.copy_and_resolve_references()
        for field, value in fields.items():
            set_field(config, field, value)
        draw = shared_draw if name in ("autoregressive", "key_frames") else None
        generators[name] = make_generator(config, mesh, draw=draw)

    real = to_uint8(held_out_videos(base, NUM_FRAMES).batch(0, flags.videos + NUM_REAL)["video"])
    own, reference = real[: flags.videos], real[flags.videos :]
    features = ClipFeatures(reference, frames)
    sampled = {name: [] for name in ways}
    seconds = {name: [] for name in ways}
    for first in range(0, flags.videos, flags.batch_size):
        indices = range(first, first + flags.batch_size)
        for name, generate in generators.items():
            start = time.process_time()
            sampled[name].append(generate(params, indices))
            seconds[name].append(time.process_time() - start)
        sets = {name: np.concatenate(parts) for name, parts in sampled.items()}
        count = indices[-1] + 1
        labels = conditions(base, range(count))["label"]
        sets["real"] = own[:count]
        result = {
            "videos": count,
            "seed": base.sample.seed,
            "model": CHECKPOINT.name,
            "key_frame_model": flags.key_frame_checkpoint or CHECKPOINT.name,
            "sample": base.sample.to_dict(),
            "extend": base.extend.to_dict(),
            "real_videos_of_distances": NUM_REAL,
            "principal_components": NUM_COMPONENTS,
            "methods": {
                name: {
                    "fields": ways.get(name, {}),
                    "persistence": digit_persistence(digit_classifier().digits_seen(videos)),
                    "processor_seconds_per_video": [
                        value / flags.batch_size for value in seconds.get(name, [])[1:]
                    ],
                    "blocks": measure(videos, labels, features, reference, frames),
                }
                for name, videos in sets.items()
            },
        }
        write_result("extension", result, "flax")


if __name__ == "__main__":
    main()
