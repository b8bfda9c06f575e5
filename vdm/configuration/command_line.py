"""Flags that commands share: the configuration and the workdir."""

import sys

import ml_collections
from absl import flags
from etils import epath

from vdm.configuration.resolve import available, resolve, split_overrides
from vdm.files import as_path, printable
from vdm.interruptible import interruptible
from vdm.parallel.processes import first_line

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    f"Configuration: a Python file, or {', '.join(available())}. Default: that of the run in "
    "WORKDIR, or of the file in config.checkpoint. --config.section.field=value overrides a field; "
    "all fields are in vdm/config.py.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: checkpoints, metrics, samples and results. Local, gs://BUCKET/PATH or s3://.",
)


@interruptible()  # which may download a model
def parse(argv: list[str]) -> ml_collections.ConfigDict:
    """Parses a command line and returns its configuration.

    If it is invalid, prints a one-line error and exits with status 2.
    """
    try:
        argv, overrides = split_overrides(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}")
        return resolve(_CONFIG.value, workdir(), overrides)
    except (flags.Error, ValueError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        sys.exit(2)


def workdir() -> epath.Path | None:
    """Returns the value of --workdir, None if it is not given.

    Raises:
      ValueError: it is a URL of an unknown or uninstalled object store, or a name that some writer
        of files does not support.
    """
    name = _WORKDIR.value
    if name and (name != printable(name) or "\\" in name):
        raise ValueError(
            f"--workdir is {name!r}, and must be UTF-8 without a backslash: the writers of "
            "checkpoints and of TensorBoard support no other names"
        )
    return as_path(name) if name else None
