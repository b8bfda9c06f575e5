"""PushT, video prediction of 15 frames given 1: a disc pushes a T-shaped block. Not in the paper.

    pip install -e ".[pusht,metrics]"
    python -m vdm.data.prepare pusht
    export JAX_NUM_CPU_DEVICES=2    # on a CPU: two devices share the batch and use two cores
    python -m vdm.main --config=configs/pusht.py --workdir=DIR --mode=train
    python -m vdm.main --config=configs/pusht.py --workdir=DIR --mode=sample
    python -m vdm.main --config=configs/pusht.py --workdir=DIR --mode=eval

A substitute for configs/bair.py that anyone can prepare, trained in the same way: on whole clips,
unconditionally. Samples observe the first frame of a held-out clip, by diffusion forcing. The
paper's method:

    --config.sample.conditioning=reconstruction

Parameters: 3,910,896.
Hardware: two CPU cores, 2 s per step; not run on a GPU.
Expected: docs/pusht.md.

A model conditioned on the disc's actions (docs/data.md):

    --config.data.condition=action --config.model.action_width=2 --config.data.augment_flip=False

Differs from the paper's model of BAIR:

- To be small: 48 channels, patches of 4x4 pixels, one block per resolution, attention at a quarter
  of the resolution and below, upsampling that narrows the channels, no independent images.
- x is the target: a patch has 48 numbers, and 48 channels cannot represent their noise besides the
  content (Li and He 2025, arXiv 2511.13720).
- One noise level per frame in half of the videos (diffusion forcing): one model serves all methods
  of prediction.
- To learn sooner: Muon instead of Adam, a shifted noise schedule, the error of v as the loss,
  stratified times, a ramp of the EMA.
- The reconstruction weight is 10. FVD is the same from 1 to 20 within its errors, and at 20 fewer
  blocks keep their shape (docs/pusht.md).
"""

from vdm.config import default_config


def get_config():
    config = default_config()

    config.data.name = "pusht"
    config.data.frames = 16
    config.data.resolution = 64
    config.data.channels = 3
    config.data.num_images = 0
    config.data.condition = "none"
    config.data.augment_flip = True

    config.model.base_channels = 48
    config.model.channel_multipliers = (1, 2, 3)
    config.model.blocks_per_resolution = 1
    config.model.attention_resolutions = (8, 16)
    config.model.head_dim = 48
    config.model.embedding_dim = 192
    config.model.embedding_layers = 2
    config.model.max_relative_distance = 15
    config.model.attention_bias = False
    config.model.narrow_upsampling = True
    config.model.patch_size = 4
    config.model.dtype = "float32"

    config.diffusion.target = "x"
    config.diffusion.time_sampling = "stratified"
    config.diffusion.frame_times = "mixed"
    config.diffusion.loss_weighting = "v"
    # Half of the training times then have log-SNRs from -4.8 to -1.2, where the block gets its
    # shape (docs/pusht.md).
    config.diffusion.log_snr_shift = -3.0

    config.training.batch_size = 8
    config.training.num_steps = 6_000
    config.training.optimizer = "muon"
    config.training.learning_rate = 4e-3
    config.training.warmup_steps = 100
    config.training.decay_steps = 2_000
    config.training.ema_decay = 0.998
    config.training.ema_ramp = True
    config.training.log_every = 50
    config.training.checkpoint_every = 250
    config.training.sample_every = 1_000

    config.sample.task = "predict"
    config.sample.conditioning = "diffusion_forcing"
    config.sample.reconstruction_weight = 10.0
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 64
    # Limits a guided step to twice the memory of an unguided one, instead of nine times.
    config.sample.reconstruction_micro_batch = 4

    config.predict.num_given = 1

    config.eval.protocol = "pusht"
    config.eval.num_videos = 256
    return config
