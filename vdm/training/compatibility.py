"""Checks that a configuration is compatible with an existing run or with saved weights."""

from collections.abc import Mapping

import ml_collections

from vdm.build import parameter_shapes
from vdm.configuration.stored import fields_of, from_record, load_run_config
from vdm.exported import load_exported_config
from vdm.files import AnyPath, as_path
from vdm.shipped import check_exists
from vdm.training.checkpoints import BEST, no_step, saved_steps

# Fields of the sections below that a resumed run may change: they change neither the parameters nor
# the clips.
_FREE = (
    *("model.dropout", "model.condition_dropout", "model.remat", "model.dtype"),
    *("model.float32_ends", "model.spatial_attention", "model.relative_position_scale"),
    *("data.path", "data.tfds_dir", "data.num_workers", "data.prefetch"),
)
_OF_MODEL = (
    *("model", "diffusion.target", "diffusion.frame_times", "data.channels", "data.condition"),
    *("data.classes", "training.distill_steps"),
)
# A student is trained only at the log-SNRs of its N steps.
_OF_STUDENT = ("diffusion.log_snr_min", "diffusion.log_snr_max", "diffusion.log_snr_shift")
_OF_RUN = (*_OF_MODEL, "data", "diffusion", "training.optimizer")


def check_same_run(config: ml_collections.ConfigDict, workdir: AnyPath) -> None:
    """Checks that a configuration can resume the run in a workdir, if there is one.

    Raises:
      ValueError: the model, the data, the diffusion or the optimizer differ; the message lists all
        differing fields.
    """
    saved = load_run_config(workdir)
    if saved is None or not saved_steps(workdir):
        return
    if differences := differing_fields(config, saved, _OF_RUN):
        raise ValueError(
            f"the run in {workdir} was trained with other settings: {'; '.join(differences)}. "
            "Resume it without --config, or choose another --workdir"
        )


def check_same_model(
    config: ml_collections.ConfigDict, saved: Mapping, name: str | AnyPath
) -> None:
    """Checks that weights belong to the model of a configuration.

    Args:
      config: the configuration of this command.
      saved: the configuration that the weights were trained with, or its record.
      name: what the error message calls the weights.

    Raises:
      ValueError: the model differs; the message lists all differing fields.
    """
    trained = from_record(saved, name)
    parts = _OF_MODEL + (_OF_STUDENT if trained.training.distill_steps else ())
    differences = differing_fields(config, trained, parts)
    if not differences and parameter_shapes(config) != parameter_shapes(trained, name):
        # The resolution decides at which levels there is attention.
        differences = differing_fields(config, trained, ("data",))
    if differences:
        raise ValueError(
            f"{name} was trained with a different model: {'; '.join(differences)}. "
            "Without --config and these options, its own configuration is used"
        )


def check_weights(config: ml_collections.ConfigDict, workdir: AnyPath) -> None:
    """Checks that there are weights to load, and that they belong to the model.

    Raises:
      FileNotFoundError: the file config.checkpoint does not exist.
      ValueError: the workdir has no checkpoint config.step, or the weights belong to a different
        model.
    """
    if config.checkpoint:
        path = as_path(config.checkpoint)
        check_exists(path)
        saved, _ = load_exported_config(path)
        check_same_model(config, saved, config.checkpoint)
    elif steps := saved_steps(workdir):
        if config.step not in ("", BEST) and int(config.step) not in steps:
            raise ValueError(no_step(config.step, steps))
        trained = load_run_config(workdir)
        if trained is None:
            raise ValueError(f"{workdir} has checkpoints, and no config.json that describes them")
        check_same_model(config, trained, f"the checkpoint in {workdir}")
    else:
        raise ValueError(
            f"no checkpoint in {workdir}: train first, or give --config.checkpoint=FILE.safetensors"
        )


def differing_fields(
    config: ml_collections.ConfigDict, trained: ml_collections.ConfigDict, parts: tuple[str, ...]
) -> list[str]:
    """Returns one phrase per field that differs, with both values.

    Args:
      config: the configuration of this command.
      trained: the configuration of a run.
      parts: what to compare: 'section' or 'section.name'.
    """
    ours, theirs = fields_of(config), fields_of(trained)
    return [
        f"its config.{field} is {theirs[field]!r}, and this configuration has {value!r}"
        for field, value in ours.items()
        if value != theirs[field]
        and field not in _FREE
        and (field != "data.classes" or (value and theirs[field]))  # empty: not known
        and any(field == part or field.startswith(f"{part}.") for part in parts)
    ]
