"""Prepares a data set: python -m vdm.data.prepare NAME [--data_dir=DIR].

NAME is pusht, which gym-pusht renders, or a data set of TensorFlow Datasets, with the same result
as `tfds build`. Unlike `tfds build` of TFDS 4.9.10, this command starts without Apache Beam.
"""

import argparse
import contextlib
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vdm.data.pusht.shards import default_folder
from vdm.data.pusht.write import prepare_pusht
from vdm.data.tfds.registry import TFDS_DATA_SETS
from vdm.files import local_path
from vdm.interruptible import interruptible

FILE_FORMATS = ("array_record", "tfrecord")
_PUSHT = (
    "Draws clips of a disc that pushes a T-shaped block, 64x64 RGB, with the disc's actions. An "
    "interrupted command resumes; train with --config.data.name=pusht (docs/data.md)."
)


def prepare(
    name: str,
    *,
    config: str = "",
    data_dir: str = "",
    manual_dir: str = "",
    file_format: str = "array_record",
    verify_ssl: bool = True,
) -> Path:
    """Prepares a data set of `TFDS_DATA_SETS`, if it is not yet prepared; returns its folder.

    The arguments are the options of the command. `config` is the name of a builder configuration,
    or a JSON object of its fields, including the name.

    Raises:
      ValueError, OSError: a package, a file or a setting is missing or invalid.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f'preparing requires pip install "video-diffusion-jax[tfds]": {error}'
        ) from error
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    builder_class = _builder_class(name, tfds)
    # TFDS does not expand '~', and shells do not after '='.
    data_dir, manual_dir = (os.path.expanduser(folder) for folder in (data_dir, manual_dir))
    arguments = {"data_dir": data_dir or None, "file_format": file_format}
    if config.startswith("{"):
        try:
            arguments["config"] = builder_class.builder_config_cls(**_fields(config))
        except TypeError as error:
            raise ValueError(
                f"--config is {config!r}, and its fields do not fit the builder: {error}"
            ) from error
    elif config:
        arguments["config"] = config
    builder = builder_class(**arguments)
    with _ffmpeg_on_path():
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir or None, verify_ssl=verify_ssl
            )
        )
    return Path(builder.data_dir)


def _fields(text: str) -> dict:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"--config is {text!r}, and must be a name or a JSON object: {error}"
        ) from error


def _builder_class(name: str, tfds):
    """Returns the builder class in vdm/data/builders if there is one, else the TFDS builder."""
    if (Path(__file__).parent / "builders" / name).is_dir():
        module = f"vdm.data.builders.{name}.{name}_dataset_builder"
        return importlib.import_module(module).Builder
    return tfds.builder_cls(name)


@contextlib.contextmanager
def _ffmpeg_on_path() -> Iterator[None]:
    """Adds imageio-ffmpeg's `ffmpeg` to PATH if there is none, because TFDS calls it."""
    if shutil.which("ffmpeg"):
        yield
        return
    try:
        import imageio_ffmpeg
    except ImportError:  # only UCF101 needs it, and TFDS reports the error
        yield
        return
    path = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
        os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
        try:
            yield
        finally:
            os.environ["PATH"] = path


@interruptible()
def main(argv: list[str] | None = None) -> None:
    """Prepares a data set and prints its folder."""
    flags = vars(_parser().parse_args(argv))
    try:
        folder = flags.pop("run")(flags)
    except (ValueError, TypeError, OSError, AssertionError) as error:
        sentence = " ".join(str(error).split())  # TFDS's messages have several lines
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(1)
    print(f"prepared: {folder}")


def _parser() -> argparse.ArgumentParser:
    program = "python -m vdm.data.prepare"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    pusht = names.add_parser("pusht", help="drawn by gym-pusht", description=_PUSHT)
    pusht.set_defaults(run=_run_pusht)
    pusht.add_argument("--data_dir", default="", help=f"output folder; default: {default_folder()}")
    pusht.add_argument("--seed", type=int, default=0, help="seed of the clips")
    pusht.add_argument("--train", type=int, default=5_000, help="number of clips for training")
    pusht.add_argument("--test", type=int, default=512, help="number of held-out clips")
    pusht.add_argument("--frames", type=int, default=32, help="number of frames per clip")
    pusht.add_argument("--workers", type=int, default=0, help="processes; default: one per core")
    for name in sorted(TFDS_DATA_SETS):
        tfds = names.add_parser(name, help="of TensorFlow Datasets")
        tfds.set_defaults(run=_run_tfds)
        tfds.add_argument("--config", default="", help="builder configuration: name or JSON object")
        tfds.add_argument("--data_dir", default="", help="output folder; default: TFDS's default")
        tfds.add_argument("--manual_dir", default="", help="folder of files not downloaded")
        tfds.add_argument("--file_format", default=FILE_FORMATS[0], choices=FILE_FORMATS)
        tfds.add_argument(
            "--no_verify_ssl",
            action="store_true",
            help="accept servers without a valid certificate",
        )
    return parser


def _run_tfds(flags: dict) -> Path:
    verify_ssl = not flags.pop("no_verify_ssl")
    return prepare(**flags, verify_ssl=verify_ssl)


def _run_pusht(flags: dict) -> Path:
    flags.pop("name")
    folder = local_path(flags.pop("data_dir") or default_folder())
    record = prepare_pusht(folder, **flags)
    settings = record["settings"]
    print(
        f"{settings['train']} + {settings['test']} clips of {settings['frames']} frames; the block "
        f"moves in {record['moving']:.1%} of all windows of 16 frames"
    )
    return folder


if __name__ == "__main__":
    main()
