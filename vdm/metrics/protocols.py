"""Evaluation protocols as data. Every result contains its complete protocol."""

import dataclasses

import numpy as np

# Network and view of each metric. Views: 'video', the whole clip; for Inception, 'first', the first
# frame, or 'avg', activations averaged over all frames; 'blocks', each block of a long clip on its
# own. PIXELS metrics need no network.
PIXELS = "pixels"
METRICS = {
    "fvd": ("i3d", "video"),
    "kvd": ("i3d", "video"),
    "fvd_by_block": ("i3d", "blocks"),
    "psnr": (PIXELS, "video"),
    "ssim": (PIXELS, "video"),
    "motion": (PIXELS, "video"),
    "block_shape": (PIXELS, "video"),
    "nearest": (PIXELS, "video"),
    "is_i3d": ("i3d", "video"),
    "fid_c3d": ("c3d", "video"),
    "is_c3d": ("c3d", "video"),
    "fid_avg": ("inception", "avg"),
    "is_avg": ("inception", "avg"),
    "fid_first": ("inception", "first"),
    "is_first": ("inception", "first"),
}
PAIRED = ("psnr", "ssim")  # compare each sample with the real video that it observes
RESIZES = ("reference", "half_pixel")
ANY = 0  # any number


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A set of metrics, and the videos on which they are computed.

    Attributes:
      name: name of the protocol and of its result file.
      table: table of the paper, '' for a general protocol.
      metrics: names in METRICS.
      resize: 'reference', the bilinear resize of the original FVD and FID (TensorFlow 1, without
        half-pixel centres); or 'half_pixel', as in most later code.
      dataset: data set of the real videos.
      splits: splits of the data set; samples are compared with each. 'train' and 'test' are those
        of `make_data_set`; results have the data set's own names.
      num_real: number of real videos per split, 0 for config.eval.num_videos.
      num_generated: number of samples, 0 for config.eval.num_videos.
      frames: number of frames per video, including observed frames; 0: as in the videos.
      frame_rate: frames per second at which videos are sampled, before frameskip; 0: frames as
        stored.
      frameskip: distance between consecutive frames.
      resolution: height and width in pixels before the network's resize; 0: any.
      frames_given: number of observed first frames per generated video.
      given_every: every n-th frame is observed, as in interpolation; 0: the first frames.
      given_frames_counted: whether the networks see the observed frames.
      samples_per_given: number of samples per real video.
      clips_per_video: number of consecutive clips of each video, which are not independent.
      videos_given: number of different videos whose frames or conditions samples are given, and
        which repeat in the same order; 0: they do not repeat.
      windows_per_video: number of random windows of each real video.
      with_replacement: whether real videos are drawn with replacement, with windows that differ
        from those of the samples.
      real_clips: describes which frames of a real video form its clip.
      camera: camera, in data sets with several.
      compression: compression of the files of real and generated videos.
      inception_splits: numbers of splits, one Inception Score each.
      classes: classes of the Inception Score, '' without one.
      block_frames: number of frames of a block, for the metric 'fvd_by_block'.
      repeats: number of sets of samples, with seeds `seed` and up; results are means and standard
        deviations.
      seed: seed of the samples.

    Raises:
      ValueError: an unknown metric or resize.
    """

    name: str
    metrics: tuple[str, ...]
    table: str = ""
    resize: str = "reference"
    dataset: str = "any"
    splits: tuple[str, ...] = ("any",)
    num_real: int = ANY
    num_generated: int = ANY
    frames: int = ANY
    frame_rate: float = 0.0
    frameskip: int = 1
    resolution: int = ANY
    frames_given: int = 0
    given_every: int = 0
    given_frames_counted: bool = True
    samples_per_given: int = 1
    clips_per_video: int = 1
    videos_given: int = ANY
    windows_per_video: int = 1
    with_replacement: bool = False
    real_clips: str = "first frames"
    camera: str = ""
    compression: str = "as found"
    inception_splits: tuple[int, ...] = (1,)
    classes: str = ""
    block_frames: int = 16
    repeats: int = 1
    seed: int = 0

    def __post_init__(self):
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"metric is {metric!r}, and must be one of {', '.join(METRICS)}")
        if self.resize not in RESIZES:
            raise ValueError(f"resize is {self.resize!r}, and must be one of {', '.join(RESIZES)}")

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that the metrics need, without duplicates."""
        networks = dict.fromkeys(METRICS[metric][0] for metric in self.metrics)
        return tuple(name for name in networks if name != PIXELS)

    @property
    def compares_sets(self) -> bool:
        """Whether a metric compares features of sets, so that each set needs two videos."""
        return any(
            METRICS[metric][0] != PIXELS and not metric.startswith("is_") for metric in self.metrics
        )

    @property
    def min_frames(self) -> int:
        """Minimum number of frames of a video; the networks may need more."""
        if "fvd_by_block" in self.metrics:
            return self.block_frames
        return 2 if "motion" in self.metrics else 1

    @property
    def min_videos(self) -> int:
        """Minimum number of videos of a set: of an Inception Score, one per split."""
        scores = any(metric.startswith("is_") for metric in self.metrics)
        return max(2 if self.compares_sets else 1, max(self.inception_splits) * scores)

    def video_of(self, indices: np.ndarray) -> np.ndarray:
        """Returns a number per clip or sample, equal for those that are not independent."""
        videos = indices // (self.clips_per_video * self.samples_per_given)
        return videos % self.videos_given if self.videos_given else videos

    def predicted(self, frames: int) -> list[int]:
        """Returns the indices of the missing frames in a video of `frames` frames."""
        if self.given_every:
            return [frame for frame in range(frames) if frame % self.given_every]
        return list(range(self.frames_given, frames))

    def to_dict(self) -> dict:
        """Returns all fields, for JSON."""
        return dataclasses.asdict(self)


