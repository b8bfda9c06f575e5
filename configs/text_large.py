"""Text to video, large: appendix A, and table 5 of the paper (classifier-free guidance).

    python -m vdm.main --config=configs/text_large.py --workdir=DIR --mode=train

Hardware in the paper: 128 TPU v4 chips, 700,000 steps of 128 videos.
The paper trains it twice, on every frame (here) and on every fourth (--config.data.frameskip=4).
Expected, 4,096 samples, against the training / validation set (IS over 1 split / 10 splits):

    frameskip  weight  FVD            FID-avg      IS-avg       FID-first    IS-first
    1          1.0     41.65/43.70    12.49/12.39  10.80/10.07  16.42/16.19  12.17/11.22
    1          2.0     50.19/48.79    10.53/10.47  13.22/12.10  13.91/13.75  14.81/13.46
    1          5.0     163.74/160.21  13.54/13.52  14.80/13.46  17.07/16.95  16.40/14.75
    4          1.0     56.71/60.30    11.03/10.93  9.40/8.90    16.21/15.96  11.39/10.61
    4          2.0     54.28/51.95    9.39/9.36    11.53/10.75  14.21/14.04  13.81/12.63
    4          5.0     185.89/176.82  11.82/11.78  13.73/12.59  16.59/16.44  16.24/14.62

The weight is that of classifier-free guidance, --config.sample.guidance_weight, read as 1 + w of
equation 6: 1.0 is unguided.

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
    config.model.dropout = 0.0
    config.training.num_steps = 700_000
    config.data.num_images = 8
    config.diffusion.target = "eps"
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 256
    config.sample.gamma = 0.3
    config.data.augment_flip = False
    config.eval.protocol = "text_16x64x64"
    return config
