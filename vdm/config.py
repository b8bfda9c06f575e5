"""The fields of a configuration and their defaults; vdm/checks.py has the values allowed.

A file in configs/ starts from `default_config` and sets what its experiment needs. Fields whose
comment says 'not fixed by the paper' are choices of this project.
"""

import ml_collections


def default_config() -> ml_collections.ConfigDict:
    """What the six models of the paper have in common (appendix A)."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # An exported .safetensors file for sample and eval to use instead of the workdir's checkpoint.
    config.checkpoint = ""

    config.data = data = ml_collections.ConfigDict()
    data.name = "moving_digits"
    data.path = ""  # of 'folder': the folder of video files
    data.test_share = 0.1  # of 'folder': videos held out, where no manifest says
    data.tfds_dir = ""  # of data sets of TensorFlow Datasets; '' for TFDS's own default
    data.tfds_config = ""  # of those whose builder has several
    data.camera = "image_main"  # of BAIR: image_main | image_aux1
    data.frames = 16
    data.resolution = 64  # height and width
    data.channels = 3
    # Of 'folder': frames per second at which videos are sampled by their presentation times, before
    # frameskip; 0 for frames as stored. Observed videos are sampled alike. Not fixed by the paper.
    data.frame_rate = 0.0
    data.frameskip = 1  # one frame of these is kept
    data.start = "random"  # of videos: where a clip for training begins, random | first
    data.downsample = 1  # of moving digits: block means, for the low resolution of a cascade
    data.motion = "any"  # of moving digits: any | horizontal
    data.speed = 0.5  # of moving digits: pixels a frame along an axis
    data.num_images = 8  # independent frames for joint training, after each video's own
    data.condition = "none"  # none | label | text
    data.text_tokens = 128
    # 'words' for vdm/data/captions/word_vectors.py; or a language model by its name on the Hugging
    # Face hub, or by its folder, whose vectors of the data set's captions
    # python -m vdm.data.encode_text keeps.
    data.text_encoder = "words"
    data.augment_flip = False  # left-right
    data.num_workers = 4  # threads that make examples, on each host
    data.prefetch = 2  # batches made ahead

    config.model = model = ml_collections.ConfigDict()
    model.base_channels = 128
    model.channel_multipliers = (1, 2, 4, 8)
    model.blocks_per_resolution = 2
    model.attention_resolutions = (8, 16, 32)
    model.head_dim = 64
    model.embedding_dim = 1024
    model.embedding_layers = 4
    model.dropout = 0.0
    model.num_classes = 0
    model.text_width = 0
    model.condition_dropout = 0.1  # not fixed by the paper
    model.film = False
    model.max_relative_distance = 32  # not fixed by the paper
    model.patch_size = 1  # not in the paper
    model.remat = "none"  # none | activations | blocks: what the backward pass computes again
    model.dtype = "bfloat16"  # float32 | bfloat16

    config.diffusion = diffusion = ml_collections.ConfigDict()
    diffusion.target = "eps"  # eps | x | v
    diffusion.log_snr_min = -20.0
    diffusion.log_snr_max = 20.0
    diffusion.log_snr_shift = 0.0  # added to the schedule; not in the paper
    diffusion.clip = True  # x_hat to [-1, 1]; not fixed by the paper

    config.training = training = ml_collections.ConfigDict()
    training.batch_size = 128
    # Parts of a batch that go through the network one after another, their gradients added up: the
    # same step in a fraction of the memory for activations.
    training.accumulate = 1
    training.num_steps = 200_000
    training.learning_rate = 3e-4
    training.warmup_steps = 0  # not fixed by the paper
    training.decay_steps = 0  # linear decay to zero over the last steps; not fixed by the paper
    training.optimizer = "adam"  # adam | muon; the paper's is Adam
    training.adam_b1 = 0.9  # with muon, of the parameters that are not matrices
    training.adam_b2 = 0.99
    training.adam_eps = 1e-8
    training.weight_decay = 0.0
    training.gradient_clip = 1.0  # global norm, 0 for none; not fixed by the paper
    training.ema_decay = 0.9999
    training.log_every = 100  # steps
    training.checkpoint_every = 5_000
    training.keep_checkpoints = 2
    training.sample_every = 10_000  # a video of samples to TensorBoard; 0 for none

    config.mesh = mesh = ml_collections.ConfigDict()
    # Devices over which parameters, optimizer and EMA are split; 1: whole on each device.
    mesh.fsdp = 1

    config.sample = sample = ml_collections.ConfigDict()
    # generate | predict | extend | interpolate | upsample | cascade
    sample.task = "generate"
    sample.sampler = "ancestral"  # ancestral | langevin | ddim | dpmpp_2m
    sample.num_steps = 256
    sample.gamma = 0.3
    sample.langevin_step_size = 0.1
    sample.seed = 0
    # Of a conditional model: one condition for all samples. Without it, sample i has the label or
    # the caption of example i of the held-out data.
    sample.label = -1
    sample.caption = ""
    sample.guidance_weight = 1.0  # of classifier-free guidance, 1 + w of eq 6; 0: no condition
    # What a task observes: by default held-out videos; or a folder, video or .npz of the user.
    sample.observed = ""
    sample.conditioning = "reconstruction"  # ... | replacement | replacement_posterior | repaint
    sample.reconstruction_weight = 1.0  # w_r of eq 7 and 8
    # x_hat is clipped after the gradient of the reconstruction error is taken, or before it, where
    # the gradient then vanishes; only with diffusion.clip. Not fixed by the paper.
    sample.reconstruction_clip = "after"  # after | before
    sample.reconstruction_normalization = "none"  # none | residual; not fixed by the paper
    # Of pseudo-inverse guidance; 0 for the paper's approximation of q(x_a given z_t).
    sample.reconstruction_data_variance = 0.0
    # Most videos of a device that are guided at a time, in equal parts of what it has. The memory
    # of a guided step grows with these, and its result does not change. 0: all at once.
    sample.reconstruction_micro_batch = 0
    sample.return_observed = True  # observed frames as they are; not fixed by the paper
    sample.repaint_jump_length = 10  # steps
    sample.repaint_repeats = 10
    # Samples of each held-out example, from which come what is observed and the condition.
    sample.per_example = 1
    sample.num_videos = 16
    sample.batch_size = 16
    sample.max_video_files = 64  # videos that are also written as GIF and MP4 files

    # Tasks, chosen by sample.task (vdm/sampling/tasks.py).
    config.predict = predict = ml_collections.ConfigDict()
    predict.num_given = 1  # frames

    config.extend = extend = ml_collections.ConfigDict()
    extend.num_frames = 64
    extend.num_given = 0  # frames of an observed video to start from; 0 to generate the start
    extend.overlap = 8  # frames of the block before that are given; not fixed by the paper
    extend.stride = 8  # new frames that are kept of each block; not fixed by the paper

    config.interpolate = interpolate = ml_collections.ConfigDict()
    interpolate.every = 4  # one frame of these is given

    config.upsample = upsample = ml_collections.ConfigDict()
    upsample.factor = 2
    upsample.downsampling = "area"  # area | bilinear

    config.cascade = cascade = ml_collections.ConfigDict()
    cascade.base_checkpoint = ""  # an exported .safetensors file of the low-resolution model
    cascade.num_frames = 64
    cascade.frameskip = 4  # of the low-resolution model
    cascade.overlap = 1  # frames of the block before that are given

    config.eval = evaluation = ml_collections.ConfigDict()
    # moving_digits: persistence and held-out loss; or a protocol of vdm/metrics/protocols.py.
    evaluation.protocol = "moving_digits"
    evaluation.num_videos = 256  # where the protocol leaves it open
    evaluation.repeats = 1  # of a protocol, with the seeds from sample.seed on, for error bars
    evaluation.log_snr_bins = 10
    evaluation.batch_size = 16
    evaluation.shard_size = 64  # samples in a file, made and kept together

    config.plan = plan = ml_collections.ConfigDict()
    # TPUs that need not be here, in chips, as v4:4x4x8; empty for the attached devices.
    plan.topology = ""
    plan.devices = 0  # the first so many of these; 0 for all
    # Whose memory and speed the steps are compared with (vdm/planning/hardware/peaks.py); empty for
    # the devices that they are compiled for.
    plan.hardware = ""
    plan.steps = ("train", "sample", "guided")
    # O0 | O1 | O2 | O3; empty for O0 where a topology is given, and for JAX's own otherwise.
    plan.optimization_level = ""
    plan.max_trials = 4  # changes that are compiled where a step does not fit; 0 for none
    # Shares of the makers' peaks that the estimate of time assumes.
    plan.compute_efficiency = 0.5
    plan.memory_efficiency = 0.8
    plan.link_efficiency = 0.8
    plan.output = ""  # a JSON file; empty for WORKDIR/plan.json where there is a workdir
    return config
