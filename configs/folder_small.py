"""A folder of your own videos at 32x32 pixels, in minutes on two CPU cores. Not in the paper.

    pip install -e ".[data,metrics]"
    export JAX_NUM_CPU_DEVICES=2    # on a CPU: two devices share the batch and use two cores
    python -m vdm.main --config=configs/folder_small.py \
        --config.data.path=VIDEOS --workdir=DIR --mode=train
    python -m vdm.main --config=configs/folder_small.py \
        --config.data.path=VIDEOS --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/folder_small.py \
        --config.data.path=VIDEOS --workdir=DIR --mode=eval

VIDEOS is as in configs/folder.py. The last command compares the samples with the training clips.

Parameters: 2,985,420.
Hardware: two CPU cores, 14 to 20 minutes of training (0.7 to 1.2 s per step), 2.5 GB.
Expected: docs/own_videos.md#in-minutes-on-a-laptop.

Differs from the paper's models:

- To be small: 32 channels, patches of 2x2 pixels, one block per resolution, attention at a quarter
  of the resolution and below, upsampling that narrows the channels, no independent images.
- To learn in minutes: Muon instead of Adam, a shifted noise schedule, stratified times, a ramp of
  the EMA, flips. Set config.data.augment_flip to False if mirrored videos are not plausible.
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "folder"
    config.data.frames = 16
    config.data.resolution = 32
    config.data.num_images = 0
    config.data.augment_flip = True

    config.model.base_channels = 32
    config.model.channel_multipliers = (1, 2, 4)
    config.model.blocks_per_resolution = 1
    config.model.attention_resolutions = (4, 8)
    config.model.head_dim = 32
    config.model.embedding_dim = 128
    config.model.embedding_layers = 2
    config.model.max_relative_distance = 15
    config.model.attention_bias = False
    config.model.narrow_upsampling = True
    config.model.patch_size = 2
    config.model.dtype = "float32"

    config.diffusion.target = "v"
    config.diffusion.time_sampling = "stratified"
    # 16 nearly equal frames carry the information of one frame at a log-SNR higher by log 16 = 2.8
    # (Hoogeboom et al. 2023, arXiv 2301.11093, section 3.1, for pixels).
    config.diffusion.log_snr_shift = -3.0

    config.training.batch_size = 8
    config.training.num_steps = 1_000
    config.training.optimizer = "muon"
    config.training.learning_rate = 4e-3
    config.training.warmup_steps = 100
    config.training.decay_steps = 400
    config.training.ema_decay = 0.998
    config.training.ema_ramp = True
    config.training.log_every = 50
    config.training.checkpoint_every = 250
    config.training.sample_every = 500

    config.sample.sampler = "dpmpp_2m"
    config.sample.num_steps = 32
    # Limits a guided step to twice the memory of an unguided one, instead of nine times.
    config.sample.reconstruction_micro_batch = 4

    config.eval.protocol = "memorisation"
    config.eval.num_videos = 64
    return config
