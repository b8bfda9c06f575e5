"""A cascade of two models of moving digits: 64 frames by super-resolution in time and space.

The cascade of section 4.3, with small models that are not in the paper and train in minutes.

    python -m vdm.main --config=configs/moving_digits_cascade.py:low --workdir=low --mode=train
    python -m vdm.main --config=configs/moving_digits_cascade.py:low --workdir=low --mode=export
    python -m vdm.main --config=configs/moving_digits_cascade.py:high --workdir=high --mode=train
    python -m vdm.main --config=configs/moving_digits_cascade.py:high --workdir=high \
        --mode=sample --config.cascade.base_checkpoint=low/model.safetensors

The last command, with --mode=eval instead, measures digit persistence. The data are included: no
preparation is needed.

`low` generates 16 frames at frameskip 4 and 6x6 pixels. `high`, a model of 9 frames at frameskip 1
and 12x12 pixels, upsamples them: each block observes its low-resolution frames and the last 3
high-resolution frames of the previous block. The two models train independently.

Hardware: two CPU cores, about 15 minutes of training for both at once and 3 minutes to sample.
Expected: digits that keep their shape and glide over all 64 frames, a little softer than those of
configs/moving_digits.py. docs/conditional_sampling.md has a picture.

Differs from configs/moving_digits.py in the sizes, and from the paper's models like that file.
"""

from vdm.config import default_config

STAGES = ("low", "high")


def get_config(stage="high"):
    if stage not in STAGES:
        raise ValueError(f"the stage after the colon is {stage!r}, and must be low or high")
    low = stage == "low"
    config = default_config()

    config.data.name = "moving_digits"
    config.data.frames = 16 if low else 9
    config.data.frameskip = 4 if low else 1
    config.data.downsample = 2 if low else 1
    config.data.resolution = 6 if low else 12
    config.data.motion = "horizontal"
    config.data.speed = 0.5
    config.data.channels = 1
    config.data.num_images = 0
    config.data.condition = "label"
    config.data.text_tokens = 8

    config.model.base_channels = 32 if low else 16
    config.model.channel_multipliers = (1, 2) if low else (1, 2, 4)
    config.model.blocks_per_resolution = 1
    config.model.attention_resolutions = (3, 6)
    config.model.head_dim = 16
    config.model.embedding_dim = 128
    config.model.embedding_layers = 2
    config.model.num_classes = 10
    config.model.max_relative_distance = 15
    config.model.attention_bias = False
    config.model.narrow_upsampling = True
    config.model.dtype = "float32"

    config.diffusion.target = "v"
    config.diffusion.time_sampling = "stratified"
    config.diffusion.log_snr_shift = -2.0  # as in configs/moving_digits.py

    config.training.batch_size = 8
    config.training.num_steps = 3_000
    config.training.optimizer = "muon"
    config.training.learning_rate = 4e-3
    config.training.warmup_steps = 100
    config.training.decay_steps = 1_000
    config.training.ema_decay = 0.998
    config.training.ema_ramp = True
    config.training.log_every = 50
    config.training.checkpoint_every = 250
    config.training.sample_every = 0

    config.sample.task = "generate" if low else "cascade"
    # With a large reconstruction weight, dpmpp_2m would leave noise in the observed frames.
    config.sample.sampler = "dpmpp_2m" if low else "ancestral"
    config.sample.num_steps = 24 if low else 48
    config.sample.guidance_weight = 2.0
    config.sample.reconstruction_weight = 8.0

    config.cascade.frameskip = 4
    config.cascade.num_frames = 64
    config.cascade.overlap = 3

    config.eval.num_videos = 128
    return config
