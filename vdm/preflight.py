"""Preflight checks of fields, files, data sets, checkpoints and the workdir.

They run before any long work and write nothing. Each raises ValueError or OSError, with a one-line
message that names the field, the file or the folder.
"""

import os
import tempfile
import uuid

import jax
import ml_collections

from vdm.checks import check_attention, check_task, require, validate, value_of
from vdm.configuration.stored import from_record
from vdm.data.captions.encoded import encode_given
from vdm.data.datasets import check_name, make_data_set, with_classes
from vdm.evaluation.protocol import check_numbers, check_pairs, protocol_of, real_sources
from vdm.exported import load_exported_config
from vdm.files import EXPORTED_FILE, AnyPath, as_path, is_remote, local_path
from vdm.metrics.features import make_extractors, measurable
from vdm.metrics.pairwise.similarity import SSIM_WINDOW
from vdm.parallel.mesh import check_divides, make_mesh
from vdm.parallel.processes import first_line
from vdm.planning.plan import check_steps, plan_file
from vdm.rehearse import check_rehearsal_folder, rehearsal_config
from vdm.sampling.conditions import load_observed, needs_held_out
from vdm.sampling.generate import (
    base_conditions_config,
    check_same_classes,
    key_frame_config,
)
from vdm.sampling.preview import preview_config
from vdm.shipped import check_exists
from vdm.training.checkpoints import saved_steps
from vdm.training.compatibility import check_same_run, check_weights
from vdm.training.trackers.profile import traced_steps
from vdm.training.trackers.wandb import check_installed
from vdm.training.warm_start import check_warm_start

# Files and folders that each mode writes in the workdir.
_WRITTEN = {
    "train": (
        ("config.json", "metrics.jsonl", "parameters.txt", "train.lock"),
        ("checkpoints", "previews", "tensorboard"),
    ),
    "sample": ((), ("samples",)),
    "eval": ((), ("eval",)),
    "export": ((EXPORTED_FILE,), ()),
}


def check(config: ml_collections.ConfigDict, workdir: AnyPath | None, mode: str) -> None:
    """Checks a command of `vdm.main` before it runs.

    `mode` is one of the modes of `vdm.main`. 'plan' needs no data and no checkpoint. The workdir
    may be None for 'plan' and, with one process, for 'rehearse'.

    Raises:
      ValueError, OSError: the message names the field, the file or the folder.
    """
    validate(config)
    check_name(config)
    if mode == "plan":
        _check_plan(config, workdir)
    elif mode == "rehearse":
        _check_rehearsal(config, workdir)
    elif workdir is None:
        raise ValueError(
            f"--workdir is required for --mode={mode}: the folder of a run, or a new one to train"
        )
    else:
        _check_run(config, workdir, mode)
    if mode in ("train", "rehearse", "plan") and not (workdir and saved_steps(workdir)):
        check_attention(config)
        _check_profile(config)


def _check_run(config: ml_collections.ConfigDict, workdir: AnyPath, mode: str) -> None:
    for names, is_folder in zip(_WRITTEN[mode], (False, True), strict=True):
        for name in names:
            _check_kind(workdir / name, is_folder=is_folder)
    mesh = make_mesh(config)
    if mode == "train":
        _check_apart(config, workdir)
        check_divides(
            mesh, config.training.batch_size, "training.batch_size", config.training.accumulate
        )
    sampled = preview_config(config) if mode in ("train", "export") else config
    check_sampling(sampled)
    if mode == "train":
        make_data_set(config, "train")
        check_installed(config.training.wandb_project)
    is_evaluated = mode == "eval" or (mode == "train" and config.training.eval_every)
    is_sampled = mode == "sample" or (mode == "train" and config.training.sample_every)
    if is_evaluated or (is_sampled and needs_held_out(sampled)):
        make_data_set(config, "test")
    if mode == "eval":
        _check_evaluation(config)
    _check_checkpoint(config, workdir, mode)
    _check_writable(workdir)


def _check_profile(config: ml_collections.ConfigDict) -> None:
    """Checks that a new run traces a step of config.training.profile_steps, if there are any."""
    steps, last = config.training.profile_steps, config.training.num_steps
    traced = traced_steps(steps)
    expected = (
        f"empty, or have a step from 2 to config.training.num_steps, {last}: step 1 compiles, and "
        "is not traced"
    )
    holds = not steps or (traced and traced[0] <= last)
    require(config, "training.profile_steps", holds, expected)


def _check_rehearsal(config: ml_collections.ConfigDict, workdir: AnyPath | None) -> None:
    mesh, training = make_mesh(config), config.training
    check_divides(mesh, training.batch_size, "training.batch_size", training.accumulate)
    require(config, "checkpoint", not config.checkpoint, "empty for --mode=rehearse")
    if workdir is not None:
        _check_apart(config, workdir)
    rehearsed = rehearsal_config(config)
    check_sampling(rehearsed)
    try:
        for split in ("train", "test"):
            make_data_set(rehearsed, split)
    except (ValueError, OSError) as error:
        hint = "--config.rehearse.data=zeros rehearses without data"
        raise ValueError(f"{error}; {hint}") from error
    if workdir is not None:
        check_same_run(config, workdir)
        check_rehearsal_folder(workdir)
        _check_writable(workdir)
    elif jax.process_count() > 1:
        raise ValueError("--workdir is required to rehearse with several processes")
    check_warm_start(config, workdir)


def _check_plan(config: ml_collections.ConfigDict, workdir: AnyPath | None) -> None:
    check_sampling(preview_config(config))
    check_steps(config)
    if output := plan_file(config, workdir):
        _check_kind(output, is_folder=False)
        _check_writable(output.parent)


