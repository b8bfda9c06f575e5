"""Draws clips of PushT: a disc pushes a T-shaped block with random, smooth motions.

gym-pusht simulates and renders them. A clip is a function of (seed, split, index) only. Lengths
below are in environment units; the environment is a square of side 512.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vdm.data.batches import example_generator
from vdm.video.pixels import resize_by_area

SPLITS = ("train", "test")
RESOLUTION = 64  # height and width of a frame, pixels
ACTION_WIDTH = 2
# Distance between the disc and the target position that pulls it, for an action of length 1. At
# constant speed, the disc moves by SPEED times this distance per frame (0.1 s), 3.2 of 64 pixels.
ACTION_UNIT = 64.0
SPEED = 0.4
SIDE = 512.0  # side of the square
WALL = 33.0  # min distance between the centre of the disc and the edges of the picture

# The block's bars are 6 of 64 pixels wide. The original 3.75 pixels would be too thin here; the
# game itself renders 96 pixels.
_MAGNIFICATION = 1.6  # scale of the block and the disc
_RADIUS = 15.0 * _MAGNIFICATION  # radius of the disc
_CENTRE = np.array([0.0, 45.0]) * _MAGNIFICATION  # centre of gravity of the upright block
_MARGIN = 165.0  # distance between the centre of the block and the edges, after a planned push
# Radius of the disc's path around the block, without contact unless a wall is near.
_ORBIT = 160.0
_GAP = 6.0  # min distance between the disc and the block in the first frame
_ARC = 0.4  # radians between points of the path around the block
_TURN = 2.2  # radians: max angle of the path around the block
_REACHED = 26.0  # distance at which a point counts as reached, and the disc heads for the next


class Clip(NamedTuple):
    """A clip, with its actions and states.

    Attributes:
      video: uint8 [frames, 64, 64, 3].
      action: float32 [frames, 2] (x, y), of length at most 1: action i is applied between frames i
        and i + 1. x points right and y down.
      state: float32 [frames, 5]: x and y of the disc; x, y and angle of the block.
      corners: float32 [frames, 8, 2]: x and y of the corners of the block's two bars, in pixels of
        a frame.
    """

    video: np.ndarray
    action: np.ndarray
    state: np.ndarray
    corners: np.ndarray


def make_environment():
    """Creates gym-pusht's environment with a larger block and disc; frames have 512x512 pixels.

    Raises:
      ValueError: gym-pusht is not installed.
    """
    try:
        from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise ValueError(
            f'PushT requires pip install "video-diffusion-jax[pusht]": {error}'
        ) from error

    class MagnifiedPushT(PushTEnv):
        """The environment with a larger block and a larger disc."""

        @staticmethod
        def add_circle(space, position, radius):
            return PushTEnv.add_circle(space, position, _MAGNIFICATION * radius)

        @staticmethod
        def add_tee(space, position, angle, scale=30):
            return PushTEnv.add_tee(space, position, angle, _MAGNIFICATION * scale)

    side = int(SIDE)
    return MagnifiedPushT(obs_type="pixels", observation_width=side, observation_height=side)


def draw_clip(environment, seed: int, split: str, index: int, frames: int) -> Clip:
    """Draws clip `index` of a split. The first n frames do not depend on `frames`.

    The splits 'train' and 'test' have separate streams of random numbers of a seed.
    """
    rng = example_generator(seed, SPLITS.index(split), index)
    _reset(environment, rng)
    frame, path = environment.get_obs(), _path(rng, environment)
    point, speed = next(path)
    video, actions, states, corners = [], [], [], []
    for _ in range(frames):
        disc, block = np.array(environment.agent.position), environment.block
        while np.linalg.norm(point - disc) < _REACHED:
            point, speed = next(path)
        pull = point - disc
        pull *= min(1.0, speed * ACTION_UNIT / np.linalg.norm(pull))
        pull = _inside(disc + pull) - disc
        video.append(frame)
        actions.append(pull / ACTION_UNIT)
        states.append([*disc, *block.position, block.angle])
        corners.append([block.local_to_world(v) for s in block.shapes for v in s.get_vertices()])
        frame = environment.step(disc + pull)[0]
    return Clip(
        # Averages 8x8 pixels, because the environment's own small frames have jagged edges.
        resize_by_area(np.stack(video), RESOLUTION),
        np.array(actions, np.float32),
        np.array(states, np.float32),
        np.array(corners, np.float32) * np.float32(RESOLUTION / SIDE),
    )


def _reset(environment, rng: np.random.Generator) -> None:
    """Places the block and the disc at random, apart from each other."""
    touches = True
    while touches:
        centre = _uniform(rng, _MARGIN, SIDE - _MARGIN, 2)
        angle = _uniform(rng, -np.pi, np.pi)
        side = _next_angle(rng, 0.0, np.pi, centre)
        disc = _inside(centre + _polar(_uniform(rng, 0.6 * _ORBIT, 1.4 * _ORBIT), side))
        # The environment places the block upright and rotates it around its centre of gravity.
        environment.reset(options={"reset_to_state": [*disc, *(centre - _CENTRE), angle]})
        gap = min(shape.point_query(tuple(disc)).distance for shape in environment.block.shapes)
        touches = gap < _RADIUS + _GAP
    # The game's target would be drawn as a second T, and reaching it would end the clip.
    environment.goal_pose = np.array([-10 * SIDE, -10 * SIDE, 0.0])


def _path(rng: np.random.Generator, environment) -> Iterator[tuple[np.ndarray, float]]:
    """Yields the points that the disc moves to, and its speed as the length of an action.

    The disc pushes through the block, moves around it on a circle, and pushes again, in directions
    that keep the block away from the walls.
    """
    turn = 0.0  # largest angle between two pushes; the first is straight ahead
    while True:
        disc, block = np.array(environment.agent.position), environment.block
        centre = np.array(block.local_to_world(block.center_of_gravity))
        now = np.arctan2(*(disc - centre)[::-1])
        angle = _next_angle(rng, now, turn, centre)
        speed = _uniform(rng, 0.75, 1.0)
        if turn:
            arc = np.arange(_ARC, abs(angle - now), _ARC)
            for between in (*(now + np.sign(angle - now) * arc), angle):
                yield _inside(centre + _polar(_ORBIT, between)), speed
        turn = _TURN

        depth = _uniform(rng, 30.0, 100.0)
        end = np.clip(centre - _polar(depth, angle), _MARGIN, SIDE - _MARGIN)
        side = _polar(_uniform(rng, -58.0, 58.0), angle + np.pi / 2)
        yield _inside(end + side), _uniform(rng, 0.6, 1.0)


def _next_angle(rng: np.random.Generator, now: float, turn: float, centre: np.ndarray) -> float:
    """Returns the angle of the next push, chosen so that the block stays near the middle."""
    angles = now + _uniform(rng, -turn, turn, 8)
    ends = centre - np.stack([_polar(90.0, angle) for angle in angles])
    outside = np.maximum(np.abs(ends - SIDE / 2) - (SIDE / 2 - _MARGIN), 0).sum(1)
    return float(angles[np.argmin(outside)])


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int):
    return low + (high - low) * rng.random(shape or None)


def _polar(radius: float, angle: float) -> np.ndarray:
    return radius * np.array([np.cos(angle), np.sin(angle)])


def _inside(point: np.ndarray) -> np.ndarray:
    return np.clip(point, WALL, SIDE - WALL)
