"""Moving digits: handwriting that drifts and bounces in a box, for any machine. Not in the paper.

    python -m vdm.main --config=configs/moving_digits.py --workdir=DIR --mode=train

or `launch/quickstart`, which also samples and evaluates. Two cores and no accelerator: about 10
minutes of training.
Expected: crisp digits that move and stay the digit that was asked for in most videos; persistence
0.85, where real videos have 0.98. docs/moving_digits.md has the measurements.

Other models of the same data, without a condition or with captions for one:

    --config.data.condition=none --config.model.num_classes=0
    --config.data.condition=text --config.model.num_classes=0 --config.model.text_width=32

and joint training on independent images: --config.data.num_images=4.

Differs from the paper's models in what makes it small, 16 channels at full resolution, one block a
resolution, and attention from half the resolution on, and in what makes it learn in minutes: Muon
instead of Adam, and a noise schedule that is shifted. Digits move left and right alone;
--config.data.motion=any lets them move in eight directions, which takes far longer to learn.
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
    config.model.dtype = "float32"

    config.diffusion.target = "v"
    # 16 nearly equal frames have the information of one at a log-SNR that is log 16 = 2.8 higher
    # (Hoogeboom et al. 2023, arXiv 2301.11093, section 3.2, of pixels).
    config.diffusion.log_snr_shift = -2.0

    config.training.batch_size = 8
    config.training.num_steps = 3_000
    config.training.optimizer = "muon"
    config.training.learning_rate = 4e-3
    config.training.warmup_steps = 100
    config.training.decay_steps = 1_000
    config.training.ema_decay = 0.998
    config.training.log_every = 50
    config.training.checkpoint_every = 250
    config.training.sample_every = 1_000

    config.sample.sampler = "dpmpp_2m"
    config.sample.num_steps = 24
    config.sample.guidance_weight = 2.0
    # A guided step in twice the memory of an unguided one, rather than nine times.
    config.sample.reconstruction_micro_batch = 4
    config.eval.num_videos = 128
    return config
