"""BAIR robot pushing, video prediction of 15 frames given 1: appendix A and table 2 of the paper.

    pip install -e ".[tfds,metrics]"
    python -m vdm.data.prepare bair_robot_pushing_small
    python -m vdm.main --config=configs/bair.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/bair.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/bair.py --workdir=DIR --mode=eval
    python -m vdm.evaluation.tables DIR

Parameters: 139,253,635.
Hardware: the paper trains 660,000 steps of 128 videos on 128 TPU v4 chips. Memory per device and
training time, estimated by --mode=plan and not confirmed by a run (docs/plan.md):

    128 TPU v4 chips   7.9 of 32 GiB   13.8 to 14.3 hours
    8 GPUs of 80 GB    24.1 of 80 GiB   80 to 81 hours
    16 GPUs of 80 GB   21.6 of 80 GiB   39 to 44 hours

The GPU rows were compiled for TPU v5p chips, with an H100's memory and peaks, and with 2 to 4 %
fewer parameters (config.model.narrow_upsampling=True). 8 GPUs need --config.training.accumulate=4;
16 need --config.training.accumulate=2 --config.mesh.fsdp=8.

Expected: FVD between 100 samples for each of the 256 test videos, and these test videos.

    sampler               paper      ours
    langevin, 256 + 256   66.92      not run
    ancestral, 512        68.19      not run

The second row needs --config.sample.sampler=ancestral --config.sample.num_steps=512.

Differs from the paper: nothing.
Choices that the paper leaves open are marked in vdm/config.py. Those of network and training follow
the authors' released diffusion code (channels kept by upsampling, biases of all projections,
independent times, 32 groups per norm, warm-up, EMA), except for bfloat16 activations.
docs/data.md describes the data.
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "bair_robot_pushing_small"
    config.data.camera = "image_main"  # the camera of the paper
    config.data.frames = 16
    config.data.resolution = 64
    config.data.frameskip = 1
    config.data.num_images = 8
    config.data.condition = "none"
    config.data.augment_flip = True

    config.model.base_channels = 128
    config.model.channel_multipliers = (1, 2, 3, 4)
    config.model.blocks_per_resolution = 3
    config.model.attention_resolutions = (8, 16, 32)
    config.model.head_dim = 64
    config.model.embedding_dim = 1024
    config.model.embedding_layers = 2
    config.model.dropout = 0.1

    config.diffusion.target = "v"

    config.training.batch_size = 128
    config.training.num_steps = 660_000
    config.training.learning_rate = 2e-4
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.999
    config.training.weight_decay = 0.01
    config.training.ema_decay = 0.999

    config.sample.task = "predict"
    config.sample.sampler = "langevin"
    config.sample.num_steps = 256
    config.sample.gamma = 0.0
    config.sample.reconstruction_weight = 50.0

    config.predict.num_given = 1

    config.eval.protocol = "bair"
    return config
