"""Prepares a data set of TensorFlow Datasets: python -m vdm.data.prepare NAME [--data_dir=DIR].

The result is that of `tfds build`. Unlike `tfds build` of TFDS 4.9.10, this command starts without
Apache Beam.
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

from vdm.data.tfds.registry import TFDS_DATA_SETS

FILE_FORMATS = ("array_record", "tfrecord")


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

    The arguments are the options of the command. `config` is the name of a configuration of the
    builder, or a JSON object of its fields, the name among them.

    Raises:
      ValueError, OSError: a package, a file or a setting is missing or invalid.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(f'preparing requires pip install "vdm[tfds]": {error}') from error
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    builder_class = _builder_class(name, tfds)
    arguments = {"data_dir": data_dir or None, "file_format": file_format}
    if config.startswith("{"):
        arguments["config"] = builder_class.builder_config_cls(**json.loads(config))
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


def _builder_class(name: str, tfds):
    """Returns the builder in vdm/data/builders if there is one, else that of TFDS."""
    if (Path(__file__).parent / "builders" / name).is_dir():
        module = f"vdm.data.builders.{name}.{name}_dataset_builder"
        return importlib.import_module(module).Builder
    return tfds.builder_cls(name)


@contextlib.contextmanager
def _ffmpeg_on_path() -> Iterator[None]:
    """Puts imageio-ffmpeg's program on PATH as `ffmpeg`, which TFDS calls, if there is none."""
    if shutil.which("ffmpeg"):
        yield
        return
    try:
        import imageio_ffmpeg
    except ImportError:  # Only UCF101 needs it, and TFDS reports that.
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


def main(argv: list[str] | None = None) -> None:
    """Prepares a data set and prints its folder."""
    parser = argparse.ArgumentParser(prog="python -m vdm.data.prepare", description=__doc__)
    parser.add_argument("name", choices=sorted(TFDS_DATA_SETS))
    parser.add_argument("--config", default="", help="builder configuration: name or JSON object")
    parser.add_argument("--data_dir", default="", help="output folder; default: TFDS's default")
    parser.add_argument("--manual_dir", default="", help="folder of files not downloaded")
    parser.add_argument("--file_format", default=FILE_FORMATS[0], choices=FILE_FORMATS)
    parser.add_argument(
        "--no_verify_ssl", action="store_true", help="accept servers without a valid certificate"
    )
    flags = vars(parser.parse_args(argv))
    verify_ssl = not flags.pop("no_verify_ssl")
    try:
        folder = prepare(**flags, verify_ssl=verify_ssl)
    except (ValueError, TypeError, OSError, AssertionError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"prepared: {folder}")


if __name__ == "__main__":
    main()
