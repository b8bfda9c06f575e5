"""Clips of PushT are those of the environment; all tests need gym-pusht."""

import numpy as np
import pytest

from vdm.data.pusht.environment import ACTION_UNIT, draw_clip, make_environment
from vdm.data.pusht.write import moving_share, prepare_pusht
from vdm.video.pixels import resize_by_area

pytest.importorskip("gym_pusht")


@pytest.fixture(scope="module")
def environment():
    return make_environment()


@pytest.fixture(scope="module")
def clip(environment):
    return draw_clip(environment, seed=3, split="train", index=7, frames=20)


def test_the_stored_clips_are_those_of_the_environment(tmp_path):
    prepare_pusht(tmp_path, seed=5, train=3, test=1, frames=20, workers=1)
    shard = np.load(tmp_path / "train_00000.npz")
    other = make_environment()
    for index in range(3):
        state, actions = shard["state"][index], shard["action"][index]
        clip = draw_clip(other, 5, "train", index, 20)
        np.testing.assert_array_equal(shard[f"video_{index:04}"], clip.video)
        # The stored states and actions alone reproduce the motion of the disc and the block.
        # Apart, so that no contact of a random start remains.
        other.reset(options={"reset_to_state": [50.0, 50.0, 256.0, 256.0, 0.0]})
        other.agent.position = tuple(state[0, :2].astype(float))
        other.block.angle = float(state[0, 4])
        other.block.position = tuple(state[0, 2:4].astype(float))
        for step in range(19):
            disc = np.array(other.agent.position)
            np.testing.assert_allclose(disc, state[step, :2], atol=1e-2)
            other.step(disc + ACTION_UNIT * actions[step].astype(float))
        np.testing.assert_allclose(other.block.position, state[19, 2:4], atol=2.0)


def test_a_clip_is_a_function_of_seed_split_and_index(environment, clip):
    other = draw_clip(make_environment(), seed=3, split="train", index=7, frames=12)
    np.testing.assert_array_equal(other.video, clip.video[:12])
    np.testing.assert_array_equal(other.action, clip.action[:12])
    for change in ({"seed": 4}, {"split": "test"}, {"index": 8}):
        arguments = {"seed": 3, "split": "train", "index": 7} | change
        assert (draw_clip(environment, **arguments, frames=1).state != clip.state[:1]).any()


def test_actions_pull_the_disc_and_are_normalised(clip):
    assert clip.video.shape == (20, 64, 64, 3) and clip.video.dtype == np.uint8
    assert np.linalg.norm(clip.action, axis=-1).max() <= 1 + 1e-6
    moved = np.diff(clip.state[:, :2], axis=0) / ACTION_UNIT
    cosine = (moved * clip.action[:-1]).sum(-1) / np.maximum(
        np.linalg.norm(moved, axis=-1) * np.linalg.norm(clip.action[:-1], axis=-1), 1e-9
    )
    assert np.median(cosine) > 0.9


def test_the_picture_shows_one_block_and_the_disc_where_the_state_has_them(environment, clip):
    full = environment.get_obs()
    assert not (full == (144, 238, 144)).all(-1).any()  # the goal's colour
    small = resize_by_area(full[None], 64)[0]
    assert small.shape == (64, 64, 3)
    for frame, state in zip(clip.video, clip.state, strict=True):
        blue = frame[..., 2].astype(int) - frame[..., 0]
        y, x = np.unravel_index(blue.argmax(), blue.shape)
        assert np.hypot(x + 0.5 - state[0] / 8, y + 0.5 - state[1] / 8) < 2.5


def test_the_block_moves_in_nearly_all_windows_and_no_step_is_a_jump(environment):
    clips = [draw_clip(environment, 0, "test", index, 32) for index in range(12)]
    assert np.mean([moving_share(clip.corners) for clip in clips]) > 0.8
    for clip in clips:
        assert np.linalg.norm(np.diff(clip.state[:, :2], axis=0), axis=-1).max() < 40
        assert (clip.state[:, :4] > 0).all() and (clip.state[:, :4] < 512).all()


def test_the_first_pushes_start_at_the_centre_of_the_block(environment):
    for index in range(5):
        draw_clip(environment, 0, "train", index, 1)
        block = environment.block
        centre = np.array(block.local_to_world(block.center_of_gravity))
        assert (np.abs(centre - 256) <= 91 + 1e-6).all()


def test_processes_draw_the_clips_of_one(tmp_path):
    settings = {"seed": 1, "train": 2, "test": 2, "frames": 3}
    records = [prepare_pusht(tmp_path / str(n), **settings, workers=n) for n in (1, 2)]
    assert records[0]["shards"] == records[1]["shards"]
