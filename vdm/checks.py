"""What can be wrong with the sampling sections of a configuration, found before any long work."""

from pathlib import Path

import ml_collections

from vdm.config import at_least, one_of, require
from vdm.data.captions.encoded import encode_given
from vdm.diffusion.conditioning import DOWNSAMPLINGS
from vdm.diffusion.guidance import NORMALIZATIONS
from vdm.diffusion.samplers import CONDITIONINGS
from vdm.exported import load_exported_config
from vdm.sampling.generate import load_observed
from vdm.sampling.tasks import TASKS


def check_sampling(config: ml_collections.ConfigDict) -> None:
    """Checks the task, its section and what it observes.

    Raises:
      ValueError, OSError: with one sentence that names the field, the file or the frame.
    """
    sample = config.sample
    for field, choices in (
        ("task", (*TASKS, "figure4")),
        ("conditioning", CONDITIONINGS),
        ("reconstruction_clip", ("after", "before")),
        ("reconstruction_normalization", NORMALIZATIONS),
    ):
        one_of(config, f"sample.{field}", choices)
    for field in ("repaint_jump_length", "repaint_repeats"):
        at_least(config, f"sample.{field}", 1)
    for field in ("reconstruction_weight", "reconstruction_data_variance"):
        at_least(config, f"sample.{field}", 0)
    if config.data.condition == "text" and sample.caption:
        encode_given(config, sample.caption)
    if sample.task == "generate":
        require(not sample.observed, "sample.observed", sample.observed, "empty to generate")
        return
    _check_section(config)
    if sample.task in ("upsample", "cascade"):
        require(
            sample.conditioning == "reconstruction",
            "sample.conditioning",
            sample.conditioning,
            f"'reconstruction' for the task {sample.task!r}, which observes a low resolution",
        )
    elif sample.conditioning == "repaint":
        require(
            sample.sampler != "dpmpp_2m",
            "sample.sampler",
            sample.sampler,
            "one that looks at no earlier step where config.sample.conditioning is 'repaint'",
        )
    if sample.task == "cascade":
        _check_base(config)
    elif sample.observed:
        load_observed(config)


def needs_held_out(config: ml_collections.ConfigDict) -> bool:
    """Whether samples observe held-out videos, or take their labels or captions."""
    data, sample = config.data, config.sample
    observes = sample.task not in ("generate", "cascade") and not sample.observed
    is_told = sample.label >= 0 if data.condition == "label" else bool(sample.caption)
    return observes or (data.condition != "none" and not is_told)


def _check_section(config: ml_collections.ConfigDict) -> None:
    frames, upsample = config.data.frames, config.upsample
    if config.sample.task == "predict":
        _in_range(config, "predict.num_given", 1, frames - 1)
    elif config.sample.task in ("extend", "figure4"):
        at_least(config, "extend.num_frames", 1)
        _in_range(config, "extend.num_given", 0, frames)
        _in_range(config, "extend.overlap", 1, frames - 1)
        _in_range(config, "extend.stride", 1, frames - config.extend.overlap)
    elif config.sample.task == "interpolate":
        at_least(config, "interpolate.every", 2)
    elif config.sample.task == "cascade":
        at_least(config, "cascade.num_frames", 1)
        at_least(config, "cascade.frameskip", 1)
        _in_range(config, "cascade.overlap", 1, frames - 1)
    else:
        one_of(config, "upsample.downsampling", DOWNSAMPLINGS)
        require(
            upsample.factor >= 1 and config.data.resolution % upsample.factor == 0,
            "upsample.factor",
            upsample.factor,
            f"a divisor of config.data.resolution, {config.data.resolution}",
        )


def _check_base(config: ml_collections.ConfigDict) -> None:
    path = config.cascade.base_checkpoint
    require(bool(path), "cascade.base_checkpoint", path, "an exported .safetensors file")
    base, _ = load_exported_config(Path(path))
    for field in ("channels", "condition"):
        if base["data"][field] != config.data[field]:
            raise ValueError(
                f"{path} has data.{field} {base['data'][field]!r}, and this model has "
                f"{config.data[field]!r}"
            )
    if config.data.resolution % base["data"]["resolution"]:
        raise ValueError(
            f"{path} makes videos of {base['data']['resolution']} pixels a side, which does not "
            f"divide config.data.resolution, {config.data.resolution}"
        )
    if base["data"]["frameskip"] != config.cascade.frameskip:
        raise ValueError(
            f"{path} has data.frameskip {base['data']['frameskip']}, and config.cascade.frameskip "
            f"is {config.cascade.frameskip}"
        )
    # Files that were exported before the field existed have frames as stored.
    base_rate = base["data"].get("frame_rate", 0.0)
    if base_rate != config.data.frame_rate:
        raise ValueError(
            f"{path} has data.frame_rate {base_rate}, and config.data.frame_rate is "
            f"{config.data.frame_rate}"
        )


def _in_range(config: ml_collections.ConfigDict, field: str, least: int, most: int) -> None:
    section, name = field.split(".")
    value = config[section][name]
    require(least <= value <= most, field, value, f"{least} to {most}")
