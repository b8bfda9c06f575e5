"""Checks of a configuration's values: one rule per field, then rules across fields.

These need no file, data set or device; vdm/preflight.py has the checks that do.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from vdm.data.batches import CONDITIONS
from vdm.data.clips import STARTS
from vdm.data.datasets import DATA_SETS, ZEROS
from vdm.data.moving_digits import MOTIONS
from vdm.data.tfds.registry import CAMERAS
from vdm.diffusion.conditioning import DOWNSAMPLINGS
from vdm.diffusion.distillation import STUDENT_TARGETS, WEIGHTINGS
from vdm.diffusion.guidance import NORMALIZATIONS
from vdm.diffusion.loss import FRAME_TIMES, LOSS_WEIGHTINGS, TIME_SAMPLINGS
from vdm.diffusion.process import TARGETS
from vdm.diffusion.samplers import CONDITIONINGS, SAMPLERS
from vdm.evaluation.baselines import BASELINES
from vdm.metrics.protocols import PROTOCOLS
from vdm.models.unet import DTYPES, REMAT, SPATIAL_ATTENTION
from vdm.planning.hardware.peaks import HARDWARE
from vdm.sampling.tasks import EXTENSIONS, TASKS
from vdm.training.state import OPTIMIZERS
from vdm.video.timing import MAX_FRAME_RATE

OPTIMIZATION_LEVELS = ("O0", "O1", "O2", "O3")
# Devices have numbers of 32 bits.
_MAX_INTEGER, _MAX_FLOAT = 2**31 - 1, float(np.finfo(np.float32).max)
_MAX_ATTENTION = 32  # the highest resolution at which the paper's models attend
# Intervals and limits of the host, where a huge number means never, or all.
_ON_HOST = (
    *("data.num_workers", "data.prefetch", "plan.max_trials"),
    *("training.log_every", "training.checkpoint_every", "training.keep_checkpoints"),
    *("training.eval_every", "training.sample_every"),
    *("sample.max_video_files", "sample.reconstruction_micro_batch", "eval.shard_size"),
)


class Rule(NamedTuple):
    """The allowed values of a field."""

    allows: Callable[[Any], bool]
    expected: str  # the allowed values in words, to follow 'must be'


def one_of(choices: Sequence[str]) -> Rule:
    """Returns a rule that allows the strings in `choices`."""
    return Rule(lambda value: value in choices, "one of " + ", ".join(map(repr, choices)))


def at_least(bound: float) -> Rule:
    """Returns a rule that allows finite numbers of at least `bound`."""
    return Rule(lambda value: bound <= value < math.inf, f"at least {bound}")


def _is_range(value: Sequence) -> bool:
    is_number = [isinstance(x, int | float) and math.isfinite(x) for x in value]
    return len(value) == 2 and all(is_number) and 0 <= value[0] < value[1]


def _are_positive_integers(value: Sequence) -> bool:
    return all(type(x) is int and x >= 1 for x in value)


def _fits_32_bits(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_fits_32_bits, value))
    limit = _MAX_FLOAT if isinstance(value, float) else _MAX_INTEGER
    return not isinstance(value, int | float) or abs(value) <= limit


FRACTION = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
POSITIVE_FRACTION = Rule(lambda value: 0 < value <= 1, "more than 0 and at most 1")
FINITE = Rule(math.isfinite, "finite")
ANY = Rule(lambda value: True, "")
# JAX's keys take 32 bits of a seed.
SEED = Rule(lambda value: 0 <= value < 2**32, "from 0 to 4294967295")

RULES = {
    "seed": SEED,
    "checkpoint": ANY,
    "step": Rule(
        lambda value: value in ("", "best") or value.isdecimal(),
        "'' for the newest checkpoint, 'best', or the number of a step",
    ),
    "data.name": one_of(DATA_SETS),
    "data.path": ANY,
    "data.test_share": FRACTION,
    "data.tfds_dir": ANY,
    "data.tfds_config": ANY,
    "data.camera": one_of(CAMERAS),
    "data.frames": at_least(1),
    "data.resolution": at_least(1),
    "data.channels": Rule(lambda value: value in (1, 3), "1 (grey) or 3 (RGB)"),
    "data.frame_rate": Rule(
        lambda value: 0 <= value <= MAX_FRAME_RATE,
        f"0 for frames as stored, or positive and at most {MAX_FRAME_RATE} frames per second",
    ),
    "data.frameskip": at_least(1),
    "data.start": one_of(STARTS),
    "data.downsample": at_least(1),
    "data.motion": one_of(tuple(MOTIONS)),
    "data.speed": at_least(0),
    "data.num_images": at_least(0),
    "data.condition": one_of(CONDITIONS),
    "data.text_tokens": at_least(1),
    "data.text_encoder": ANY,
    "data.augment_flip": ANY,
    "data.num_workers": at_least(1),
    "data.prefetch": at_least(1),
    "model.base_channels": at_least(1),
    "model.channel_multipliers": Rule(
        lambda value: len(value) > 0 and _are_positive_integers(value),
        "one positive integer per resolution",
    ),
    "model.blocks_per_resolution": at_least(1),
    "model.attention_resolutions": Rule(_are_positive_integers, "empty, or positive integers"),
    "model.head_dim": at_least(1),
    "model.embedding_dim": Rule(
        lambda value: value >= 4 and value % 4 == 0, "a positive multiple of 4"
    ),
    "model.embedding_layers": at_least(1),
    "model.dropout": FRACTION,
    "model.num_classes": at_least(0),
    "model.text_width": at_least(0),
    "model.action_width": at_least(0),
    "model.condition_dropout": FRACTION,
    "model.guidance_weights": Rule(
        lambda value: not value or _is_range(value),
        "empty, or the first and the last weight, two finite numbers of at least 0, the first less",
    ),
    "model.film": ANY,
    "model.max_relative_distance": at_least(0),
    "model.relative_position_scale": at_least(0),
    "model.attention_bias": ANY,
    "model.spatial_attention": one_of(SPATIAL_ATTENTION),
    "model.narrow_upsampling": ANY,
    "model.float32_ends": ANY,
    "model.patch_size": at_least(1),
    "model.remat": one_of(REMAT),
    "model.dtype": one_of(DTYPES),
    "diffusion.target": one_of(TARGETS),
    "diffusion.log_snr_min": FINITE,
    "diffusion.log_snr_max": FINITE,
    "diffusion.log_snr_shift": FINITE,
    "diffusion.time_sampling": one_of(TIME_SAMPLINGS),
    "diffusion.frame_times": one_of(FRAME_TIMES),
    "diffusion.loss_weighting": one_of(LOSS_WEIGHTINGS),
    "diffusion.clip": ANY,
    "training.batch_size": at_least(1),
    "training.accumulate": at_least(1),
    "training.num_steps": at_least(1),
    "training.init_from": ANY,
    "training.distill_steps": at_least(0),
    "training.distill_weighting": one_of(WEIGHTINGS),
    "training.learning_rate": at_least(0),
    "training.warmup_steps": at_least(0),
    "training.decay_steps": at_least(0),
    "training.optimizer": one_of(OPTIMIZERS),
    "training.adam_b1": FRACTION,
    "training.adam_b2": FRACTION,
    "training.adam_eps": at_least(0),
    "training.weight_decay": at_least(0),
    "training.gradient_clip": at_least(0),
    "training.ema_decay": FRACTION,
    "training.ema_ramp": ANY,
    "training.log_every": at_least(1),
    "training.checkpoint_every": at_least(1),
    "training.keep_checkpoints": at_least(1),
    "training.eval_every": at_least(0),
    "training.sample_every": at_least(0),
    "training.profile_steps": Rule(
        lambda value: (
            not value
            or (len(value) == 2 and _are_positive_integers(value) and value[0] <= value[1])
        ),
        "empty, or the first and the last step to profile",
    ),
    "training.wandb_project": ANY,
    "mesh.fsdp": at_least(1),
    "sample.task": one_of(tuple(TASKS)),
    "sample.sampler": one_of(tuple(SAMPLERS)),
    "sample.num_steps": at_least(1),
    "sample.gamma": FRACTION,
    "sample.langevin_step_size": at_least(0),
    "sample.seed": SEED,
    "sample.label": at_least(-1),
    "sample.caption": ANY,
    "sample.action": Rule(
        lambda value: all(isinstance(x, int | float) and math.isfinite(x) for x in value),
        "empty, or finite numbers",
    ),
    "sample.guidance_weight": at_least(0),
    "sample.observed": ANY,
    "sample.conditioning": one_of(CONDITIONINGS),
    "sample.reconstruction_weight": at_least(0),
    "sample.reconstruction_clip": one_of(("after", "before")),
    "sample.reconstruction_normalization": one_of(NORMALIZATIONS),
    "sample.reconstruction_data_variance": at_least(0),
    "sample.reconstruction_micro_batch": at_least(0),
    "sample.return_observed": ANY,
    "sample.repaint_jump_length": at_least(1),
    "sample.repaint_repeats": at_least(1),
    "sample.history_guidance_weight": at_least(0),
    "sample.history_guidance_noise": FRACTION,
    "sample.context_noise": FRACTION,
    "sample.per_example": at_least(1),
    "sample.num_videos": at_least(1),
    "sample.batch_size": at_least(1),
    "sample.max_video_files": at_least(0),
    "predict.num_given": at_least(1),
    "predict.stride": at_least(0),
    "extend.num_frames": at_least(1),
    "extend.num_given": at_least(0),
    "extend.overlap": at_least(1),
    "extend.stride": at_least(1),
    "extend.method": one_of(tuple(EXTENSIONS)),
    "extend.key_frame_interval": at_least(2),
    "extend.key_frame_checkpoint": ANY,
    "interpolate.every": at_least(2),
    "upsample.factor": at_least(1),
    "upsample.downsampling": one_of(DOWNSAMPLINGS),
    "cascade.base_checkpoint": ANY,
    "cascade.num_frames": at_least(1),
    "cascade.frameskip": at_least(1),
    "cascade.overlap": at_least(1),
    "eval.protocol": one_of(("moving_digits", *PROTOCOLS)),
    "eval.baseline": one_of(BASELINES),
    "eval.num_videos": at_least(1),
    "eval.repeats": at_least(1),
    "eval.log_snr_bins": at_least(1),
    "eval.batch_size": at_least(1),
    "eval.shard_size": at_least(1),
    "rehearse.data": one_of(("real", ZEROS)),
    "plan.topology": ANY,
    "plan.devices": at_least(0),
    "plan.hardware": one_of(("", *HARDWARE)),
    "plan.steps": ANY,
    "plan.optimization_level": one_of(("", *OPTIMIZATION_LEVELS)),
    "plan.max_trials": at_least(0),
    "plan.compute_efficiency": POSITIVE_FRACTION,
    "plan.memory_efficiency": POSITIVE_FRACTION,
    "plan.link_efficiency": POSITIVE_FRACTION,
    "plan.output": ANY,
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks the value of every field, and fields that depend on each other.

    `check_task` checks the task of config.sample.

    Raises:
      ValueError: the message names the field, its value and what is allowed.
    """
    for field, rule in RULES.items():
        value = value_of(config, field)
        require(config, field, rule.allows(value), rule.expected)
        if rule is not SEED and field not in _ON_HOST:
            require(config, field, _fits_32_bits(value), "a number that 32 bits can hold")
    _check_schedules(config)
    _check_model(config)
    _check_condition(config)
    _check_student(config)


