"""How numbers are made, as data: written whole into every result, beside the number."""

import dataclasses

# Of each metric: the network whose features or probabilities it reads, and what that sees of a
# video: the clip, or for Inception the 'first' frame or all, whose activations are averaged.
METRICS = {
    "fvd": ("i3d", "video"),
    "is_i3d": ("i3d", "video"),
    "fid_c3d": ("c3d", "video"),
    "is_c3d": ("c3d", "video"),
    "fid_avg": ("inception", "avg"),
    "is_avg": ("inception", "avg"),
    "fid_first": ("inception", "first"),
    "is_first": ("inception", "first"),
}
RESIZES = ("reference", "half_pixel")
ANY = 0  # in a number's place: as many as there are


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is measured, of which videos.

    Attributes:
      name: of the protocol, which names the result file.
      table: of the paper, or '' for a general protocol.
      metrics: of METRICS.
      resize: 'reference', TensorFlow 1's bilinear without half-pixel centres, as the original FVD
        and FID have it, or 'half_pixel', as most later code does.
      dataset: that real videos are from.
      splits: of it; samples are compared with each by itself. 'train' and 'test' stand for what the
        data set is trained and tested on, and results have its own names of these.
      num_real, num_generated: videos, of each split; 0 for what the configuration says.
      frames: of each video, given ones included; 0 for what the videos have.
      frame_rate: frames per second at which videos are sampled before frameskip; 0 for frames as
        stored.
      frameskip: one frame of these is kept.
      resolution: height and width of videos before the network's resize; 0 for any.
      frames_given: of each generated video that are the real video's.
      given_frames_counted: whether those are seen by the network.
      samples_per_given: generated videos for each real one.
      real_clips: which frames of a real video are taken.
      camera: of data sets with several.
      compression: of the files that real and generated videos are read from.
      inception_splits: parts for each Inception Score.
      repeats: of the samples, with the seeds from `seed` on: means and deviations are reported.
      seed: of the samples.
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
    given_frames_counted: bool = True
    samples_per_given: int = 1
    real_clips: str = "first frames"
    camera: str = ""
    compression: str = "as found"
    inception_splits: tuple[int, ...] = (1,)
    repeats: int = 1
    seed: int = 0

    def __post_init__(self):
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"{metric!r} is none of the metrics {', '.join(METRICS)}")
        if self.resize not in RESIZES:
            raise ValueError(f"resize must be one of {', '.join(RESIZES)}, not {self.resize!r}")

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that the metrics need, each once."""
        return tuple(dict.fromkeys(METRICS[metric][0] for metric in self.metrics))

    def to_dict(self) -> dict:
        """All fields, for JSON."""
        return dataclasses.asdict(self)


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
)

PAPER = (
    Protocol(
        "ucf101",
        ("fid_c3d", "is_c3d"),
        table="Table 1",
        dataset="ucf101",
        splits=("test",),  # which is all videos, as training is on all (vdm/data/tfds/registry.py)
        num_real=13_320,
        num_generated=10_000,
        frames=16,
        resolution=64,
        real_clips="one random window of each video",
        compression="none",
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
    Protocol(
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
    ),
    _TEXT,
    dataclasses.replace(_TEXT, name="text_16x64x64_frameskip4", table="Table 5", frameskip=4),
    dataclasses.replace(_TEXT, name="text_64x64x64", table="Table 6", frames=64),
)

GENERAL = (
    Protocol("fvd", ("fvd",)),
    Protocol("fvd_half_pixel", ("fvd",), resize="half_pixel"),
    Protocol("fid", ("fid_avg", "fid_first")),
    Protocol("c3d", ("fid_c3d", "is_c3d"), frames=16),
    Protocol("inception_score", ("is_avg", "is_first"), inception_splits=(1, 10)),
)

PROTOCOLS = {protocol.name: protocol for protocol in (*GENERAL, *PAPER)}
