"""Figure 4 of the paper: autoregressive extension by replacement vs. reconstruction guidance.

    python -m vdm.evaluation.figure4 --workdir=DIR [--config=NAME --config.a.b=value]

Writes videos of config.extend.num_frames frames, sampled by both methods, to DIR/figure4.
"""

from functools import partial

import ml_collections
import numpy as np
from absl import app, flags, logging

from vdm.configuration import command_line
from vdm.data.shapes import frame_rate_of
from vdm.files import AnyPath, replacing, write_bytes
from vdm.parallel import connect_flags
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.parallel.messages import is_first_process
from vdm.parallel.processes import Processes
from vdm.sampling.generate import make_generator
from vdm.sampling.write import write_samples
from vdm.training.checkpoints import load_ema
from vdm.video.display import gif_bytes, labelled_contact_sheet, mp4_bytes, video_grid

METHODS = ("replacement", "reconstruction")
_MAX_COLUMNS = 16  # frames in the picture
_MAX_VIDEOS = 4  # in the picture, two rows each


def write_figure4(config: ml_collections.ConfigDict, params: dict, folder: AnyPath) -> AnyPath:
    """Extends videos by both methods, from the same first blocks and noise, and writes them.

    Writes figure4.png with two rows per video, one per method; figure4.gif and figure4.mp4 of the
    same videos; and the samples of each method to folder/replacement and folder/reconstruction.

    Args:
      config: the configuration; config.sample.task is ignored, the task is always 'extend'.
      params: EMA parameters.
      folder: output folder, created if missing.

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
            frames_per_second=frame_rate_of(config),
        )
    picture = folder / "figure4.png"
    if not is_first_process():
        return picture
    pairs = np.stack([videos[method][:_MAX_VIDEOS] for method in METHODS], axis=1)
    rows = pairs.reshape(-1, *pairs.shape[2:])
    shown = np.linspace(0, rows.shape[1] - 1, min(_MAX_COLUMNS, rows.shape[1])).round().astype(int)
    names = [METHODS[row % len(METHODS)] for row in range(len(rows))]
    sheet = labelled_contact_sheet(
        rows[:, shown], rows=names, columns=[str(frame) for frame in shown], corner="frame"
    )
    with replacing(picture) as temporary:
        sheet.save(temporary, "PNG")
    grid = video_grid(rows)
    for name, encode in (("figure4.gif", gif_bytes), ("figure4.mp4", mp4_bytes)):
        write_bytes(folder / name, encode(grid, frames_per_second=frame_rate_of(config)))
    return picture


def main(config: ml_collections.ConfigDict) -> None:
    """Writes the figure and prints its path."""
    logging.set_verbosity(logging.FATAL)  # as in vdm.main: Orbax logs every file
    config.sample.update(task="extend", conditioning=METHODS[-1])
    workdir, processes = command_line.workdir(), Processes()
    try:
        if workdir is None:
            raise ValueError("--workdir is required")
        processes.connect(connect_flags.connect_options(), preemptible=False)
        from vdm.preflight import check  # after connecting: its imports may use a device

        check(config, workdir, "sample")
    except (ValueError, TypeError, OSError) as error:
        processes.fail(str(error), 1)
    except KeyboardInterrupt:  # for instance while indexing videos
        processes.interrupt()
    processes.run(partial(_write, config, workdir))


def _write(config: ml_collections.ConfigDict, workdir: AnyPath) -> None:
    picture = write_figure4(config, load_ema(config, workdir)[0], workdir / "figure4")
    print(f"figure 4: {picture}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(command_line)
    flags.adopt_module_key_flags(connect_flags)
    app.run(main, flags_parser=command_line.parse)
