"""Writes samples: arrays, a GIF and an MP4 per video, and a contact sheet."""

from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from vdm.files import replacing
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.parallel.messages import is_first_process
from vdm.sampling.conditions import describe_conditions
from vdm.sampling.generate import make_generator
from vdm.video.display import contact_sheet, gif_bytes, mp4_bytes

_MAX_ROWS = 32  # of a contact sheet: taller images are hard to view


def sample_to_folder(config: ml_collections.ConfigDict, params: dict, folder: Path) -> Path | None:
    """Samples config.sample.num_videos videos and writes them with `write_samples`.

    Every process makes the call, and process 0 writes.

    Args:
      config: the configuration.
      params: EMA parameters, host arrays or already on the devices.
      folder: output folder of `write_samples`.

    Returns:
      The path of the contact sheet on process 0, None on the others.
    """
    mesh, indices = make_mesh(config), range(config.sample.num_videos)
    videos = make_generator(config, mesh)(sharded_params(mesh, params), indices)
    if not is_first_process():
        return None
    return write_samples(
        folder,
        videos,
        seed=config.sample.seed,
        max_video_files=config.sample.max_video_files,
        described=describe_conditions(config, indices),
    )


def write_samples(
    folder: Path,
    videos: np.ndarray,
    *,
    seed: int,
    max_video_files: int,
    described: dict[str, np.ndarray],
) -> Path:
    """Writes samples.npz, video_0000.gif, video_0000.mp4, ... and contact_sheet.png.

    Args:
      folder: output folder, created if missing; replaces the files of an earlier call.
      videos: uint8 [n, frames, height, width, channels].
      seed: the seed of the samples, config.sample.seed.
      max_video_files: maximum number of videos written as GIF and MP4; the arrays hold all.
      described: more arrays [n] for samples.npz, such as labels.

    Returns:
      The path of the contact sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"video": videos, "seed": np.array(seed), **described}
    with replacing(folder / "samples.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    for suffix in ("gif", "mp4"):
        for stale in folder.glob(f"video_*.{suffix}"):
            stale.unlink()
    for index, video in enumerate(videos[:max_video_files]):
        (folder / f"video_{index:04}.gif").write_bytes(gif_bytes(video))
        (folder / f"video_{index:04}.mp4").write_bytes(mp4_bytes(video))
    sheet = folder / "contact_sheet.png"
    contact_sheet(videos[:_MAX_ROWS]).save(sheet)
    return sheet
