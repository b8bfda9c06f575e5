"""Moving digits, class-conditional: handwritten digits that bounce in a box. Not in the paper.

    python -m vdm.main --config=configs/moving_digits.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/moving_digits.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/moving_digits.py --workdir=DIR --mode=eval

`launch/quickstart` runs all three. The data are included: no preparation is needed.

Hardware: two CPU cores, 8 to 17 minutes for all three commands, no accelerator.
Expected: digits that keep the shape of their label while they move. Digit persistence, measured on
128 samples (docs/moving_digits.md):

    ours   0.961 +- 0.017   (0.977 for real videos)

Unconditional and text-to-video models of the same data:

    --config.data.condition=none --config.model.num_classes=0
    --config.data.condition=text --config.model.num_classes=0 --config.model.text_width=32

Joint training on independent images: --config.data.num_images=4.

Differs from the paper's models:

- To be small: 16 channels at full resolution, one block per resolution, attention at half the
  resolution and below, upsampling that narrows the channels, no independent images.
- To learn in minutes: Muon instead of Adam, a shifted noise schedule, stratified times, a ramp of
  the EMA.

Digits move left and right; with --config.data.motion=any, they move in eight directions, which
takes far longer to learn.
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "moving_digits"
    config.data.frames = 16
    config.data.resolution = 12
    config.data.motion = "horizontal"
    config.data.speed = 0.5
    config.data.channels = 1
    config.data.num_images = 0
    config.data.condition = "label"
    config.data.text_tokens = 8

    config.model.base_channels = 16
    config.model.channel_multipliers = (1, 2, 4)
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
    # 16 nearly equal frames carry the information of one frame at a log-SNR higher by log 16 = 2.8
    # (Hoogeboom et al. 2023, arXiv 2301.11093, section 3.1, for pixels).
    config.diffusion.log_snr_shift = -2.0

    config.training.batch_size = 8
    config.training.num_steps = 3_500
    config.training.optimizer = "muon"
    config.training.learning_rate = 4e-3
    config.training.warmup_steps = 100
    config.training.decay_steps = 1_200
    config.training.ema_decay = 0.998
    config.training.ema_ramp = True
    config.training.log_every = 50
    config.training.checkpoint_every = 250
    config.training.sample_every = 1_000

    config.sample.sampler = "dpmpp_2m"
    config.sample.num_steps = 12
    config.sample.guidance_weight = 3.0
    # Limits a guided step to twice the memory of an unguided one, instead of nine times.
    config.sample.reconstruction_micro_batch = 4

    config.eval.num_videos = 128
    return config
