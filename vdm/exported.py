"""EMA weights as one safetensors file, with the configuration inside."""

import json
from pathlib import Path

import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vdm.files import replacing

_SEPARATOR = "/"


def export(path: Path, params: dict, config: ml_collections.ConfigDict, step: int) -> None:
    """Writes EMA parameters to a safetensors file in an existing folder, as float32.

    Tensor names are paths such as 'middle_0/residual/conv_1/conv/kernel'. The metadata has
    'config', as JSON, and 'step', the number of training steps.
    """
    tensors = {
        name: np.ascontiguousarray(value, np.float32)
        for name, value in flatten_dict(params, sep=_SEPARATOR).items()
    }
    metadata = {"config": config.to_json_best_effort(), "step": str(step)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_exported_config(path: Path) -> tuple[dict, int]:
    """Returns the configuration in an exported file, as nested dicts, and the step.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: `export` did not write the file.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    if not {"config", "step"} <= metadata.keys():
        raise ValueError(f"{path} has no configuration: --mode=export did not write it")
    return json.loads(metadata["config"]), int(metadata["step"])


def load_exported(path: Path) -> dict:
    """Returns the parameters in an exported file, as float32 NumPy arrays.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is not a safetensors file.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    return unflatten_dict(tensors, sep=_SEPARATOR)


def _open(path: Path):
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
