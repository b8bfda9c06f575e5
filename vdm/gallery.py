"""The gallery of shipped models: python -m vdm.gallery writes docs/gallery.md and its GIFs."""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from vdm.build import count_parameters
from vdm.data.folder.user_videos import load_videos
from vdm.data.shapes import frame_rate_of
from vdm.demo.requests import Demo, default_settings
from vdm.files import local_path, write_bytes, write_text
from vdm.markdown import table
from vdm.parallel.processes import check_devices
from vdm.shipped import checkpoint_names, find_clips
from vdm.video.display import gif_bytes, video_grid
from vdm.video_model import VideoModel

_COLUMNS, _VIDEOS = 4, 8
_PREDICTIONS = _COLUMNS - 1  # per clip
_WIDTH = 512  # approximate width of a GIF, pixels

_INTRODUCTION = f"""# Gallery: samples of the shipped models

`python -m vdm.gallery` writes this page. It shows the first {_VIDEOS} samples of each shipped
model, with seed 0 and the sampler of its configuration. If a model predicts videos, the page shows
the first {_PREDICTIONS} predictions of each clip in `checkpoints/DATA_clips.npz`; DATA is the name
of its data set. These clips are the first of the test split. The samples are not selected.
[The demo](demo.md) draws the same samples.
"""


def write_gallery(folder: Path, names: list[str]) -> Path:
    """Samples from checkpoints; writes FOLDER/gallery.md and FOLDER/images/gallery_NAME.gif.

    Returns:
      The path of the page.

    Raises:
      ValueError, OSError: there is no checkpoint; a checkpoint or its clips are missing or cannot
        be read; or a file cannot be written.
    """
    if not names:
        raise ValueError("there is no shipped checkpoint: checkpoints/ has no .safetensors file")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    sections = [_INTRODUCTION]
    with tempfile.TemporaryDirectory() as temporary:
        demo = Demo(names, Path(temporary))
        for name in names:
            model = demo.model(name)
            data = model.config.data.name
            clips = find_clips(data)
            if clips is None and model.config.sample.task == "predict":
                raise FileNotFoundError(
                    f"{name} predicts videos, and there is no checkpoints/{data}_clips.npz"
                )
            if clips is None:
                settings = default_settings(model.config, _VIDEOS)
                videos = demo.run("sample", name, settings).videos
                caption = f"{_VIDEOS} samples of {name}"
            else:
                videos = _with_predictions(model, clips)
                caption = f"Per row, a real video and {_PREDICTIONS} predictions of {name}"
            path = folder / "images" / f"gallery_{name}.gif"
            write_bytes(path, _gif(videos, frame_rate_of(model.config)))
            sections.append(_section(name, model, caption, predicts=clips is not None))
    page = folder / "gallery.md"
    write_text(page, "\n".join(sections))
    return page


def _with_predictions(model: VideoModel, clips: Path) -> np.ndarray:
    """Returns each clip, followed by its predictions."""
    data = model.config.data
    real = load_videos(
        clips, num_frames=data.frames, resolution=data.resolution, channels=data.channels
    )
    predicted = model.predict(real, per_example=_PREDICTIONS)
    predicted = predicted.reshape(len(real), _PREDICTIONS, *predicted.shape[1:])
    rows = np.concatenate([real[:, None], predicted], axis=1)
    return rows.reshape(-1, *real.shape[1:])


def _gif(videos: np.ndarray, frame_rate: float) -> bytes:
    scale = max(1, _WIDTH // (_COLUMNS * videos.shape[3]))
    grid = video_grid(videos.repeat(scale, axis=2).repeat(scale, axis=3), columns=_COLUMNS)
    return gif_bytes(grid, frames_per_second=frame_rate, scale=1)


def _section(name: str, model: VideoModel, caption: str, *, predicts: bool) -> str:
    config = model.config
    data, settings = config.data, default_settings(config)
    rows = [
        ("video", f"{data.frames} frames of {data.resolution}x{data.resolution} pixels"),
        ("condition", data.condition),
        ("parameters", f"{count_parameters(model.params):,}"),
        ("training steps", f"{model.step:,}"),
        ("sampler", f"{settings.sampler}, {settings.num_steps} steps"),
        ("guidance weight", settings.guidance_weight),
    ]
    lines = [f"## {name}", "", f"![{caption}](images/gallery_{name}.gif)", ""]
    if predicts:
        rows_show = f"a real video and {_PREDICTIONS} predictions from its first frame"
        lines += [f"Each row shows {rows_show}.", ""]
        rows.append(("conditioning", config.sample.conditioning))
    lines += table(("field", "value"), rows)
    lines += ["", f"[Model card](../checkpoints/{name}.md)", ""]
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m vdm.gallery", description=__doc__)
    parser.add_argument(
        "--folder", type=local_path, default=Path("docs"), help="default: %(default)s"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Writes the page, and prints its path; exits with a one-line message on errors."""
    flags = parse(argv)
    try:
        check_devices()
        print(write_gallery(flags.folder, checkpoint_names()))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
