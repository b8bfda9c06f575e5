"""Samples on disk: arrays, a GIF and an MP4 of each video, and a contact sheet."""

from pathlib import Path

import ml_collections
import numpy as np

from vdm.files import replacing
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.parallel.messages import is_first_process
from vdm.sampling.generate import describe_conditions, make_generator
from vdm.video.display import contact_sheet, gif_bytes, mp4_bytes

# Rows beyond these would make a picture that no viewer shows well.
_MOST_ROWS = 32


def sample_to_folder(config: ml_collections.ConfigDict, params: dict, folder: Path) -> Path | None:
    """Draws config.sample.num_videos samples and writes them with `write_samples`.

    Every process has to make the call; process 0 writes.

    Args:
      config: the configuration.
      params: EMA parameters, whole on each process or on its devices already.
      folder: of `write_samples`.

    Returns:
      The path of the contact sheet, None on all processes but the first.
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
    """Writes samples.npz, video_0000.gif and video_0000.mp4 and so on, and contact_sheet.png.

    Args:
      folder: is made where it is missing; files of an earlier call are replaced.
      videos: uint8 [n, frames, height, width, channels].
      seed: that the samples are a function of, with their index.
      max_video_files: maximum number of videos written as GIF and MP4; the arrays hold all.
      described: more arrays [n] for samples.npz, such as labels.

    Returns:
      The path of the contact sheet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "samples.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, video=videos, seed=np.array(seed), **described)
    for suffix in ("gif", "mp4"):
        for stale in folder.glob(f"video_*.{suffix}"):
            stale.unlink()
    for index, video in enumerate(videos[:max_video_files]):
        (folder / f"video_{index:04}.gif").write_bytes(gif_bytes(video))
        (folder / f"video_{index:04}.mp4").write_bytes(mp4_bytes(video))
    sheet = folder / "contact_sheet.png"
    contact_sheet(videos[:_MOST_ROWS]).save(sheet)
    return sheet
