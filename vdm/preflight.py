"""Checks of a command before any long work: fields, files, data sets, checkpoints and the workdir.

Nothing here writes. Each check raises ValueError or OSError with one sentence that names the field,
the file or the folder.
"""

import tempfile
from pathlib import Path

import ml_collections

from vdm.checks import check_task, require, validate
from vdm.data.captions.encoded import encode_given
from vdm.data.datasets import check_name, make_data_set
from vdm.evaluation.protocol import protocol_of, real_sources
from vdm.exported import load_exported_config
from vdm.metrics.features import make_extractors
from vdm.parallel.mesh import check_divides, make_mesh
from vdm.planning.plan import check_steps, plan_file
from vdm.sampling.generate import load_observed, preview_config
from vdm.training.checkpoints import check_ema, has_checkpoints


def check(config: ml_collections.ConfigDict, workdir: Path | None, mode: str) -> None:
    """Checks a command of `vdm.main`.

    Args:
      config: the configuration.
      workdir: the folder of the run, which may be None for a plan alone.
      mode: 'train', 'sample', 'eval', 'export', or 'plan', which needs neither data nor a
        checkpoint.

    Raises:
      ValueError, OSError: one sentence that names the field, the file or the folder.
    """
    validate(config)
    check_name(config)
    if mode == "plan":
        _check_plan(config, workdir)
    else:
        _check_run(config, workdir, mode)


def _check_run(config: ml_collections.ConfigDict, workdir: Path, mode: str) -> None:
    mesh = make_mesh(config)
    if mode == "train":
        check_divides(
            mesh, config.training.batch_size, "training.batch_size", config.training.accumulate
        )
    sampled = preview_config(config) if mode in ("train", "export") else config
    check_sampling(sampled)
    if mode == "train":
        make_data_set(config, "train")
    if mode == "eval" or (mode in ("train", "sample") and _needs_held_out(sampled)):
        make_data_set(config, "test")
    if mode == "eval":
        _check_evaluation(config)
    _check_checkpoint(config, workdir, mode)
    _check_writable(workdir)


def _check_plan(config: ml_collections.ConfigDict, workdir: Path | None) -> None:
    check_sampling(preview_config(config))
    check_steps(config)
    if output := plan_file(config, workdir):
        _check_writable(output.parent)


def check_sampling(config: ml_collections.ConfigDict) -> None:
    """Checks the task of config.sample, with the caption, the videos or the model that it needs.

    Raises:
      ValueError, OSError: one sentence that names the field, the file or the frame.
    """
    check_task(config)
    sample = config.sample
    if config.data.condition == "text" and sample.caption:
        encode_given(config, sample.caption)
    if sample.task == "cascade":
        _check_base_model(config)
    elif sample.task != "generate" and sample.observed:
        load_observed(config)


def _check_base_model(config: ml_collections.ConfigDict) -> None:
    """The low-resolution model of a cascade fits the high-resolution one."""
    path, data = config.cascade.base_checkpoint, config.data
    base = load_exported_config(Path(path))[0]["data"]
    for field in ("channels", "condition"):
        if base[field] != data[field]:
            raise ValueError(
                f"{path} has data.{field} {base[field]!r}, and this model has {data[field]!r}"
            )
    if data.resolution % base["resolution"]:
        raise ValueError(
            f"{path} makes videos of {base['resolution']} pixels a side, which does not divide "
            f"config.data.resolution, {data.resolution}"
        )
    if base["frameskip"] != config.cascade.frameskip:
        raise ValueError(
            f"{path} has data.frameskip {base['frameskip']}, and config.cascade.frameskip is "
            f"{config.cascade.frameskip}"
        )
    # Files that were exported before the field existed have frames as stored.
    if base.get("frame_rate", 0.0) != data.frame_rate:
        raise ValueError(
            f"{path} has data.frame_rate {base.get('frame_rate', 0.0)}, and config.data.frame_rate "
            f"is {data.frame_rate}"
        )


def _needs_held_out(config: ml_collections.ConfigDict) -> bool:
    """Whether samples observe held-out videos, or take their labels or captions."""
    data, sample = config.data, config.sample
    observes = sample.task not in ("generate", "cascade") and not sample.observed
    is_told = sample.label >= 0 if data.condition == "label" else bool(sample.caption)
    return observes or (data.condition != "none" and not is_told)


def _check_evaluation(config: ml_collections.ConfigDict) -> None:
    if config.eval.protocol == "moving_digits":
        require(
            config.data.name == "moving_digits",
            "data.name",
            config.data.name,
            "'moving_digits' for config.eval.protocol 'moving_digits'",
        )
        return
    protocol = protocol_of(config)
    real_sources(config, protocol)
    for extractor in make_extractors(protocol).values():
        if protocol.frames < extractor.min_frames:
            raise ValueError(
                f"config.eval.protocol {protocol.name!r} needs videos of {extractor.min_frames} "
                f"frames or more, and this configuration makes {protocol.frames}"
            )


def _check_checkpoint(config: ml_collections.ConfigDict, workdir: Path, mode: str) -> None:
    if config.checkpoint and mode in ("train", "export"):
        raise ValueError(f"config.checkpoint is for sample and eval, and the mode is {mode}")
    if mode != "train" or has_checkpoints(workdir):
        check_ema(config, workdir)


def _check_writable(folder: Path) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(f"workdir {folder} cannot be written: {error.strerror}") from error
