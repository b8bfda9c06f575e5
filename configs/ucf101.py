"""UCF101, unconditional generation: appendix A and table 1 of the paper.

    pip install -e ".[tfds,metrics]"
    python -m vdm.data.prepare ucf101 --config=ucf101_1
    python -m vdm.main --config=configs/ucf101.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/ucf101.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/ucf101.py --workdir=DIR --mode=eval
    python -m vdm.evaluation.tables DIR

Parameters: 1,144,721,923.
Hardware: the paper trains 60,000 steps of 128 videos on 128 TPU v4 chips. Memory per device and
training time, estimated by --mode=plan and not confirmed by a run (docs/plan.md):

    128 TPU v4 chips   26.1 of 32 GiB   3.6 to 3.9 hours
    8 GPUs of 80 GB    61.4 of 80 GiB   14.2 to 14.6 hours
    16 GPUs of 80 GB   42.8 of 80 GiB   7.1 to 10.8 hours

The GPU rows were compiled for TPU v5p chips, with an H100's memory and peaks, and with 2 to 4 %
fewer parameters (config.model.narrow_upsampling=True). 8 GPUs need --config.training.accumulate=4;
16 need --config.training.accumulate=2 --config.mesh.fsdp=8.

Expected: C3D metrics of 10,000 samples against all 13,320 videos. You must supply C3D's weights
(docs/evaluation.md).

               FID        IS
    paper      295 +- 3   57 +- 0.62   (60.2 for real videos at 64x64)
    ours       not run    not run

Differs from the paper: nothing.
Choices that the paper leaves open are marked in vdm/config.py. Those of network and training follow
the authors' released diffusion code (channels kept by upsampling, biases of all projections,
independent times, 32 groups per norm, warm-up, EMA), except for bfloat16 activations.
The paper does not specify how 320x240 frames become 64x64: the central square, resized by area.
docs/data.md describes the data.
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "ucf101"
    config.data.tfds_config = "ucf101_1"
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
    config.model.embedding_layers = 4
    config.model.dropout = 0.1

    config.diffusion.target = "eps"

    config.training.batch_size = 128
    config.training.num_steps = 60_000
    config.training.learning_rate = 3e-4
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.99
    config.training.weight_decay = 0.0
    config.training.ema_decay = 0.9999

    config.sample.sampler = "ancestral"
    config.sample.num_steps = 256
    config.sample.gamma = 0.1

    config.eval.protocol = "ucf101"
    return config