def check_task(config: ml_collections.ConfigDict) -> None:
    """Checks the fields of config.sample.task, and its method and sampler.

    Raises:
      ValueError: the message names the field, its value and what is allowed.
    """
    frames, resolution, sample = config.data.frames, config.data.resolution, config.sample
    if sample.task in ("generate", "cascade"):
        expected = f"empty for config.sample.task {sample.task!r}, which observes no videos"
        require(config, "sample.observed", not sample.observed, expected)
    if sample.task == "predict":
        _in_range(config, "predict.num_given", 1, frames - 1)
    elif sample.task == "extend":
        _in_range(config, "extend.num_given", 1 if sample.observed else 0, frames)
        _in_range(config, "extend.overlap", 1, frames - 1)
        _in_range(config, "extend.stride", 1, frames - config.extend.overlap)
        _check_extension(config)
    elif sample.task == "cascade":
        _in_range(config, "cascade.overlap", 1, frames - 1)
        path = config.cascade.base_checkpoint
        require(config, "cascade.base_checkpoint", path, "an exported .safetensors file")
    elif sample.task == "upsample":
        expected = f"a divisor of config.data.resolution, {resolution}"
        require(config, "upsample.factor", resolution % config.upsample.factor == 0, expected)
    if config.data.condition == "action":
        # The actions of a held-out video are those of one block.
        allowed = sample.task != "cascade" and (sample.task != "extend" or sample.action)
        expected = "generate, predict, interpolate or upsample, or extend with config.sample.action"
        where = "where config.data.condition is 'action'"
        require(config, "sample.task", allowed, f"{expected}, {where}")
    if sample.task in ("upsample", "cascade"):
        expected = f"'reconstruction' for the task {sample.task!r}, which observes a low resolution"
        require(config, "sample.conditioning", sample.conditioning == "reconstruction", expected)
    elif sample.task != "generate" and sample.conditioning == "diffusion_forcing":
        times = config.diffusion.frame_times
        choices = ", ".join(repr(name) for name in CONDITIONINGS if name != sample.conditioning)
        expected = (
            f"one of {choices}, since config.diffusion.frame_times is {times!r}: the model was not "
            "trained with one noise level per frame"
        )
        require(config, "sample.conditioning", times != "shared", expected)
    elif sample.task != "generate" and sample.conditioning == "repaint":
        expected = "a single-step sampler where config.sample.conditioning is 'repaint'"
        require(config, "sample.sampler", sample.sampler != "dpmpp_2m", expected)


