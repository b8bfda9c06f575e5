"""Long videos by four methods of extension: drift by block, and cost.

    python benchmarks/extension.py [--videos=64] [--key_frame_checkpoint=FILE]

The shipped class-conditional model of moving digits samples 64 frames by four methods:
autoregressively without context noise on generated frames; autoregressively with context noise; by
key frames; and in overlapping blocks that are denoised jointly. All methods use the same labels,
seeds, sampler and conditioning. Measured for each block of 16 frames:

- as asked: the share of videos that show the digit of their label in at least 14 of the frames;
- digit_fvd (vdm/evaluation/digit_network.py) to 1,024 other held-out videos. The error is the
  standard deviation over bootstrap samples;
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
from vdm.evaluation.digit_network import load_digit_network, video_features
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

NUM_FRAMES, NUM_REAL = 64, 1024
CHECKPOINT = ROOT / "checkpoints/moving_digits.safetensors"


def blocks_of(videos, frames) -> list[np.ndarray]:
    """Splits videos into their blocks of frames."""
    return np.split(videos, NUM_FRAMES // frames, axis=1)


def measure(videos, labels, real_features, frames, network) -> list[dict]:
    """Returns one row per block of a set of videos, given the features of the real blocks."""
    digits = blocks_of(digit_classifier().digits_seen(videos), frames)
    rows = []
    for block, clips in enumerate(blocks_of(videos, frames)):
        share = share_as_asked(digits[block], labels)
        distance, error = distance_and_error(video_features(network, clips), real_features[block])
        rows.append(
            {
                "frames": [block * frames, (block + 1) * frames - 1],
                "as_asked": share,
                "as_asked_standard_error": (share * (1 - share) / len(videos)) ** 0.5,
                "digit_fvd": distance,
                "digit_fvd_standard_error": error,
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
        task="extend",
        conditioning=flags.conditioning,
        num_steps=24,
        batch_size=flags.batch_size,
        seed=0,
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
    own, network = real[: flags.videos], load_digit_network()
    real_features = [video_features(network, c) for c in blocks_of(real[flags.videos :], frames)]
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
            "methods": {
                name: {
                    "fields": ways.get(name, {}),
                    "persistence": digit_persistence(digit_classifier().digits_seen(videos)),
                    "processor_seconds_per_video": [
                        value / flags.batch_size for value in seconds.get(name, [])[1:]
                    ],
                    "blocks": measure(videos, labels, real_features, frames, network),
                }
                for name, videos in sets.items()
            },
        }
        write_result("extension", result, "flax")


if __name__ == "__main__":
    main()
