"""Action-conditional prediction of PushT: the disc is pulled left or right from the same frames.

    python -m vdm.data.prepare pusht
    python benchmarks/pusht_actions.py --checkpoint=FILE [--starts=64]

FILE is an exported action-conditional model. docs/pusht.md has the command that trains it. The
model predicts each of `starts` test clips from its first frame, once per direction. Both
predictions use the same noise. All frames have the same action, of length 0.8. Two shares of starts
are measured:

- the disc ends further right when it is pulled right than when it is pulled left;
- the disc moves left and right as it is pulled, by a pixel or more. A disc that starts at a wall
  cannot do this. `empty_space` is therefore the same share for discs that meet no block, and move
  at their speed until they reach the wall.

The last frame that shows the disc gives its end position. Prints and writes
benchmarks/results/pusht_actions.json, and draws the first predictions in
docs/images/pusht_actions.gif. Takes 8 minutes on two cores.
"""

import argparse
import pathlib
import time

import numpy as np
from measuring import write_gif, write_result

import vdm
from vdm.data.datasets import held_out_videos
from vdm.data.pusht.environment import ACTION_UNIT, RESOLUTION, SIDE, SPEED, WALL
from vdm.metrics.block_shape import block_shape, disc_positions
from vdm.video.pixels import to_uint8

LENGTH = 0.8
DIRECTIONS = {"left": (-1, 0), "right": (1, 0)}
_IN_GIF = 4  # starts
_PIXEL = SIDE / RESOLUTION
_PIXELS_PER_FRAME = SPEED * ACTION_UNIT * LENGTH / _PIXEL
_WALL = WALL / _PIXEL


def displacement(videos):
    """Returns (x, y) of the disc where it is last seen, minus that in the first frame, [n, 2]."""
    positions = disc_positions(videos)
    seen = ~np.isnan(positions[..., 0])
    last = seen.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    return positions[np.arange(len(videos)), last] - positions[:, 0]


def in_empty_space(starts, direction, frames):
    """Returns the displacement of a disc that meets no block, [n, 2]: to the wall at most."""
    first = disc_positions(starts)[:, 0]
    moved = first + np.array(direction) * _PIXELS_PER_FRAME * (frames - 1)
    return np.clip(moved, _WALL, RESOLUTION - _WALL) - first


def shares(moved):
    """Returns the shares of starts in which the disc ends apart, and moves as it is pulled."""
    left, right = moved["left"][:, 0], moved["right"][:, 0]
    return {
        "apart": float(np.mean(right > left)),
        "each_as_pulled": float(np.mean((right >= 1) & (left <= -1))),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--starts", type=int, default=64)
    flags = parser.parse_args()
    model = vdm.load(flags.checkpoint)
    frames, settings = model.config.data.frames, model.config.sample
    starts = to_uint8(held_out_videos(model.config, frames).batch(0, flags.starts)["video"])

    begin = time.perf_counter()
    videos = {
        name: model.predict(starts, action=tuple(LENGTH * x for x in direction))
        for name, direction in DIRECTIONS.items()
    }
    hours = (time.perf_counter() - begin) / 3600
    moved = {name: displacement(v) for name, v in videos.items()}
    empty = {name: in_empty_space(starts, d, frames) for name, d in DIRECTIONS.items()}
    result = {
        "checkpoint": pathlib.Path(flags.checkpoint).name,
        "training_steps": model.step,
        "starts": flags.starts,
        "length_of_actions": LENGTH,
        "seed": settings.seed,
        "sampler": settings.sampler,
        "sampler_steps": settings.num_steps,
        "guidance_weight": settings.guidance_weight,
        "hours": hours,
        "model": shares(moved),
        "empty_space": shares(empty),
        "block_shape": float(np.mean([block_shape(v[:, 1:]) for v in videos.values()])),
    }
    groups = {"real": starts} | {f"pulled {name}": v for name, v in videos.items()}
    write_gif("pusht_actions", {name: v[:_IN_GIF] for name, v in groups.items()}, scale=2)
    write_result("pusht_actions", result, "flax")


if __name__ == "__main__":
    main()
