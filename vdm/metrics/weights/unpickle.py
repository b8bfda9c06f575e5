"""Reads arrays from pickles and PyTorch files, without running their code and without PyTorch.

The unpicklers build only arrays and containers, and reject everything else.
"""

import collections
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# (dtype, key, size) -> the flat array of a tensor's storage.
_GetStorage = Callable[[Any, str, int], np.ndarray]


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a pickle of nested dicts, with names joined by '/'.

    Raises:
      pickle.UnpicklingError: the pickle contains other objects.
    """
    with open(path, "rb") as file:
        return _flatten(_ArrayUnpickler(file).load())


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch file.

    Supports state dicts (also nested in other dicts), in both `torch.save` formats since 2018, and
    TorchScript. Names of modules and dicts are joined by '/'; names in state dicts keep their dots.

    Raises:
      pickle.UnpicklingError: the file contains other objects.
      ValueError: the file has another format.
    """
    if not zipfile.is_zipfile(path):
        return _flatten(_read_legacy_torch(path))
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{path} is not a PyTorch file: it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl") + "data/"

        def get_storage(dtype: Any, key: str, size: int) -> np.ndarray:
            values = np.frombuffer(archive.read(folder + key), dtype)
            if len(values) < size:
                raise ValueError(f"{path} is truncated")
            return values

        with archive.open(pickles[0]) as file:
            return _flatten(_TorchUnpickler(file, get_storage).load())


def _read_legacy_torch(path: Path) -> Any:
    """Reads consecutive pickles (magic number, version, system, object, keys), then storages."""
    storages: dict[str, np.ndarray] = {}

    def get_storage(dtype: Any, key: str, size: int) -> np.ndarray:
        return storages.setdefault(key, np.zeros(size, dtype))

    with open(path, "rb") as file:
        if _TorchUnpickler(file, get_storage).load() != _LEGACY_MAGIC:
            raise ValueError(f"{path} is not a PyTorch file")
        _version, _system, content, keys = (
            _TorchUnpickler(file, get_storage).load() for _ in range(4)
        )
        for key in keys:
            size = int.from_bytes(file.read(8), "little")
            storage = storages[key]
            if size != storage.size or file.readinto(storage.data) != storage.nbytes:
                raise ValueError(f"{path} is truncated")
    return content


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and the built-in types of pickle."""

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed numpy.core, the module in NumPy 1's pickles.
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) == ("numpy._core.multiarray", "_reconstruct"):
            return _empty_array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Replaces `numpy._core.multiarray._reconstruct` for plain arrays."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"{kind} is not allowed in a weights file")
    return np.ndarray(shape, dtype)


class _Module:
    """A module of a TorchScript file: only its attributes."""


class _TorchUnpickler(pickle.Unpickler):
    """Builds arrays, dicts and `_Module`s."""

    def __init__(self, file: Any, get_storage: _GetStorage):
        super().__init__(file)
        self._get_storage = get_storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module.startswith("__torch__."):
            return _Module
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch.jit._pickle", "build_intlist"): list,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _location, size, *_view = pid
        if kind != "storage" or dtype not in _STORAGES.values() or any(_view):
            raise pickle.UnpicklingError(f"a {kind} is not allowed in a weights file")
        return self._get_storage(dtype, key, size)


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if offset < 0 or min(strides, default=0) < 0 or (0 not in shape and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor exceeds its storage")
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [stride * storage.itemsize for stride in strides], writeable=False
    )


def _flatten(content: Any) -> dict[str, np.ndarray]:
    """Returns the arrays in nested dicts and modules, by their path."""

    def as_dict(value: Any) -> Any:
        if isinstance(value, _Module):
            value = vars(value)
        if isinstance(value, dict):
            return {str(name): as_dict(inner) for name, inner in value.items()}
        return value

    flat = flatten_dict(as_dict({"": content}), sep="/")
    return {
        name.removeprefix("/"): value
        for name, value in flat.items()
        if isinstance(value, np.ndarray)
    }
