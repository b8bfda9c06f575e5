"""Figure 4 of the paper: long videos by the replacement method and by reconstruction guidance."""

from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np
from jax.sharding import Mesh
from PIL import Image, ImageDraw

from vdm.data.media import contact_sheet, gif_bytes, video_grid
from vdm.sampling.generate import make_generator
from vdm.sampling.store import write_samples

METHODS = ("replacement", "reconstruction")
_COLUMNS = 16  # frames of a long video that are shown
_ROWS = 4  # videos that are shown
_MARGIN = 96  # pixels, for the name of the method


def write_figure4(
    folder: Path,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    params: dict,
    indices: Sequence[int],
) -> Path:
    """Extends videos by both methods and writes them side by side.

    Both start from the same first block of each video and have the same noise. Writes figure4.png,
    a pair of rows a video, figure4.gif with the same videos, and the arrays and GIFs of each method
    to a folder of its name.

    Returns:
      The path of figure4.png.
    """
    videos = {}
    for method in METHODS:
        settings = config.copy_and_resolve_references()
        settings.sample.update(task="extend", conditioning=method)
        videos[method] = make_generator(settings, mesh)(params, indices)
        write_samples(
            folder / method,
            videos[method],
            seed=config.sample.seed,
            max_video_files=config.sample.max_video_files,
            described={},
        )
    pairs = np.stack([videos[method][:_ROWS] for method in METHODS], axis=1)
    rows = pairs.reshape(-1, *pairs.shape[2:])
    shown = np.linspace(0, rows.shape[1] - 1, min(_COLUMNS, rows.shape[1])).round().astype(int)
    picture = folder / "figure4.png"
    _with_names(contact_sheet(rows[:, shown]), len(rows)).save(picture)
    (folder / "figure4.gif").write_bytes(gif_bytes(video_grid(rows)))
    return picture


def _with_names(sheet: Image.Image, rows: int) -> Image.Image:
    """The sheet with a margin on the left, where each row has the name of its method."""
    out = Image.new("RGB", (sheet.width + _MARGIN, sheet.height), "white")
    out.paste(sheet, (_MARGIN, 0))
    draw = ImageDraw.Draw(out)
    for row in range(rows):
        middle = (row + 0.5) * sheet.height / rows
        draw.text((_MARGIN - 6, middle), METHODS[row % len(METHODS)], fill="black", anchor="rm")
    return out