_C3D, _I3D = "101 of UCF101, by C3D", "400 of Kinetics-400, by the I3D of FVD"
_INCEPTION = "1,008 of the Inception release of 2015"

_TEXT = Protocol(
    "text_16x64x64",
    ("fvd", "fid_avg", "is_avg", "fid_first", "is_first"),
    table="Tables 4 and 5",
    dataset="captioned videos",
    splits=("train", "test"),
    real_clips="one random window of each video",
    num_real=4096,
    num_generated=4096,
    frames=16,
    resolution=64,
    compression="none",
    inception_splits=(1, 10),
    classes=_INCEPTION,
)

# The paper does not specify the real videos for FID; we use all, as in training.
_UCF101 = Protocol(
    "ucf101",
    ("fid_c3d", "is_c3d"),
    table="Table 1",
    dataset="ucf101",
    splits=("test",),  # all videos, as in training (vdm/data/tfds/registry.py)
    num_real=13_320,
    num_generated=10_000,
    frames=16,
    resolution=64,
    real_clips="one random window of each video",
    compression="none",
    classes=_C3D,
)

_KINETICS600 = Protocol(
    "kinetics600",
    ("fvd", "is_i3d"),
    table="Table 3",
    dataset="kinetics600",
    splits=("test",),
    num_real=50_000,
    num_generated=50_000,
    frames=16,
    resolution=64,
    frames_given=5,
    real_clips="one random window of each video, without replacement, the samples' own",
    compression="none",
    classes=_I3D,
)

PAPER = (
    _UCF101,
    dataclasses.replace(
        _UCF101,
        name="ucf101_train",
        splits=("only_train",),  # as in the rows that the paper compares with
        num_real=95_370,
        windows_per_video=10,
        real_clips="ten random windows of each training video",
    ),
    Protocol(
        "bair",
        ("fvd",),
        table="Table 2",
        dataset="bair_robot_pushing_small",
        splits=("test",),
        num_real=256,
        num_generated=25_600,
        frames=16,
        resolution=64,
        frames_given=1,
        samples_per_given=100,
        camera="image_main",
        compression="none",
    ),
    _KINETICS600,
    dataclasses.replace(
        _KINETICS600,
        name="kinetics600_with_replacement",
        with_replacement=True,
        real_clips="random windows of videos drawn with replacement, not the samples' own",
    ),
    _TEXT,
    dataclasses.replace(_TEXT, name="text_16x64x64_frameskip4", table="Table 5", frameskip=4),
    dataclasses.replace(_TEXT, name="text_64x64x64", table="Table 6", frames=64),
)

GENERAL = (
    Protocol("fvd", ("fvd",)),
    Protocol("fvd_half_pixel", ("fvd",), resize="half_pixel"),
    Protocol("kvd", ("kvd",)),
    Protocol("prediction", ("fvd", "kvd", *PAIRED, "motion")),
    Protocol("pusht", ("fvd", "kvd", *PAIRED, "motion", "block_shape"), resolution=64),
    Protocol("similarity", (*PAIRED, "motion")),
    Protocol("long", ("fvd_by_block", "motion")),
    Protocol("memorisation", ("nearest",)),
    Protocol("fid", ("fid_avg", "fid_first")),
    Protocol("c3d", ("fid_c3d", "is_c3d"), frames=16, classes=_C3D),
    Protocol(
        "inception_score", ("is_avg", "is_first"), inception_splits=(1, 10), classes=_INCEPTION
    ),
)

PROTOCOLS = {protocol.name: protocol for protocol in (*GENERAL, *PAPER)}