def _check_extension(config: ml_collections.ConfigDict) -> None:
    """Checks the fields of config.extend.method."""
    extend, frames = config.extend, config.data.frames
    where = f"where config.extend.method is {extend.method!r}"
    if extend.method != "autoregressive":
        new = frames - extend.overlap
        expected = f"{new}, config.data.frames less config.extend.overlap, {where}"
        require(config, "extend.stride", extend.stride == new, expected)
    if extend.method == "joint":
        expected = f"at least {frames}, config.data.frames, {where}"
        require(config, "extend.num_frames", extend.num_frames >= frames, expected)
        expected = f"0 {where}: its blocks observe no generated frames"
        require(config, "sample.context_noise", not config.sample.context_noise, expected)
    if extend.method == "key_frames":
        _in_range(config, "extend.key_frame_interval", 2, frames - extend.overlap)
        reach = frames * extend.key_frame_interval
        expected = (
            f"at most {reach}, config.data.frames times config.extend.key_frame_interval, {where}"
        )
        require(config, "extend.num_frames", extend.num_frames <= reach, expected)
    else:
        expected = f"empty {where}"
        require(config, "extend.key_frame_checkpoint", not extend.key_frame_checkpoint, expected)


def require(config: ml_collections.ConfigDict, field: str, holds: object, expected: str) -> None:
    """Raises ValueError with the field, its value and what it must be, unless `holds` is true."""
    if not holds:
        raise ValueError(f"config.{field} is {value_of(config, field)!r}, and must be {expected}")


