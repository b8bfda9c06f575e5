"""Text to video, small: appendix A, and table 4 of the paper (joint training on images).

    python -m vdm.main --config=configs/text_small.py --workdir=DIR --mode=train

Hardware in the paper: 64 TPU v4 chips, 200,000 steps of 128 videos.
The paper trains it three times, with 8 image frames after each video's own (here), with 4
(--config.data.num_images=4) and with none (--config.data.num_images=0). Expected, 4,096 samples,
against the training / validation set (IS over 1 split / 10 splits):

    image frames  FVD            FID-avg      IS-avg     FID-first    IS-first
    0             202.28/205.42  37.52/37.40  7.91/7.58  41.14/40.87  9.23/8.74
    4             68.11/70.74    18.62/18.42  9.02/8.53  22.54/22.19  10.58/9.91
    8             57.84/60.72    15.57/15.44  9.32/8.82  19.25/18.98  10.81/10.12

Differs from the paper: nothing but the data, which are private.
Fields that the paper does not fix say so in vdm/config.py.
docs/data.md says how a data set of captioned videos is made ready, and its captions encoded.
"""

from vdm.config import default_config


def get_config():
    config = default_config()
    config.data.name = "captioned_videos"
    config.data.tfds_config = "64x64"
    config.data.condition = "text"
    config.data.text_encoder = "bert-large-uncased"
    config.model.text_width = 1024  # a token vector of BERT-large

    # The lines of the paper's table, in its order.
    config.data.frames = 16
    config.data.resolution = 64
    config.data.frameskip = 1
    config.model.base_channels = 128
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
    config.model.dropout = 0.0
    config.training.num_steps = 200_000
    config.data.num_images = 8
    config.diffusion.target = "eps"
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 256
    config.sample.gamma = 0.3
    config.data.augment_flip = False
    config.eval.protocol = "text_16x64x64"
    return config
