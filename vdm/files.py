"""Reads and writes files of runs, local or in object stores: atomically, with checksums."""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
from etils import epath

AnyPath: TypeAlias = Path | epath.Path

# Object stores: the package that opens their paths, and the vdm extra that installs it.
_STORES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
# TensorFlow is only for data sets, but epath would use it if it is installed.
os.environ.setdefault("EPATH_USE_TF", "false")
# gcsfs would query the Storage Control API for the bucket type, and warn without permission.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
_DIGEST = "sha256"

EXPORTED_FILE = "model.safetensors"  # of --mode=export, and of a repository on the Hub


class DamagedFile(OSError, ValueError):
    """The content of a file differs from what was written."""


def user_cache() -> Path:
    """Returns the folder of all caches: $VDM_CACHE if that variable is set, else `xdg_cache`.

    Raises:
      RuntimeError: there is neither a variable nor a home folder.
    """
    folder = os.environ.get("VDM_CACHE")
    return Path(folder).expanduser() if folder else xdg_cache()


def xdg_cache() -> Path:
    """Returns $XDG_CACHE_HOME/vdm if that variable is set, else ~/.cache/vdm.

    Raises:
      RuntimeError: there is neither the variable nor a home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vdm"


def local_path(path: str | os.PathLike[str]) -> Path:
    """Returns a local path with '~' expanded; '~a.mp4' is unchanged if there is no such user.

    Raises:
      ValueError: it is a path of an object store, or another URL.
    """
    if is_remote(path):
        raise ValueError(f"{os.fspath(path)} is a URL, and must be a local or mounted path")
    return Path(os.path.expanduser(path))


def as_path(text: str) -> epath.Path:
    """Converts text to a local path, with '~' expanded, or to a path in an object store.

    Raises:
      ValueError: the scheme is neither gs:// nor s3://, or its package is not installed.
    """
    scheme, is_url, _ = text.partition("://")
    if not is_url:
        return epath.Path(os.path.expanduser(text))
    if scheme not in _STORES:
        raise ValueError(f"{text} is not a path: object stores are gs://BUCKET/PATH and s3://")
    package, extra = _STORES[scheme]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{text} needs {package}: pip install 'video-diffusion-jax[{extra}]'")
    # No caching of listings, because other processes write there, too.
    fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False
    return epath.Path(text)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is in an object store."""
    return "://" in os.fspath(path)


def make_folder(path: AnyPath) -> None:
    """Creates a folder and its parents if missing; does nothing in object stores.

    Raises:
      NotADirectoryError: it is a file.
    """
    if is_remote(path):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{path} is a file, and must be a folder") from error


def entries(folder: AnyPath) -> list[AnyPath]:
    """Returns the files and folders in a folder, sorted by path; none if it does not exist.

    Unlike `glob` of epath, this takes '[', '*' and '?' in the folder's own path literally.
    """
    return sorted(folder.iterdir()) if folder.is_dir() else []


def find_files(folder: AnyPath, suffix: str) -> Sequence[AnyPath]:
    """Returns the files with a suffix at any depth of a folder, sorted by path."""
    if not is_remote(folder):
        return sorted(Path(folder).rglob(f"*{suffix}"))
    store, root = fsspec.core.url_to_fs(os.fspath(folder))  # epath lists only one level
    names = sorted(name for name in store.find(root) if name.endswith(suffix))
    return [epath.Path(store.unstrip_protocol(name)) for name in names]


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Yields a temporary local path; its file replaces `path` when the block ends.

    A reader sees the old file or the complete new one. If the block raises, `path` is unchanged
    and the temporary file is deleted. For a device or a pipe, yields `path` itself.

    Raises:
      OSError: the file cannot be written, as on a full disk; the message names `path`.
    """
    if is_remote(path):  # Object stores write whole objects.
        with tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder) / path.name)
            epath.Path(temporary).copy(path, overwrite=True)
        return
    if path.exists() and not path.is_file():  # a device or a pipe, such as /dev/null
        yield Path(path)
        return
    # A process id would not be unique, because hosts may share the folder.
    temporary = Path(path).with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        names_another = error.filename not in (None, temporary, str(temporary))
        if not error.errno or names_another:
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Yields a local copy of a remote file, for libraries that cannot read object stores.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        epath.Path(path).copy(copy := Path(folder) / path.name)
        yield copy


def write_text(path: AnyPath, text: str) -> None:
    """Writes a UTF-8 text file atomically; characters that UTF-8 cannot encode are escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: AnyPath, content: bytes) -> None:
    """Writes a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def printable(text: str) -> str:
    """Escapes characters that UTF-8 cannot encode, as in `write_text`."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def write_record(path: AnyPath, record: dict) -> None:
    """Writes a dict as JSON atomically, without NaN and infinity, and with a checksum."""
    write_text(path, json.dumps(sealed(defined(record)), indent=2) + "\n")


def defined(values: Any) -> Any:
    """Removes numbers that are infinite or NaN, which JSON cannot represent.

    Such entries are dropped from a dict; in a list they become None.
    """
    if isinstance(values, Mapping):
        return {key: defined(value) for key, value in values.items() if not _is_undefined(value)}
    if isinstance(values, list | tuple):
        return [None if _is_undefined(value) else defined(value) for value in values]
    return values


def _is_undefined(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def read_record(path: AnyPath) -> dict:
    """Reads a dict written by `write_record`, or a JSON object without a checksum.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFile: the file is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is damaged: it is no UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # no JSON, too long a number, too many brackets
        raise DamagedFile(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise DamagedFile(f"{path} is damaged: it is no JSON object")
    try:
        return unsealed(record, required=False)
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged or was edited: {error}") from error


def sealed(record: Mapping) -> dict:
    """Returns a record as JSON stores it, plus a SHA-256 of its content as the last entry."""
    stored = json.loads(json.dumps(record))
    return {**stored, _DIGEST: _digest(stored)}


def unsealed(record: Mapping, *, required: bool) -> dict:
    """Verifies and removes the checksum of `sealed`; it may be missing if not `required`.

    Raises:
      ValueError: the content does not match the checksum, or a required one is missing.
    """
    content = {name: value for name, value in record.items() if name != _DIGEST}
    if (required or _DIGEST in record) and record.get(_DIGEST) != _digest(content):
        raise ValueError(f"its content does not match its {_DIGEST}")
    return content


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
