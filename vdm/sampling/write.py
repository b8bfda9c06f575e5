"""Writes samples: arrays, a GIF and an MP4 per video, and a contact sheet."""

import itertools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import ml_collections
import numpy as np
from etils import epath

from vdm.data.shapes import frame_rate_of
from vdm.files import AnyPath, entries, is_remote, make_folder, replacing, write_bytes
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.parallel.messages import is_first_process
from vdm.sampling.conditions import describe_conditions
from vdm.sampling.sample_store import stored_samples
from vdm.video.display import contact_sheet, gif_bytes, mp4_bytes

_MAX_ROWS = 32  # rows of a contact sheet: taller images are hard to view


class Videos(Protocol):
    """Videos uint8 [frames, height, width, channels] of equal shapes, read one after another."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


def sample_to_folder(
    config: ml_collections.ConfigDict, params: dict, folder: AnyPath
) -> AnyPath | None:
    """Samples config.sample.num_videos videos and writes them with `write_samples`.

    Every process must make the call; process 0 writes. Samples are first collected in
    folder/unfinished, from which an interrupted command resumes.

    Args:
      config: the configuration.
      params: EMA parameters, host arrays or already on the devices.
      folder: output folder of `write_samples`.

    Returns:
      The path of the contact sheet on process 0, None on the others.
    """
    mesh, count = make_mesh(config), config.sample.num_videos
    params = sharded_params(mesh, params)
    store = stored_samples(folder / "unfinished", config, params, mesh, count)
    if not is_first_process():
        return None
    sheet = write_samples(
        folder,
        store,
        seed=config.sample.seed,
        max_video_files=config.sample.max_video_files,
        described=describe_conditions(config, range(count)),
        frames_per_second=frame_rate_of(config),
    )
    epath.Path(store.folder).rmtree()
    # Keeps interrupted samples of other settings.
    if not is_remote(store.parent) and not any(store.parent.iterdir()):
        store.parent.rmdir()
    return sheet


def write_samples(
    folder: AnyPath,
    videos: Videos,
    *,
    seed: int,
    max_video_files: int,
    described: dict[str, np.ndarray],
    frames_per_second: float = 8.0,
) -> AnyPath:
    """Writes samples.npz, video_0000.gif, video_0000.mp4, ... and contact_sheet.png.

    Args:
      folder: output folder, created if missing; replaces the files of an earlier call.
      videos: the samples.
      seed: the seed of the samples, config.sample.seed.
      max_video_files: maximum number of videos written as GIF and MP4; the arrays hold all.
      described: further arrays [n] for samples.npz, such as labels.
      frames_per_second: frame rate of the GIFs and MP4s; default 8.

    Returns:
      The path of the contact sheet.
    """
    make_folder(folder)
    with replacing(folder / "samples.npz") as temporary:
        _write_arrays(temporary, videos, {"seed": np.array(seed), **described})
    for path in entries(folder):
        if re.fullmatch(r"video_\d+\.(gif|mp4)", path.name):  # of an earlier call
            path.unlink()
    for index, video in enumerate(itertools.islice(videos, max_video_files)):
        for suffix, encode in ((".gif", gif_bytes), (".mp4", mp4_bytes)):
            encoded = encode(video, frames_per_second=frames_per_second)
            write_bytes(folder / f"video_{index:04}{suffix}", encoded)
    sheet = folder / "contact_sheet.png"
    with replacing(sheet) as temporary:
        contact_sheet(np.stack(list(itertools.islice(videos, _MAX_ROWS)))).save(temporary, "PNG")
    return sheet


def _write_arrays(path: Path, videos: Videos, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file with videos [n, ...] as `video`, one by one, and other arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("video.npy", "w", force_zip64=True) as member:
            shape = (len(videos), *next(iter(videos)).shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for video in videos:
                member.write(np.ascontiguousarray(video).tobytes())
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
