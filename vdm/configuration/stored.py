"""Configurations stored as JSON, in workdirs and in exported files."""

import json
from collections.abc import Mapping

import ml_collections

from vdm.config import default_config
from vdm.files import AnyPath, read_record, write_record

_NAME = "config.json"
_SECTION = (Mapping, ml_collections.ConfigDict)
_REMEDY = "move it away, and give --config"
# Values that older runs used before a field existed, if they differ from today's default.
_BEFORE_THE_FIELD = {
    "model.attention_bias": False,
    "model.narrow_upsampling": True,
    "model.float32_ends": False,
    "diffusion.time_sampling": "stratified",
    "training.ema_ramp": True,
}


def load_run_config(workdir: AnyPath) -> ml_collections.ConfigDict | None:
    """Returns the configuration of the run in a workdir, None if there is no run.

    Raises:
      ValueError: config.json is damaged.
    """
    path = workdir / _NAME
    try:
        return from_record(read_record(path), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{error}; {_REMEDY}") from error


def save_run_config(workdir: AnyPath, config: ml_collections.ConfigDict) -> None:
    """Writes the configuration of a run to WORKDIR/config.json."""
    write_record(workdir / _NAME, json.loads(config.to_json_best_effort()))


def from_record(record: object, source: str | AnyPath) -> ml_collections.ConfigDict:
    """Converts a configuration that was stored as JSON.

    Fields newer than the record get their defaults, or the earlier behaviour if a default would
    change the model or its training. Fields that no longer exist are ignored.

    Raises:
      ValueError: the record is not a configuration, or a value has the wrong type; the message
        names `source`.
    """
    config = default_config()
    required = ("model", "data")
    if not isinstance(record, _SECTION) or not all(
        isinstance(record.get(name), _SECTION) for name in required
    ):
        raise ValueError(f"{source} holds no configuration")
    stored = _BEFORE_THE_FIELD | fields_of(record)
    for field in fields_of(config).keys() & stored.keys():
        value = stored[field]
        try:
            if value is None:
                raise TypeError("a field has a value")
            set_field(config, field, tuple(value) if isinstance(value, list) else value)
        except TypeError as error:
            raise ValueError(f"{source} has config.{field} {value!r}: {error}") from error
    return config


def fields_of(config: Mapping | ml_collections.ConfigDict) -> dict[str, object]:
    """Flattens a configuration, or its record, to {'section.field': value}."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, _SECTION):
            flat |= {f"{name}.{field}": inner for field, inner in fields_of(value).items()}
        else:
            flat[name] = value
    return flat


def set_field(config: ml_collections.ConfigDict, field: str, value: object) -> None:
    """Sets 'section.field' or 'field'. Raises TypeError if the value has another type."""
    section, _, name = field.rpartition(".")
    (config[section] if section else config)[name] = value
