"""UCF101, unconditional: appendix A, and table 1 of the paper.

    python -m vdm.main --config=configs/ucf101.py --workdir=DIR --mode=train

Hardware in the paper: 128 TPU v4 chips, 60,000 steps of 128 videos.
Expected, 10,000 samples, C3D features: FID 295 +- 3, Inception Score 57 +- 0.62 (real data 60.2).
Differs from the paper: nothing.
Fields that the paper does not fix say so in vdm/config.py.
docs/data.md says how the data set is made ready.
"""

from vdm.config import default_config


def get_config():
    config = default_config()
    config.data.name = "ucf101"
    config.data.tfds_config = "ucf101_1"
    config.data.condition = "none"

    # The lines of the paper's table, in its order.
    config.data.frames = 16
    config.data.resolution = 64
    config.data.frameskip = 1
    config.model.base_channels = 256
    config.model.channel_multipliers = (1, 2, 4, 8)
    config.model.blocks_per_resolution = 2
    config.model.head_dim = 64
    config.model.embedding_layers = 4
    config.training.weight_decay = 0.0
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.99
    config.training.learning_rate = 3e-4
    config.training.batch_size = 128
    config.training.ema_decay = 0.9999
    config.model.dropout = 0.1
    config.training.num_steps = 60_000
    config.data.num_images = 8
    config.diffusion.target = "eps"
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 256
    config.sample.gamma = 0.1
    config.data.augment_flip = False
    config.eval.protocol = "ucf101"
    return config
