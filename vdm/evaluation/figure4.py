"""Figure 4 of the paper: long videos by the replacement method and by reconstruction guidance."""

from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np
from jax.sharding import Mesh

from vdm.parallel.messages import is_first_process
from vdm.sampling.generate import make_generator
from vdm.sampling.write import write_samples
from vdm.video.display import gif_bytes, labelled_contact_sheet, mp4_bytes, video_grid

METHODS = ("replacement", "reconstruction")
_COLUMNS = 16  # frames of a long video that are shown
_ROWS = 4  # videos that are shown


def write_figure4(
    folder: Path,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    params: dict,
    indices: Sequence[int],
) -> Path:
    """Extends videos by both methods and writes them side by side.

    Both start from the same first block of each video and have the same noise. Writes figure4.png,
    one pair of rows per video, figure4.gif and figure4.mp4 with the same videos, and the arrays and
    videos of each method to a folder of its name.

    Returns:
      The path of figure4.png.
    """
    videos = {}
    for method in METHODS:
        settings = config.copy_and_resolve_references()
        settings.sample.update(task="extend", conditioning=method)
        videos[method] = make_generator(settings, mesh)(params, indices)
        if not is_first_process():
            continue
        write_samples(
            folder / method,
            videos[method],
            seed=config.sample.seed,
            max_video_files=config.sample.max_video_files,
            described={},
        )
    picture = folder / "figure4.png"
    if not is_first_process():
        return picture
    pairs = np.stack([videos[method][:_ROWS] for method in METHODS], axis=1)
    rows = pairs.reshape(-1, *pairs.shape[2:])
    shown = np.linspace(0, rows.shape[1] - 1, min(_COLUMNS, rows.shape[1])).round().astype(int)
    names = [METHODS[row % len(METHODS)] for row in range(len(rows))]
    labelled_contact_sheet(
        rows[:, shown], rows=names, columns=[str(frame) for frame in shown], corner="frame"
    ).save(picture)
    grid = video_grid(rows)
    (folder / "figure4.gif").write_bytes(gif_bytes(grid))
    (folder / "figure4.mp4").write_bytes(mp4_bytes(grid))
    return picture
