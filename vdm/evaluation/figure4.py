"""Figure 4 of the paper: long videos by the replacement method and by reconstruction guidance.

    python -m vdm.evaluation.figure4 --config=FILE --workdir=DIR [--config.a.b=value]

extends videos as config.extend sets, by both methods, to DIR/figure4.
"""

import sys
from pathlib import Path

import ml_collections
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from vdm.checks import check_task, validate
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.parallel.messages import is_first_process
from vdm.sampling.generate import make_generator
from vdm.sampling.write import write_samples
from vdm.training.checkpoints import check_ema, load_ema
from vdm.video.display import gif_bytes, labelled_contact_sheet, mp4_bytes, video_grid

METHODS = ("replacement", "reconstruction")
_COLUMNS = 16  # frames of a long video that are shown
_ROWS = 4  # videos that are shown


def write_figure4(config: ml_collections.ConfigDict, params: dict, folder: Path) -> Path:
    """Extends videos by both methods and writes them side by side.

    Both start from the same first block of each video and have the same noise. Writes figure4.png,
    one pair of rows per video, figure4.gif and figure4.mp4 with the same videos, and the arrays and
    videos of each method to a folder of its name.

    Args:
      config: the configuration; config.sample.task is not read.
      params: EMA parameters.
      folder: created where it is missing.

    Returns:
      The path of figure4.png.
    """
    mesh, indices = make_mesh(config), range(config.sample.num_videos)
    params = sharded_params(mesh, params)
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


def main(_: list[str]) -> None:
    """Prints the path of the picture."""
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    config.sample.update(task="extend")
    try:
        validate(config)
        check_task(config)
        check_ema(config, workdir)
        picture = write_figure4(config, load_ema(config, workdir)[0], workdir / "figure4")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"figure 4: {picture}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Configuration file, as of vdm.main.")
    flags.DEFINE_string("workdir", None, "Folder of the run, as of vdm.main.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