def value_of(config: ml_collections.ConfigDict, field: str) -> Any:
    """Returns the value of a field 'section.name'."""
    for name in field.split("."):
        config = config[name]
    return config


def _check_schedules(config: ml_collections.ConfigDict) -> None:
    diffusion, training = config.diffusion, config.training
    limit = diffusion.log_snr_max
    expected = f"less than diffusion.log_snr_max, {limit}"
    require(config, "diffusion.log_snr_min", diffusion.log_snr_min < limit, expected)
    steps = training.num_steps
    expected = f"at most config.training.num_steps, {steps}"
    require(config, "training.warmup_steps", training.warmup_steps <= steps, expected)
    steps -= training.warmup_steps
    expected = f"at most {steps}, config.training.num_steps less config.training.warmup_steps"
    require(config, "training.decay_steps", training.decay_steps <= steps, expected)


def check_attention(config: ml_collections.ConfigDict) -> None:
    """Checks that a new network attends at a resolution that it has, or nowhere by choice.

    Raises:
      ValueError: it would have no attention, which alone connects frames; the message has the
        resolutions.
    """
    chosen, sizes = config.model.attention_resolutions, _resolutions(config)
    low = tuple(size for size in sizes if size <= _MAX_ATTENTION) or sizes[-1:]
    expected = (
        f"empty, or have one of {', '.join(map(str, sizes))}, the resolutions of the network, such "
        f"as {low}: attention alone connects frames"
    )
    fits = not chosen or set(chosen) & set(sizes)
    require(config, "model.attention_resolutions", fits, expected)


