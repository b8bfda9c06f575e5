"""A prepared PushT of numbered clips, drawn without gym-pusht."""

import numpy as np

from vdm.data.pusht import write
from vdm.data.pusht.environment import SPLITS, Clip


def numbered_clip(environment, seed, split, index, frames):
    """Frame t of clip i has the colours (i, t, 100 * split + seed), and the action (i, t) / 100."""
    video = np.zeros((frames, 64, 64, 3), np.uint8)
    video[..., 0], video[..., 1] = index, np.arange(frames)[:, None, None]
    video[..., 2] = 100 * SPLITS.index(split) + seed
    action = video[:, 0, 0, :2].astype(np.float32) / 100
    corners = np.cumsum(np.ones((frames, 8, 2), np.float32), axis=0)
    return Clip(video, action, np.zeros((frames, 5), np.float32), corners)


def draw_numbered(monkeypatch):
    """Replaces the environment by `numbered_clip`, and shards of 128 clips by shards of 3."""
    monkeypatch.setattr(write, "make_environment", lambda: None)
    monkeypatch.setattr(write, "draw_clip", numbered_clip)
    for module in ("shards", "videos"):
        monkeypatch.setattr(f"vdm.data.pusht.{module}.SHARD_SIZE", 3)


def prepare(folder, **settings):
    """Prepares 7 + 2 clips of 8 frames, in this process."""
    return write.prepare_pusht(
        folder, **({"seed": 0, "train": 7, "test": 2, "frames": 8, "workers": 1} | settings)
    )
