"""Exports and loads EMA weights as one safetensors file that includes the configuration."""

import contextlib
import hashlib
import json
from collections.abc import Iterator

import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from vdm.build import parameter_shapes
from vdm.configuration.stored import from_record
from vdm.files import AnyPath, DamagedFile, local_copy
from vdm.metrics.weights.files import digest_of, write_safetensors

_SEPARATOR = "/"


def export(path: AnyPath, params: dict, config: ml_collections.ConfigDict, step: int) -> None:
    """Writes EMA parameters to a safetensors file in an existing folder, as float32.

    Tensor names are paths such as 'middle_0/residual/conv_1/conv/kernel'. The metadata has
    'config', as JSON; 'step', the number of training steps; and 'digest', a SHA-256 of everything.

    Raises:
      OSError: the file cannot be written; the message names it.
    """
    tensors = {
        name: np.ascontiguousarray(value, np.float32)
        for name, value in flatten_dict(params, sep=_SEPARATOR).items()
    }
    metadata = {"config": config.to_json_best_effort(), "step": str(step)}
    metadata["digest"] = _digest(metadata, tensors)
    write_safetensors(path, tensors, metadata)


def load_exported_config(path: AnyPath) -> tuple[dict, int]:
    """Returns the configuration in an exported file, as nested dicts, and the step.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: `export` did not write the file.
    """
    with _open(path) as file:
        return _config_and_step(file, path)


def load_exported(path: AnyPath) -> dict:
    """Returns the parameters in an exported file, as float32 NumPy arrays.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: its configuration is damaged.
      DamagedFile: the file is damaged, or a tensor does not match its configuration; the message
        names the first such tensor.
    """
    with _open(path) as file:
        record, _ = _config_and_step(file, path)
        expected = parameter_shapes(from_record(record, path), path)
        metadata, names = file.metadata(), set(file.keys())
        for name in sorted(expected.keys() | names):
            if name not in names:
                raise DamagedFile(f"{path} has no tensor {name}, which its configuration needs")
            if name not in expected:
                raise DamagedFile(f"{path} has a tensor {name}, which its configuration does not")
            stored = file.get_slice(name)
            if (shape := tuple(stored.get_shape())) != expected[name]:
                raise DamagedFile(
                    f"{path} has the tensor {name} of shape {shape}, and its configuration needs "
                    f"{expected[name]}"
                )
            if (dtype := stored.get_dtype()) != "F32":
                raise DamagedFile(f"{path} has the tensor {name} of type {dtype}, and needs F32")
        tensors = {name: file.get_tensor(name) for name in expected}
    # Files exported before the digest was introduced have none.
    if metadata.get("digest", digest := _digest(metadata, tensors)) != digest:
        raise DamagedFile(f"{path} is damaged: its tensors do not match its digest")
    return unflatten_dict(tensors, sep=_SEPARATOR)


def _config_and_step(file: safe_open, path: AnyPath) -> tuple[dict, int]:
    metadata = file.metadata() or {}
    try:
        return json.loads(metadata["config"]), int(metadata["step"])
    except KeyError as error:
        raise ValueError(f"{path} has no configuration: --mode=export did not write it") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: its configuration or step is no JSON") from error


def _digest(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> str:
    content = f"{metadata['config']}\n{metadata['step']}\n{digest_of(tensors)}"
    return hashlib.sha256(content.encode()).hexdigest()


@contextlib.contextmanager
def _open(path: AnyPath) -> Iterator[safe_open]:
    with local_copy(path) as copy:
        copy.open("rb").close()  # safetensors reports a file without read permission as missing
        try:
            file = safe_open(copy, framework="numpy")
        except SafetensorError as error:
            raise DamagedFile(f"{path} is not a safetensors file: {error}") from error
        with file:
            yield file
