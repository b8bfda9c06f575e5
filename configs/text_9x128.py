"""Text to video at 9x128x128: appendix A. The paper extends a 16x64x64 video of frameskip 4 with it
to 64x128x128 of frameskip 1, given that video and its own earlier frames.

    python -m vdm.main --config=configs/text_9x128.py --workdir=DIR --mode=train

Hardware in the paper: 128 TPU v4 chips, 800,000 steps of 128 videos.
--config.sample.task=cascade --config.cascade.base_checkpoint=FILE does that.
Expected: the paper shows samples and has no table for it.
Differs from the paper: nothing but the data, which are private.
Fields that the paper does not fix say so in vdm/config.py.
docs/data.md says how a data set of captioned videos is made ready, and its captions encoded.
"""

from vdm.config import default_config


def get_config():
    config = default_config()
    config.data.name = "captioned_videos"
    config.data.tfds_config = "128x128"
    config.data.condition = "text"
    config.data.text_encoder = "bert-large-uncased"
    config.model.text_width = 1024  # a token vector of BERT-large

    # The lines of the paper's table, in its order.
    config.data.frames = 9
    config.data.resolution = 128
    config.data.frameskip = 1
    config.model.base_channels = 128
    config.model.channel_multipliers = (1, 2, 4, 8, 16)
    config.model.blocks_per_resolution = 2
    config.model.head_dim = 128
    config.model.embedding_layers = 4
    config.training.weight_decay = 0.0
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.99
    config.training.learning_rate = 2e-4
    config.training.batch_size = 128
    config.training.ema_decay = 0.9999
    config.model.dropout = 0.0
    config.training.num_steps = 800_000
    config.data.num_images = 7
    config.diffusion.target = "eps"
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 256
    config.sample.gamma = 0.3
    config.data.augment_flip = False
    config.eval.protocol = "fvd"
    return config
