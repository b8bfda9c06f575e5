"""Files of runs: local or in an object store, written atomically, records with a checksum."""

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

# Packages that open the paths of object stores, and the extra of vdm that installs each.
_STORES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
# TensorFlow is for data sets alone, and epath would prefer it.
os.environ.setdefault("EPATH_USE_TF", "false")
# gcsfs would ask the Storage Control API for the type of a bucket, and warn where it may not.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
_DIGEST = "sha256"


class DamagedFile(OSError, ValueError):
    """The content of a file is not what was written."""


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
    """Returns a local path, with '~' expanded; a name like '~a.mp4' that is no user's stays.

    Raises:
      ValueError: it is a path of an object store, or another URL.
    """
    if is_remote(path):
        raise ValueError(f"{os.fspath(path)} is a URL, and must be a local or mounted path")
    return Path(os.path.expanduser(path))


def as_path(text: str) -> epath.Path:
    """Returns the path of a local file or folder, '~' expanded, or of one in an object store.

    Raises:
      ValueError: the path has another scheme than gs:// and s3://, or its package is missing.
    """
    scheme, is_url, _ = text.partition("://")
    if not is_url:
        return epath.Path(os.path.expanduser(text))
    if scheme not in _STORES:
        raise ValueError(f"{text} is not a path: object stores are gs://BUCKET/PATH and s3://")
    package, extra = _STORES[scheme]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{text} needs {package}: pip install 'video-diffusion-jax[{extra}]'")
    # Other processes write there, too, so that a cached list of files would be wrong.
    fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False
    return epath.Path(text)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is in an object store."""
    return "://" in os.fspath(path)


def make_folder(path: AnyPath) -> None:
    """Creates a folder and its parents if they are missing; object stores have none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def find_files(folder: AnyPath, suffix: str) -> Sequence[AnyPath]:
    """Returns the files with a suffix at any depth of a folder, in the order of their paths."""
    if not is_remote(folder):
        return sorted(Path(folder).rglob(f"*{suffix}"))
    store, root = fsspec.core.url_to_fs(os.fspath(folder))  # epath finds files of one level alone
    names = sorted(name for name in store.find(root) if name.endswith(suffix))
    return [epath.Path(store.unstrip_protocol(name)) for name in names]


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Yields a temporary local path, whose file replaces `path` when the block ends.

    A reader sees the old file or the complete new one. If the block raises, `path` is unchanged
    and the temporary file is deleted. A device or a pipe is not replaced: it is yielded itself.

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
    # A process id would not be unique: hosts may share the folder.
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
    """Yields a local path of a file, for libraries that read no object store.

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
    """Writes a UTF-8 text file atomically; characters outside UTF-8 become escapes."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def printable(text: str) -> str:
    """Returns a text with characters outside UTF-8 as escapes, as `write_text` writes it."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def write_record(path: AnyPath, record: dict) -> None:
    """Writes what is `defined` of a dict as JSON atomically, `sealed`."""
    write_text(path, json.dumps(sealed(defined(record)), indent=2) + "\n")


def defined(values: Any) -> Any:
    """Returns values without numbers that are infinite or NaN, which JSON does not have.

    A dict loses such an entry; a list keeps its length, with None.
    """
    if isinstance(values, Mapping):
        return {key: defined(value) for key, value in values.items() if not _is_undefined(value)}
    if isinstance(values, list | tuple):
        return [None if _is_undefined(value) else defined(value) for value in values]
    return values


def _is_undefined(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def read_record(path: AnyPath) -> dict:
    """Returns a dict that `write_record` wrote, or that was written as JSON without a checksum.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFile: the file is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is damaged: it is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise DamagedFile(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise DamagedFile(f"{path} is damaged: it is no JSON object")
    try:
        return unsealed(record, required=False)
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged or was edited: {error}") from error


def sealed(record: Mapping) -> dict:
    """Returns a record as JSON stores it, with a SHA-256 of its content as the last entry."""
    stored = json.loads(json.dumps(record))
    return {**stored, _DIGEST: _digest(stored)}


def unsealed(record: Mapping, *, required: bool) -> dict:
    """Returns the content of a record of `sealed`; without a checksum only if none is required.

    Raises:
      ValueError: the record has changed since it was sealed.
    """
    content = {name: value for name, value in record.items() if name != _DIGEST}
    if (required or _DIGEST in record) and record.get(_DIGEST) != _digest(content):
        raise ValueError(f"its content does not have its {_DIGEST}")
    return content


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
