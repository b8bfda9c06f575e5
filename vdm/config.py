"""Every configuration field and its default. vdm/rules.py has the allowed values.

A file in configs/ starts from `default_config` and overrides fields. Comments give the meaning, the
unit and the choices; 'not fixed by the paper' marks choices of this project.
"""

import ml_collections


def default_config() -> ml_collections.ConfigDict:
    """Returns the defaults: what the paper's six models share (appendix A)."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # seed of initialisation, batches, noise and dropout
    # Weights for sample and eval: exported .safetensors file, a name in checkpoints/, or
    # hf://OWNER/NAME (docs/quickstart.md); '': a checkpoint of WORKDIR.
    config.checkpoint = ""
    config.step = ""  # WORKDIR's checkpoint to use: a step | best (held-out loss) | '' (newest)

    config.data = data = ml_collections.ConfigDict()
    # moving_digits | folder | pusht | bair_robot_pushing_small | ucf101 | kinetics600 |
    # captioned_videos | zeros (no data)
    data.name = "moving_digits"
    # Folder of video files, for 'folder'; folder of prepared clips, for 'pusht' ('': the default).
    data.path = ""
    data.test_share = 0.1  # fraction of videos held out, for 'folder' without predefined splits
    data.tfds_dir = ""  # folder of TensorFlow Datasets; '': TFDS's default
    data.tfds_config = ""  # builder config, for TFDS builders with several
    data.camera = "image_main"  # image_main | image_aux1, for BAIR
    data.motion = "any"  # any (8 directions) | horizontal, for moving digits
    data.speed = 0.5  # pixels per frame along an axis, for moving digits
    data.downsample = 1  # block size in pixels of average pooling, for moving digits
    # Clips.
    data.frames = 16  # frames per video
    data.resolution = 64  # height and width, pixels
    data.channels = 3  # 1 | 3
    # Frames per second, sampled by timestamp before frameskip, for 'folder'; 0: frames as stored.
    data.frame_rate = 0.0  # not fixed by the paper
    data.frameskip = 1  # temporal stride: keeps every n-th frame
    data.start = "random"  # first frame of a training clip: random | first
    data.augment_flip = False  # flips training clips horizontally with probability 1/2
    data.num_images = 8  # independent images per video, for joint training
    # Conditioning.
    data.condition = "none"  # none | label | text | action (one per frame)
    # Names of the classes by number, for 'folder' with condition 'label'; (): those of the folder
    # in alphabetical order. A run stores them, so that a number keeps its class.
    data.classes = ()
    data.text_tokens = 128  # max tokens per caption; longer ones are truncated (words: an error)
    # 'words' (random word vectors), or a Hugging Face model by name or folder (encode_text first).
    data.text_encoder = "words"
    # Input pipeline.
    data.num_workers = 4  # threads per host that load examples
    data.prefetch = 2  # batches loaded ahead of the training step

    config.model = model = ml_collections.ConfigDict()
    model.base_channels = 128  # channels at the highest resolution, before the multiplier
    model.channel_multipliers = (1, 2, 4, 8)  # per resolution, from high to low
    model.blocks_per_resolution = 2  # residual blocks; the decoder has one more
    # Heights of feature maps, in patches, at which attention follows each block (of the two middle
    # blocks: the first).
    model.attention_resolutions = (8, 16, 32)
    model.head_dim = 64  # channels per attention head
    model.max_relative_distance = 32  # frames; larger distances are clipped; not fixed by the paper
    # Standard deviation of relative position embeddings at initialisation; not fixed by the paper.
    model.relative_position_scale = 1.0
    # Biases of the query, key and value projections; not fixed by the paper, True in the authors'
    # released diffusion code.
    model.attention_bias = True
    # whole (saves the weights) | tiles (recomputes them, faster on CPUs) | auto (tiles on CPUs).
    model.spatial_attention = "auto"
    # Channels of the convolution after each upsampling: True: those of the finer resolution; False:
    # those of the coarser one, as in the authors' released diffusion code. Not fixed by the paper.
    model.narrow_upsampling = False
    model.embedding_dim = 1024  # width of the conditioning embedding; a multiple of 4
    model.embedding_layers = 4  # layers of the conditioning MLP
    model.film = False  # True: the embedding scales and shifts (FiLM); False: it is added
    model.dropout = 0.0  # dropout rate of residual blocks
    model.num_classes = 0  # classes, for data.condition 'label'
    model.text_width = 0  # channels of a token vector, for data.condition 'text'
    model.action_width = 0  # numbers per action, for data.condition 'action'
    model.condition_dropout = 0.1  # rate of dropping the condition; not fixed by the paper
    # Range (first, last) of guidance weights of a guidance-distilled student, whose network takes
    # the weight as an input and needs one call per step; (): no such input.
    model.guidance_weights = ()
    model.patch_size = 1  # side in pixels of patches folded into channels; not in the paper
    model.remat = "none"  # rematerialisation in the backward pass: none | activations | blocks
    # Dtype of activations, and of gradients summed over devices: float32 | bfloat16. Parameters,
    # optimizer, norms and softmax are float32. Not fixed by the paper; the authors' released
    # diffusion code computes in float32.
    model.dtype = "bfloat16"
    # Computes the first and the last convolution in float32 for any model.dtype; not fixed by the
    # paper, True in the authors' released diffusion code.
    model.float32_ends = True

    config.diffusion = diffusion = ml_collections.ConfigDict()
    diffusion.target = "eps"  # what the network predicts: eps | x | v
    diffusion.log_snr_min = -20.0  # at t = 1, before the shift
    diffusion.log_snr_max = 20.0  # at t = 0, before the shift
    diffusion.log_snr_shift = 0.0  # added to the cosine schedule; not in the paper
    # Times of a training batch: independent (uniform, as in the authors' released diffusion code) |
    # stratified (evenly spaced from a random offset: less variance). Not fixed by the paper.
    diffusion.time_sampling = "independent"
    # Times of a video's frames in training: shared (the paper's) | independent (one noise level per
    # frame: diffusion forcing, for sample.conditioning 'diffusion_forcing') | mixed (each video is
    # shared or independent with probability 1/2: one model for all methods).
    diffusion.frame_times = "shared"
    # Weight of the target's squared error in training: none (the paper's) | v (equals the squared
    # error of v, weight at most 25; teaches detail when x is the target).
    diffusion.loss_weighting = "none"
    diffusion.clip = True  # clips x_hat to [-1, 1] in sampling; not fixed by the paper

    config.training = training = ml_collections.ConfigDict()
    # Batches and steps.
    training.batch_size = 128  # videos per step, on all devices together
    training.accumulate = 1  # micro-batches per step (gradient accumulation)
    training.num_steps = 200_000  # optimizer steps
    # Warm start of a new run (for a student, its teacher): exported .safetensors file, or workdir
    # of another run; '': random initialisation.
    training.init_from = ""
    # Progressive distillation: trains a student that samples in exactly this many DDIM steps, from
    # a teacher of twice as many; 0: off.
    training.distill_steps = 0
    # Weight of the squared error of a student's x_hat: truncated_snr, max(SNR, 1) | v, SNR + 1.
    training.distill_weighting = "truncated_snr"
    # Optimizer.
    training.optimizer = "adam"  # adam | muon; the paper uses Adam
    training.learning_rate = 3e-4  # after the warm-up
    # Linear warm-up; not fixed by the paper, 1,000 in the authors' released diffusion code.
    training.warmup_steps = 1_000
    training.decay_steps = 0  # linear decay to zero over the last steps; not fixed by the paper
    training.adam_b1 = 0.9  # first-moment decay; with muon, for the parameters that Adam updates
    training.adam_b2 = 0.99  # second-moment decay; with muon, for the same parameters
    training.adam_eps = 1e-8  # added to the root of the second moment
    training.weight_decay = 0.0  # decoupled weight decay
    training.gradient_clip = 1.0  # max global norm of the gradient; 0: off; not fixed by the paper
    training.ema_decay = 0.9999  # decay of the exponential moving average (EMA) of the parameters
    # EMA decay at step n: True: min(ema_decay, (1 + n) / (10 + n)), as in TensorFlow; False:
    # ema_decay, but 0 at step 0, as in the authors' released diffusion code; a warm start keeps the
    # EMA of its source and uses ema_decay at step 0 too. Not fixed by the paper.
    training.ema_ramp = False
    # Trackers and checkpoints.
    training.log_every = 100  # steps
    training.checkpoint_every = 5_000  # steps
    training.keep_checkpoints = 2  # newest checkpoints kept
    # Steps between held-out losses of the EMA weights, on eval.num_videos videos; 0: none.
    training.eval_every = 0
    training.sample_every = 10_000  # steps between sample videos (shorter at first); 0: none
    # First and last step to profile for TensorBoard, without step 1, which compiles; (): none.
    training.profile_steps = ()
    training.wandb_project = ""  # Weights & Biases project (optional extra); '': local files only

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.fsdp = 1  # devices over which parameters, optimizer state and EMA are sharded

    config.sample = sample = ml_collections.ConfigDict()
    # Task and output.
    sample.task = "generate"  # generate | predict | extend | interpolate | upsample | cascade
    sample.num_videos = 16  # total number of samples
    sample.batch_size = 16  # videos per call of the sampler, on all devices together
    sample.seed = 0  # sample i is a function of (seed, i)
    sample.max_video_files = 64  # max number of videos also written as GIF and MP4
    # Sampler.
    sample.sampler = "ancestral"  # ancestral | langevin | ddim | dpmpp_2m
    sample.num_steps = 256  # sampler steps: one network call each, two with 'langevin'
    sample.gamma = 0.3  # interpolates the variance of ancestral steps (eq 4), 0 to 1
    sample.langevin_step_size = 0.1  # delta of eq 5, for 'langevin'
    # Condition.
    sample.label = -1  # class of all samples; -1: the label of held-out example i
    sample.caption = ""  # caption of all samples; '': the caption of held-out example i
    sample.action = ()  # action of all frames of all samples; (): the actions of held-out example i
    # Weight of classifier-free guidance, 1 + w of eq 6 (a guided student takes it as input); 1:
    # off.
    sample.guidance_weight = 1.0
    # Observed frames.
    sample.observed = ""  # your video file, folder of videos or .npz file; '': held-out videos
    sample.per_example = 1  # samples per held-out example
    sample.return_observed = True  # returns observed frames unchanged; not fixed by the paper
    # Method: reconstruction | replacement | replacement_posterior | repaint | diffusion_forcing
    # (needs a model with diffusion.frame_times 'independent' or 'mixed').
    sample.conditioning = "reconstruction"
    sample.reconstruction_weight = 1.0  # w_r of eq 7 and 8
    # Clips x_hat after | before the gradient of the reconstruction error; not fixed by the paper.
    sample.reconstruction_clip = "after"
    sample.reconstruction_normalization = "none"  # none | residual; not fixed by the paper
    sample.reconstruction_data_variance = 0.0  # for pseudo-inverse guidance; 0: eq 7 and 8
    # Max videos per device per guided call: bounds memory, does not change samples; 0: whole batch.
    sample.reconstruction_micro_batch = 0
    sample.repaint_jump_length = 10  # steps per jump of RePaint
    sample.repaint_repeats = 10  # number of times that RePaint runs each jump
    # Diffusion forcing. Noise levels are times t, from 0 (clean) to 1 (noise). Not in the paper.
    sample.history_guidance_weight = 1.0  # weight of history guidance, 1 + w; 1: off
    # Noise level of the guiding history: 0 (vanilla) | between 0 and 1 (fractional).
    sample.history_guidance_noise = 0.0
    # Noise level of observed frames, against drift. With the task 'extend' it applies only to
    # generated frames that are observed again, with any method.
    sample.context_noise = 0.0

    # One section per task of sample.task (vdm/sampling/tasks.py).
    config.predict = predict = ml_collections.ConfigDict()
    predict.num_given = 1  # observed frames
    # New frames kept per block; a block observes all earlier frames. 0: all frames at once, as in
    # the paper.
    predict.stride = 0

    config.extend = extend = ml_collections.ConfigDict()
    extend.num_frames = 64  # frames of the extended video
    extend.num_given = 0  # observed frames at the start; 0: the first block is generated
    extend.overlap = 8  # observed frames of the previous block; not fixed by the paper
    extend.stride = 8  # new frames kept per block; not fixed by the paper
    # autoregressive (the paper's) | key_frames (sparse frames over the whole length first, then the
    # rest) | joint (overlapping blocks denoised together). The last two are not in the paper.
    extend.method = "autoregressive"
    extend.key_frame_interval = 4  # every n-th frame is a key frame, for 'key_frames'
    # Exported .safetensors file of the model that samples key frames; its data.frameskip must be
    # key_frame_interval times this model's. '': this model, as if trained with that frameskip.
    extend.key_frame_checkpoint = ""

    config.interpolate = interpolate = ml_collections.ConfigDict()
    interpolate.every = 4  # every n-th frame is observed

    config.upsample = upsample = ml_collections.ConfigDict()
    upsample.factor = 2  # ratio of the resolutions
    upsample.downsampling = "area"  # filter of the observed low resolution: area | bilinear

    config.cascade = cascade = ml_collections.ConfigDict()
    cascade.base_checkpoint = ""  # exported .safetensors file of the low-resolution model
    cascade.num_frames = 64  # frames of the high-resolution video
    cascade.frameskip = 4  # frameskip of the low-resolution model
    cascade.overlap = 1  # observed frames of the previous block

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.protocol = "moving_digits"  # or a protocol of vdm/metrics/protocols.py
    # Baseline to evaluate instead of a model: repeat_first_frame | train_videos; '': none.
    evaluation.baseline = ""
    evaluation.num_videos = 256  # videos, if the protocol does not fix the number
    evaluation.repeats = 1  # sets of samples for error bars, with seeds from sample.seed up
    evaluation.batch_size = 16  # videos per call of the loss and of the feature networks
    evaluation.log_snr_bins = 10  # bins of the held-out loss
    evaluation.shard_size = 64  # samples per file on disk

    config.rehearse = rehearsal = ml_collections.ConfigDict()
    rehearsal.data = "real"  # real | zeros (with the shapes of config.data)

    config.plan = plan = ml_collections.ConfigDict()
    plan.topology = ""  # unattached TPU slice in chips, such as v4:4x4x8; '': attached devices
    plan.devices = 0  # number of devices to use; 0: all
    plan.hardware = ""  # entry of vdm/planning/hardware/peaks.py to compare with; '': the devices
    plan.steps = ("train", "sample", "guided")  # steps to compile
    plan.optimization_level = ""  # O0 | O1 | O2 | O3; '': O0 with a topology, else JAX's default
    plan.max_trials = 4  # max number of changes to compile if a step does not fit; 0: none
    plan.compute_efficiency = 0.5  # assumed fraction of the vendor's peak FLOP/s
    plan.memory_efficiency = 0.8  # assumed fraction of the vendor's peak memory bandwidth
    plan.link_efficiency = 0.8  # assumed fraction of the vendor's peak link bandwidth
    plan.output = ""  # JSON file; '': WORKDIR/plan.json if there is a workdir
    return config
