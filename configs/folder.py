"""A folder of video files of your own, unconditional, on one GPU. Not in the paper.

    pip install -e ".[data]"
    python -m vdm.main --config=configs/folder.py --config.data.path=VIDEOS --workdir=DIR

VIDEOS holds .mp4, .mov, .avi, .webm, .mkv, .mpg or .gif files, or folders of images, at any depth
and of any size and length from 16 frames on; docs/data.md says the rest. The first start decodes
all of them once, and VIDEOS/video_index.txt says what was skipped.
Hardware: one GPU with 24 GB or more; two days is an estimate, not a measurement.
Expected: nothing is measured here, as the data are yours. --mode=eval compares samples with the
held-out videos, by FVD, for which thousands of videos are needed on both sides.

With the sub-folders of VIDEOS, or the column `label` of its manifest.csv, as classes:

    --config.data.condition=label --config.model.num_classes=N

and for joint training with independent images: --config.data.num_images=4.

Differs from the paper's models in width, 64 channels where they have 128 and more, in one block a
resolution, and in a batch of 16.
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "folder"
    config.data.frames = 16
    config.data.resolution = 64
    config.data.num_images = 0

    config.model.base_channels = 64
    config.model.channel_multipliers = (1, 2, 4, 8)
    config.model.blocks_per_resolution = 1
    config.model.attention_resolutions = (8, 16, 32)
    config.model.head_dim = 64
    config.model.embedding_dim = 512
    config.model.embedding_layers = 2
    config.model.remat = "blocks"

    config.diffusion.target = "v"

    config.training.batch_size = 16
    config.training.num_steps = 200_000
    config.training.learning_rate = 2e-4
    config.training.warmup_steps = 1_000
    config.training.checkpoint_every = 2_000
    config.training.sample_every = 5_000

    config.sample.sampler = "ddim"
    config.sample.num_steps = 100
    config.eval.protocol = "fvd"
    return config
