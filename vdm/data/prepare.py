"""Makes a data set of TensorFlow Datasets ready: python -m vdm.data.prepare NAME [--data_dir=DIR].

It does what `tfds build` does, and takes what that takes; the files are those of TFDS. Unlike it,
this needs no Apache Beam, without which `tfds build` of TFDS 4.9.10 does not start.
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

from vdm.data.tfds.registry import PREPARED

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
    """Prepares a data set of `vdm.data.tfds.registry.PREPARED`, or finds it prepared.

    Args:
      name: of the data set.
      config: of the builder: its name, or a JSON object of what it is made of, which has a name.
      data_dir: where to, '' for TFDS's default.
      manual_dir: the folder of the files that TFDS does not download itself.
      file_format: of the records, one of `FILE_FORMATS`.
      verify_ssl: whether a server without a valid certificate is refused.

    Returns:
      The folder of the data set.

    Raises:
      ValueError, OSError: with one sentence that says what is missing.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(f'preparing needs pip install "vdm[tfds]": {error}') from error
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
    """TFDS's builder, or ours where it has none."""
    if (Path(__file__).parent / "builders" / name).is_dir():
        module = f"vdm.data.builders.{name}.{name}_dataset_builder"
        return importlib.import_module(module).Builder
    return tfds.builder_cls(name)


@contextlib.contextmanager
def _ffmpeg_on_path() -> Iterator[None]:
    """imageio-ffmpeg's program under the name by which TFDS calls it, where there is no other."""
    if shutil.which("ffmpeg"):
        yield
        return
    try:
        import imageio_ffmpeg
    except ImportError:  # UCF101 alone needs it, and TFDS says so.
        yield
        return
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
        os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


def main(argv: list[str] | None = None) -> None:
    """Prepares a data set and prints its folder."""
    parser = argparse.ArgumentParser(prog="python -m vdm.data.prepare", description=__doc__)
    parser.add_argument("name", choices=sorted(PREPARED))
    parser.add_argument("--config", default="", help="of the builder: a name, or a JSON object")
    parser.add_argument("--data_dir", default="", help="where to; TFDS's default otherwise")
    parser.add_argument("--manual_dir", default="", help="folder of files that are not downloaded")
    parser.add_argument("--file_format", default=FILE_FORMATS[0], choices=FILE_FORMATS)
    parser.add_argument(
        "--no_verify_ssl", action="store_true", help="take servers without a valid certificate"
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
