"""Kinetics-600, video prediction of 11 frames given 5: appendix A and table 3 of the paper.

    pip install -e ".[tfds,metrics]"
    python -m vdm.data.prepare kinetics600 --config=64x64 --manual_dir=VIDEOS
    python -m vdm.main --config=configs/kinetics600.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/kinetics600.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/kinetics600.py --workdir=DIR --mode=eval
    python -m vdm.evaluation.tables DIR

Parameters: 1,142,622,723.
Hardware: the paper trains 220,000 steps of 256 videos on 256 TPU v4 chips. Memory per device and
training time, estimated by --mode=plan and not confirmed by a run (docs/plan.md):

    256 TPU v4 chips   26.1 of 32 GiB   13.1 to 14.3 hours
    8 GPUs of 80 GB    61.5 of 80 GiB   104 to 105 hours
    16 GPUs of 80 GB   42.9 of 80 GiB   52 to 66 hours

The GPU rows were compiled for TPU v5p chips, with an H100's memory and peaks, and with 2 to 4 %
fewer parameters (config.model.narrow_upsampling=True). 8 GPUs need --config.training.accumulate=8;
16 need --config.training.accumulate=4 --config.mesh.fsdp=8.

Expected: I3D metrics of one sample for each of 50,000 test videos, compared with these videos.

                          paper                  ours
    sampler               FVD          IS        FVD, IS
    langevin, 128 + 128   16.2 +- 0.34 15.64     not run
    ancestral, 256        18.6         15.39     not run

The second row needs --config.sample.sampler=ancestral --config.sample.num_steps=256.

Differs from the paper: nothing.
Choices that the paper leaves open are marked in vdm/config.py. Those of network and training follow
the authors' released diffusion code (channels kept by upsampling, biases of all projections,
independent times, 32 groups per norm, warm-up, EMA), except for bfloat16 activations.
docs/data.md describes the data.
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "kinetics600"
    config.data.tfds_config = "64x64"
    config.data.frames = 16
    config.data.resolution = 64
    config.data.frameskip = 1
    config.data.num_images = 8
    config.data.condition = "none"
    config.data.augment_flip = False

    config.model.base_channels = 256
    config.model.channel_multipliers = (1, 2, 4, 8)
    config.model.blocks_per_resolution = 2
    config.model.attention_resolutions = (8, 16, 32)
    config.model.head_dim = 64
    config.model.embedding_dim = 1024
    config.model.embedding_layers = 2
    config.model.dropout = 0.1

    config.diffusion.target = "v"

    config.training.batch_size = 256
    config.training.num_steps = 220_000
    config.training.learning_rate = 2e-4
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.99
    config.training.weight_decay = 0.0
    config.training.ema_decay = 0.9999

    config.sample.task = "predict"
    config.sample.sampler = "langevin"
    config.sample.num_steps = 128
    config.sample.gamma = 0.0
    config.sample.reconstruction_weight = 9.0

    config.predict.num_given = 5

    config.eval.protocol = "kinetics600"
    return config
