"""Kinetics-600, 11 frames predicted from 5: appendix A, and table 3 of the paper.

    python -m vdm.main --config=configs/kinetics600.py --workdir=DIR --mode=train

Hardware in the paper: 256 TPU v4 chips, 220,000 steps of 256 videos.
Expected, 50,000 test videos: FVD 16.2 +- 0.34 and Inception Score 15.64 with this sampler; 18.6 and
15.39 with --config.sample.sampler=ancestral --config.sample.num_steps=256.
Differs from the paper: nothing. --mode=sample predicts from the frames of held-out videos.
Fields that the paper does not fix say so in vdm/config.py.
docs/data.md says how the data set is made ready.
"""

from vdm.config import default_config


def get_config():
    config = default_config()
    config.data.name = "kinetics600"
    config.data.tfds_config = "64x64"
    config.data.condition = "none"

    # The lines of the paper's table, in its order.
    config.data.frames = 16
    config.data.resolution = 64
    config.data.frameskip = 1
    config.model.base_channels = 256
    config.model.channel_multipliers = (1, 2, 4, 8)
    config.model.blocks_per_resolution = 2
    config.model.head_dim = 64
    config.model.embedding_layers = 2
    config.training.weight_decay = 0.0
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.99
    config.training.learning_rate = 2e-4
    config.training.batch_size = 256
    config.training.ema_decay = 0.9999
    config.model.dropout = 0.1
    config.training.num_steps = 220_000
    config.data.num_images = 8
    config.diffusion.target = "v"
    config.sample.sampler = "langevin"
    config.sample.num_steps = 128
    config.sample.gamma = 0.0
    config.sample.reconstruction_weight = 9.0
    config.data.augment_flip = False

    config.sample.task = "predict"
    config.predict.num_given = 5
    config.eval.protocol = "kinetics600"
    return config
