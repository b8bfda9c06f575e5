"""Checks of a configuration's values: the rules of vdm/rules.py, then rules across fields.

These need no file, data set or device; vdm/preflight.py has the checks that do.
"""

import ml_collections

from vdm.diffusion.distillation import STUDENT_TARGETS
from vdm.diffusion.samplers import CONDITIONINGS
from vdm.rules import RULES, check_field, require, value_of

# sigmoid(-log_snr), a variance that samplers divide by, is 0 in float32 from a log-SNR of 87.5.
_MAX_LOG_SNR = 80.0
_MAX_ATTENTION = 32  # the highest resolution at which the paper's models attend


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks the value of every field, and fields that depend on each other.

    `check_task` checks the task of config.sample.

    Raises:
      ValueError: the message names the field, its value and what is allowed.
    """
    for field in RULES:
        check_field(config, field)
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
        check_frame_times(config)
    elif sample.task != "generate" and sample.conditioning == "repaint":
        expected = "a single-step sampler where config.sample.conditioning is 'repaint'"
        require(config, "sample.sampler", sample.sampler != "dpmpp_2m", expected)


def check_frame_times(config: ml_collections.ConfigDict) -> None:
    """Checks that a model that observes frames by diffusion forcing was trained to do so.

    Raises:
      ValueError: it was trained with one noise level per video.
    """
    conditioning, times = config.sample.conditioning, config.diffusion.frame_times
    choices = ", ".join(repr(name) for name in CONDITIONINGS if name != "diffusion_forcing")
    expected = (
        f"one of {choices}, since config.diffusion.frame_times is {times!r}: the model was not "
        "trained with one noise level per frame"
    )
    fits = conditioning != "diffusion_forcing" or times != "shared"
    require(config, "sample.conditioning", fits, expected)


def _check_extension(config: ml_collections.ConfigDict) -> None:
    """Checks the fields of config.extend.method."""
    extend, frames = config.extend, config.data.frames
    expected = f"more than {extend.num_given}, the observed frames (config.extend.num_given)"
    require(config, "extend.num_frames", extend.num_frames > extend.num_given, expected)
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


def _check_schedules(config: ml_collections.ConfigDict) -> None:
    diffusion, training = config.diffusion, config.training
    limit = diffusion.log_snr_max
    expected = f"less than diffusion.log_snr_max, {limit}"
    require(config, "diffusion.log_snr_min", diffusion.log_snr_min < limit, expected)
    low, high = -_MAX_LOG_SNR, _MAX_LOG_SNR
    for name, first, last in (
        ("log_snr_min", low, high),
        ("log_snr_max", low, high),
        ("log_snr_shift", low - diffusion.log_snr_min, high - diffusion.log_snr_max),
    ):
        expected = f"from {first} to {last}: float32 rounds variances at other log-SNRs to 0"
        require(config, f"diffusion.{name}", first <= diffusion[name] <= last, expected)
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
    count = model.num_classes
    expected = f"empty, or {count} names, config.model.num_classes"
    require(config, "data.classes", len(config.data.classes) in (0, count), expected)
    expected = f"less than config.model.num_classes, {count}"
    if condition != "label":
        expected = f"-1, since the model has no labels: config.data.condition is {condition!r}"
    require(config, "sample.label", sample.label < count, expected)
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