def _resolutions(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Returns the height of frames at each level of the network, in patches."""
    model = config.model
    side = config.data.resolution // model.patch_size
    return tuple(side // 2**level for level in range(len(model.channel_multipliers)))


def _check_model(config: ml_collections.ConfigDict) -> None:
    model, resolution = config.model, config.data.resolution
    stride = model.patch_size * 2 ** (len(model.channel_multipliers) - 1)
    factors = "model.patch_size times the stride of model.channel_multipliers"
    nearest = max(1, round(resolution / stride)) * stride
    expected = f"divisible by {stride}, {factors}, such as {nearest}"
    require(config, "data.resolution", resolution % stride == 0, expected)
    for size, multiplier in zip(_resolutions(config), model.channel_multipliers, strict=True):
        channels = model.base_channels * multiplier
        divides = channels % model.head_dim == 0 or size not in model.attention_resolutions
        expected = f"a divisor of {channels}, the channels at resolution {size}"
        require(config, "model.head_dim", divides, expected)


def _check_condition(config: ml_collections.ConfigDict) -> None:
    condition, model, sample = config.data.condition, config.model, config.sample
    widths = (("num_classes", "label"), ("text_width", "text"), ("action_width", "action"))
    for field, kind in widths:
        agrees = (model[field] > 0) == (condition == kind)
        sign = "positive" if condition == kind else "0"
        require(config, f"model.{field}", agrees, f"{sign} where data.condition is {condition!r}")
    expected = f"less than config.model.num_classes, {model.num_classes}"
    if condition != "label":
        expected = f"-1, since the model has no labels: config.data.condition is {condition!r}"
    require(config, "sample.label", sample.label < model.num_classes, expected)
    expected = f"empty, since the model has no captions: config.data.condition is {condition!r}"
    require(config, "sample.caption", not sample.caption or condition == "text", expected)
    width = model.action_width
    expected = f"empty, or {width} numbers, config.model.action_width"
    if not width:
        expected = f"empty, since the model has no actions: config.data.condition is {condition!r}"
    require(config, "sample.action", len(sample.action) in (0, width), expected)
    if condition == "action":
        where = "where config.data.condition is 'action'"
        require(config, "data.augment_flip", not config.data.augment_flip, f"False {where}")
        require(config, "data.frameskip", config.data.frameskip == 1, f"1 {where}")


def _check_student(config: ml_collections.ConfigDict) -> None:
    """Checks the target of a student, and that samples have the steps and weights it learned."""
    num_steps, weights = config.training.distill_steps, config.model.guidance_weights
    target, choices = config.diffusion.target, " or ".join(map(repr, STUDENT_TARGETS))
    if num_steps or weights:
        unweighted = config.diffusion.loss_weighting == "none"
        expected = "'none' for a student, whose loss has config.training.distill_weighting"
        require(config, "diffusion.loss_weighting", unweighted, expected)
        _check_student_of_forcing(config)
    if weights:
        where = "where config.model.guidance_weights is set"
        require(config, "diffusion.target", target in STUDENT_TARGETS, f"{choices} {where}")
        conditional = config.data.condition != "none"
        require(config, "data.condition", conditional, f"label, text or action {where}")
        first, last = weights
        fits = first <= config.sample.guidance_weight <= last
        expected = f"{first} to {last}, config.model.guidance_weights: the student learned no other"
        require(config, "sample.guidance_weight", fits, expected)
    if num_steps:
        of = f"of {num_steps} step{'s' if num_steps > 1 else ''} (config.training.distill_steps)"
        expected = f"{choices} for a student {of}"
        require(config, "diffusion.target", target in STUDENT_TARGETS, expected)
        expected = f"'ddim' for a student {of}"
        require(config, "sample.sampler", config.sample.sampler == "ddim", expected)
        expected = f"{num_steps} for a student {of}, which takes no other number"
        require(config, "sample.num_steps", config.sample.num_steps == num_steps, expected)
        expected = f"0 for a student {of}, whose objective is not the held-out loss"
        require(config, "training.eval_every", not config.training.eval_every, expected)
        if not weights and config.data.condition != "none":
            expected = (
                f"0 or 1 for a student {of}: equation 6 holds for its teacher, and "
                "config.model.guidance_weights distils it"
            )
            require(
                config, "sample.guidance_weight", config.sample.guidance_weight in (0, 1), expected
            )


def _check_student_of_forcing(config: ml_collections.ConfigDict) -> None:
    """Checks that a student of diffusion forcing observes first frames, in training and samples."""
    sample, reason = config.sample, "for a student, which learned to observe first frames"
    if config.diffusion.frame_times == "shared":
        return
    # With all frames observed there is none to learn from, and the loss is not defined.
    _in_range(config, "predict.num_given", 1, config.data.frames - 1)
    if sample.conditioning != "diffusion_forcing":
        return
    prefix = sample.task != "interpolate"
    require(config, "sample.task", prefix, f"generate, predict or extend {reason} alone")
    in_order = sample.task != "extend" or config.extend.method != "key_frames"
    require(config, "extend.method", in_order, f"'autoregressive' or 'joint' {reason} alone")
    unguided = sample.history_guidance_weight == 1.0
    require(config, "sample.history_guidance_weight", unguided, f"1 {reason} without noise")
    require(config, "sample.context_noise", not sample.context_noise, f"0 {reason} without noise")


def _in_range(config: ml_collections.ConfigDict, field: str, first: int, last: int) -> None:
    require(config, field, first <= value_of(config, field) <= last, f"{first} to {last}")
