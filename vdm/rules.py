"""The rule of each field of a configuration: its allowed values, independent of other fields.

vdm/checks.py has the rules across fields.
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
from vdm.diffusion.distillation import WEIGHTINGS
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


def _are_different_names(value: Sequence) -> bool:
    return all(isinstance(x, str) and x for x in value) and len(set(value)) == len(value)


def _fits_32_bits(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_fits_32_bits, value))
    limit = _MAX_FLOAT if isinstance(value, float) else _MAX_INTEGER
    return not isinstance(value, int | float) or abs(value) <= limit


FRACTION = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1")
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
    "data.classes": Rule(_are_different_names, "empty, or different names of classes"),
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
    "model.dropout": BELOW_ONE,
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
    "training.adam_b1": BELOW_ONE,
    "training.adam_b2": BELOW_ONE,
    "training.adam_eps": at_least(0),
    "training.weight_decay": at_least(0),
    "training.gradient_clip": at_least(0),
    "training.ema_decay": BELOW_ONE,
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


def check_field(config: ml_collections.ConfigDict, field: str) -> None:
    """Checks the value of a field 'section.name' by its rule.

    Raises:
      ValueError: the message names the field, its value and what is allowed.
    """
    rule, value = RULES[field], value_of(config, field)
    require(config, field, rule.allows(value), rule.expected)
    if rule is not SEED and field not in _ON_HOST:
        require(config, field, _fits_32_bits(value), "a number that 32 bits can hold")


def require(config: ml_collections.ConfigDict, field: str, holds: object, expected: str) -> None:
    """Raises ValueError with the field, its value and what it must be, unless `holds` is true."""
    if not holds:
        raise ValueError(f"config.{field} is {value_of(config, field)!r}, and must be {expected}")


def value_of(config: ml_collections.ConfigDict, field: str) -> Any:
    """Returns the value of a field 'section.name'."""
    for name in field.split("."):
        config = config[name]
    return config