def check_sampling(config: ml_collections.ConfigDict) -> None:
    """Checks config.sample.task, and the caption, videos or second model that it needs.

    Raises:
      ValueError, OSError: the message names the field, the file or the frame.
    """
    check_task(config)
    sample = config.sample
    if config.data.condition == "text" and sample.caption:
        encode_given(config, sample.caption)
    if sample.task == "cascade":
        _check_base_model(config)
    elif sample.task != "generate" and sample.observed:
        load_observed(config)
    if sample.task == "extend" and config.extend.key_frame_checkpoint:
        key_frame_config(config)


def _check_base_model(config: ml_collections.ConfigDict) -> None:
    """Checks that the low-resolution model of a cascade fits this one."""
    path, resolution = config.cascade.base_checkpoint, config.data.resolution
    check_exists(as_path(path), "cascade.base_checkpoint")
    found = from_record(load_exported_config(as_path(path))[0], path)
    base = found.data
    for field in ("data.channels", "data.condition", "data.frame_rate", "cascade.frameskip"):
        name, value = field.partition(".")[2], value_of(config, field)
        if base[name] != value:
            raise ValueError(
                f"{path} has data.{name} {base[name]!r}, and config.{field} is {value!r}"
            )
    check_same_classes(config, found, path)
    if resolution % base["resolution"]:
        raise ValueError(
            f"{path} has data.resolution {base['resolution']}, which does not divide "
            f"config.data.resolution, {resolution}"
        )
    frames = found.extend.num_frames if found.sample.task == "extend" else base.frames
    reach = frames * config.cascade.frameskip
    expected = f"at most {reach}, the {frames} frames of {path} times config.cascade.frameskip"
    require(config, "cascade.num_frames", config.cascade.num_frames <= reach, expected)
    if found.model.num_classes != config.model.num_classes:
        raise ValueError(
            f"{path} has model.num_classes {found.model.num_classes}, and config.model.num_classes "
            f"is {config.model.num_classes}"
        )
    if needs_held_out(config):
        make_data_set(base_conditions_config(config, found), "test")


def _check_evaluation(config: ml_collections.ConfigDict) -> None:
    if config.eval.protocol == "moving_digits":
        expected = "empty for config.eval.protocol 'moving_digits', which reports real videos"
        require(config, "eval.baseline", not config.eval.baseline, expected)
        expected = "1 for config.eval.protocol 'moving_digits', which measures one set of samples"
        require(config, "eval.repeats", config.eval.repeats == 1, expected)
        expected = (
            "'moving_digits' for config.eval.protocol 'moving_digits': videos of any data set have "
            "--config.eval.protocol=fvd"
        )
        require(config, "data.name", config.data.name == "moving_digits", expected)
        return
    protocol, last = protocol_of(config), 2**32 - config.eval.repeats
    expected = (
        f"at most {last}: config.eval.repeats is {config.eval.repeats}, and each repeat has the "
        "next seed"
    )
    require(config, "sample.seed", config.sample.seed <= last, expected)
    if "ssim" in protocol.metrics:
        name = f"config.eval.protocol {protocol.name!r}, which has SSIM"
        fits = config.data.resolution >= SSIM_WINDOW
        require(config, "data.resolution", fits, f"at least {SSIM_WINDOW} for {name}")
    sources = real_sources(config, protocol)
    extractors = make_extractors(protocol)
    protocol, missing = measurable(protocol, extractors)
    for sentence in missing:
        print(f"warning: {sentence}", flush=True)
    check_numbers(protocol, sources)
    check_pairs(config, protocol, sources)
    needed = max([protocol.min_frames, *(network.min_frames for network in extractors.values())])
    if protocol.frames < needed:
        raise ValueError(
            f"config.eval.protocol {protocol.name!r} needs videos of at least {needed} frames, and "
            f"this configuration has {protocol.frames}"
        )


def _check_checkpoint(config: ml_collections.ConfigDict, workdir: AnyPath, mode: str) -> None:
    if mode in ("train", "export"):
        expected = f"empty for --mode={mode}"
        if mode == "train":
            expected += ": --config.training.init_from=FILE starts from its weights"
        require(config, "checkpoint", not config.checkpoint, expected)
    if mode == "train" or config.checkpoint:
        expected = f"empty for --mode={mode}" if mode == "train" else "empty with config.checkpoint"
        require(config, "step", not config.step, expected)
    if mode == "train":
        config = with_classes(config)
        check_same_run(config, workdir)
        check_warm_start(config, workdir)
    elif mode != "eval" or not config.eval.baseline:
        check_weights(config, workdir)


def _check_apart(config: ml_collections.ConfigDict, workdir: AnyPath) -> None:
    """Checks that no sample or preview of the workdir can become a training video."""
    if config.data.name != "folder" or not config.data.path or is_remote(workdir):
        return
    folder = os.path.realpath(local_path(config.data.path))
    real = os.path.realpath(workdir)
    if os.path.commonpath([folder, real]) == folder:
        raise ValueError(
            f"--workdir is {workdir}, and must be outside of config.data.path, {config.data.path}: "
            "its sample videos would become training videos"
        )


def _check_kind(path: AnyPath, *, is_folder: bool) -> None:
    """Checks that an existing path is a folder, or is a file; object stores have no folders."""
    if is_remote(path) or not os.path.lexists(path):
        return
    if is_folder and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file or a dangling link, and must be a folder")
    if not is_folder and path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, and must be a file")


def _check_writable(folder: AnyPath) -> None:
    try:
        if is_remote(folder):
            probe = folder / f".{uuid.uuid4().hex}"
            probe.write_text("")
            probe.unlink()
            return
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except Exception as error:  # Object stores raise exceptions of many types.
        reason = getattr(error, "strerror", None) or first_line(error)
        raise OSError(f"workdir {folder} cannot be written: {reason}") from error
