"""BAIR robot pushing, 15 frames predicted from 1: appendix A, and table 2 of the paper.

    python -m vdm.main --config=configs/bair.py --workdir=DIR --mode=train

Hardware in the paper: 128 TPU v4 chips, 660,000 steps of 128 videos.
Expected, 100 samples for each of the 256 test videos: FVD 66.92 with this sampler, and 68.19 with
--config.sample.sampler=ancestral --config.sample.num_steps=512.
Differs from the paper: nothing. --mode=sample predicts from the frames of held-out videos.
Fields that the paper does not fix say so in vdm/config.py.
docs/data.md says how the data set is made ready.
"""

from vdm.config import default_config


def get_config():
    config = default_config()
    config.data.name = "bair_robot_pushing_small"
    config.data.condition = "none"

    # The lines of the paper's table, in its order.
    config.data.frames = 16
    config.data.resolution = 64
    config.data.frameskip = 1
    config.model.base_channels = 128
    config.model.channel_multipliers = (1, 2, 3, 4)
    config.model.blocks_per_resolution = 3
    config.model.head_dim = 64
    config.model.embedding_layers = 2
    config.training.weight_decay = 0.01
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.999
    config.training.learning_rate = 2e-4
    config.training.batch_size = 128
    config.training.ema_decay = 0.999
    config.model.dropout = 0.1
    config.training.num_steps = 660_000
    config.data.num_images = 8
    config.diffusion.target = "v"
    config.sample.sampler = "langevin"
    config.sample.num_steps = 256
    config.sample.gamma = 0.0
    config.sample.reconstruction_weight = 50.0
    config.data.augment_flip = True

    config.sample.task = "predict"
    config.predict.num_given = 1
    config.eval.protocol = "bair"
    return config
