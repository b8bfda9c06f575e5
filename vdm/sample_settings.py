"""Settings of a call of `vdm.load`'s model: types, conversion, and conditions of each sample."""

import difflib
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import jax
import ml_collections
import numpy as np

from vdm.checks import check_task, validate
from vdm.data.datasets import make_data_set
from vdm.sampling.conditions import Indices, conditions


class SampleSettings(TypedDict, total=False):
    """Fields of config.sample (see vdm/config.py); the model's configuration has the defaults.

    `label`, `caption` and `action` are one value for all samples, or a list with one per sample.
    """

    batch_size: int
    seed: int
    sampler: str
    num_steps: int
    gamma: float
    langevin_step_size: float
    label: int | Sequence[int]
    caption: str | Sequence[str]
    action: Sequence[float] | Sequence[Sequence[float]]
    guidance_weight: float
    per_example: int
    return_observed: bool
    conditioning: str
    reconstruction_weight: float
    reconstruction_clip: str
    reconstruction_normalization: str
    reconstruction_data_variance: float
    reconstruction_micro_batch: int
    repaint_jump_length: int
    repaint_repeats: int
    history_guidance_weight: float
    history_guidance_noise: float
    context_noise: float


def integer(name: str, value: Any, minimum: int) -> int:
    """Converts an integer, or an array of one without axes, of NumPy or JAX, to Python's type.

    Raises:
      ValueError: the argument `name` is not an integer of at least `minimum`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise ValueError(f"{name} is {value!r}, and must be an integer of at least {minimum}")
    return number


def configured(
    config: ml_collections.ConfigDict,
    task: str,
    settings: SampleSettings,
    **sections: Mapping[str, object],
) -> ml_collections.ConfigDict:
    """Returns a copy of a model's configuration for one call, validated.

    Args:
      config: the configuration of the model.
      task: config.sample.task of the call.
      settings: fields of config.sample. Per-sample conditions are left out: see `conditions_of`.
      **sections: fields of other sections, for example predict={"num_given": 2}; None keeps the
        model's.

    Raises:
      ValueError: there is no such setting, or it has the wrong type or value.
    """
    config = config.copy_and_resolve_references()
    config.sample.update(task=task, observed="")
    _check_guidance(config, settings)
    allowed = SampleSettings.__annotations__
    for name in settings:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(allowed)}"
            raise ValueError(f"there is no setting {name}: {hint}")
    common = {k: v for k, v in settings.items() if not _is_per_sample(k, v)}
    for section, values in {"sample": common, **sections}.items():
        for name, value in values.items():
            if value is not None:
                _set(config, section, name, value)
    validate(config)
    return config


def check_task_of(config: ml_collections.ConfigDict, settings: SampleSettings) -> None:
    """Checks the task of a result of `configured`, with each of the actions in `settings`.

    Raises:
      ValueError: as in `check_task`.
    """
    config, action = config.copy_and_resolve_references(), settings.get("action")
    if action is None or not _is_per_sample("action", action):
        check_task(config)
        return
    for of_sample in action:
        _set(config, "sample", "action", of_sample)
        check_task(config)


def conditions_of(
    config: ml_collections.ConfigDict, n: int, settings: SampleSettings
) -> Callable[[Indices], dict[str, np.ndarray]]:
    """Returns a function from sample indices to conditions, including per-sample conditions.

    Args:
      config: the result of `configured`.
      n: number of samples.
      settings: `label`, `caption` and `action`, if lists, have one value per sample.

    Raises:
      ValueError: a list has the wrong length or a wrong value, or no condition is given and there
        are no held-out videos to take it from.
    """
    per_sample: dict[str, Any] = {k: v for k, v in settings.items() if _is_per_sample(k, v)}
    if not per_sample:
        _check_held_out(config)
        return partial(conditions, config)
    configs = [config.copy_and_resolve_references() for _ in range(n)]
    for name, values in per_sample.items():
        if len(values) != n:
            raise ValueError(f"{name} has {len(values)} values, and there are {n} samples")
        for of_sample, value in zip(configs, values, strict=True):
            _set(of_sample, "sample", name, value)
            validate(of_sample)

    def condition_of(indices: Indices) -> dict[str, np.ndarray]:
        found = [conditions(configs[int(index)], [int(index)]) for index in indices]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    return condition_of


def _check_guidance(config: ml_collections.ConfigDict, settings: SampleSettings) -> None:
    if config.data.condition == "none" and settings.get("guidance_weight") not in (None, 0, 1):
        raise ValueError(
            f"guidance_weight is {settings['guidance_weight']}, and must not be set: "
            "classifier-free guidance needs a condition, and the model is unconditional"
        )


def _set(config: ml_collections.ConfigDict, section: str, name: str, value: Any) -> None:
    value = _plain(value)
    try:
        if value is None:  # ml_collections would accept it
            raise TypeError
        config[section][name] = value
    except TypeError as error:
        expected = type(config[section][name]).__name__
        raise ValueError(
            f"{name} is {value!r}, and must be of type {expected}, as config.{section}.{name}"
        ) from error


def _plain(value: Any) -> Any:
    """Converts numbers and arrays of NumPy and JAX, and lists of them, to Python's, and tuples."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _is_per_sample(name: str, value: Any) -> bool:
    """Returns whether a condition is a list with one value per sample."""
    if name in ("label", "caption"):
        return _is_list(value)
    return name == "action" and _is_list(value) and any(map(_is_list, value))


def _is_list(value: Any) -> bool:
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _check_held_out(config: ml_collections.ConfigDict) -> None:
    """Checks that held-out conditions are available, if the call gives none."""
    kind, sample = config.data.condition, config.sample
    given = {"label": sample.label >= 0, "text": sample.caption, "action": sample.action}
    if given.get(kind, True):
        return
    try:
        make_data_set(config, "test")
    except (ValueError, OSError) as error:
        argument = "caption" if kind == "text" else kind
        raise ValueError(
            f"{argument} is not set, and its default, from held-out videos, is unavailable: {error}"
        ) from error
