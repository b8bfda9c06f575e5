"""A folder of your own videos, unconditional or class-conditional, on one GPU. Not in the paper.

    pip install -e ".[data,metrics]"
    python -m vdm.main --config=configs/folder.py \
        --config.data.path=VIDEOS --workdir=DIR --mode=train
    python -m vdm.main --config=configs/folder.py \
        --config.data.path=VIDEOS --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/folder.py \
        --config.data.path=VIDEOS --workdir=DIR --mode=eval

VIDEOS holds video files, GIFs or folders of images, at any depth and of any size, with at least 16
frames (docs/data.md). No preparation is needed: the first run decodes all videos once, and lists
skipped files with the reasons in VIDEOS/video_index.txt.

Hardware: one GPU with 24 GB or more; memory and time have not been estimated.
Expected: not run, since the data are yours. --mode=eval reports the FVD between samples and
held-out videos, and needs thousands of each.

Classes are the sub-folders of VIDEOS, or the column `label` of its manifest.csv:

    --config.data.condition=label --config.model.num_classes=N

Joint training on independent images: --config.data.num_images=4.

Differs from the paper's models: 64 base channels instead of 128 or more, one block per resolution,
narrow upsampling, attention without biases, batches of 16, stratified times and gradient
checkpointing.
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
    config.model.attention_bias = False
    config.model.narrow_upsampling = True
    config.model.embedding_dim = 512
    config.model.embedding_layers = 2
    config.model.remat = "blocks"

    config.diffusion.target = "v"
    config.diffusion.time_sampling = "stratified"

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
