"""The tables of the paper (section 4) as data, with all methods that they compare."""

import dataclasses
from collections.abc import Mapping

# Cells without a number, in the paper and in our results.
NOT_GIVEN, NOT_RUN = "-", "not run"

# The column headers of the paper.
_LABELS = {
    "data.num_images": "image frames",
    "data.frameskip": "frameskip",
    "sample.guidance_weight": "guidance weight",
    "sample.conditioning": "method",
    "sample.sampler": "sampler",
    "sample.num_steps": "steps",
    "fvd": "FVD",
    "is_i3d": "IS (I3D)",
    "fid_c3d": "FID (C3D)",
    "is_c3d": "IS (C3D)",
    "fid_avg": "FID-avg",
    "is_avg": "IS-avg",
    "fid_first": "FID-first",
    "is_first": "IS-first",
}

_TEXT_METRICS = ("fvd", "fid_avg", "is_avg", "fid_first", "is_first")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
      name: 'Table 1' to 'Table 6'.
      title: data set and task.
      protocols: names of the protocols in vdm.metrics.protocols whose results the table shows.
      requires: {'section.field' of the configuration: allowed values}; None among the values allows
        results without the field, such as results of `python -m vdm.metrics`.
      settings: columns before the metrics, as 'section.field' of the configuration.
      metrics: columns of metrics, keys of vdm.metrics.protocols.METRICS.
      rows: the paper's rows: method, one value per setting, one cell per metric.
      note: a remark printed below the table, or ''.
    """

    name: str
    title: str
    protocols: tuple[str, ...]
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    requires: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def header(self) -> list[str]:
        """Column headers; the first, for the method, is empty."""
        return ["", *(_LABELS[column] for column in (*self.settings, *self.metrics))]


_SAMPLER = ("sample.sampler", "sample.num_steps")
_METHOD = (*_SAMPLER, "sample.conditioning")
_ALL_FRAMES_AT_ONCE = {"predict.stride": (0, None), "data.condition": ("none", None)}
_THE_PAPER = "Video Diffusion (the paper)"


def _others(settings: tuple[str, ...], *rows: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Inserts empty settings cells into rows (method, metrics ...) of methods without settings."""
    return tuple((row[0], *[NOT_GIVEN] * len(settings), *row[1:]) for row in rows)


_TRAIN_AND_VALIDATION = (
    "In the paper, FVD and FID are against the training / validation set, and IS is over 1 / 10 "
    "splits. Its data set is private."
)

TABLES = (
    Table(
        "Table 1",
        "UCF101, unconditional",
        ("ucf101", "ucf101_train"),
        _SAMPLER,
        ("fid_c3d", "is_c3d"),
        (
            *_others(
                _SAMPLER,
                ("MoCoGAN", "26998", "12.42"),
                ("TGAN-F", "8942.63", "13.62"),
                ("TGAN-ODE", "26512", "15.2"),
                ("TGAN-F, 128x128", "7817", "22.91"),
                ("VideoGPT, 128x128", NOT_GIVEN, "24.69"),
                ("TGAN-v2", "3431", "26.60"),
                ("TGAN-v2, 128x128", "3497", "28.87"),
                ("DVD-GAN, 128x128", NOT_GIVEN, "32.97"),
            ),
            (_THE_PAPER, "ancestral", "256", "295 +- 3", "57 +- 0.62"),
            *_others(_SAMPLER, ("real data at 64x64", NOT_GIVEN, "60.2")),
        ),
        requires={"sample.task": ("generate", None), "data.condition": ("none", None)},
        note="The paper specifies neither the real videos of FID nor the meaning of its +-. "
        "`ucf101` compares with one window of each of the 13,320 videos, which is our reading; "
        "`ucf101_train` compares with ten windows of each of the 9,537 training videos, as the "
        "other rows do.",
    ),
    Table(
        "Table 2",
        "BAIR robot pushing, 1 frame given",
        ("bair",),
        _METHOD,
        ("fvd",),
        (
            *_others(
                _METHOD,
                ("DVD-GAN", "109.8"),
                ("VideoGPT", "103.3"),
                ("TrIVD-GAN-FP", "103.3"),
                ("Transframer", "100"),
                ("CCVS", "99"),
                ("Video Transformer", "94"),
                ("FitVid", "93.6"),
                ("NUWA", "86.9"),
            ),
            (_THE_PAPER, "ancestral", "512", "reconstruction", "68.19"),
            (_THE_PAPER, "langevin", "256 + 256", "reconstruction", "66.92"),
        ),
        requires=_ALL_FRAMES_AT_ONCE,
        note="The paper uses the camera `image_main`, most others `image_aux1`: not comparable.",
    ),
    Table(
        "Table 3",
        "Kinetics-600, 5 frames given",
        ("kinetics600", "kinetics600_with_replacement"),
        _METHOD,
        ("fvd", "is_i3d"),
        (
            *_others(
                _METHOD,
                ("Video Transformer", "170", NOT_GIVEN),
                ("DVD-GAN-FP", "69.1", NOT_GIVEN),
                ("Video VQ-VAE", "64.3", NOT_GIVEN),
                ("CCVS", "55", NOT_GIVEN),
                ("TrIVD-GAN-FP", "25.74", "12.54"),
                ("Transframer", "25.4", NOT_GIVEN),
            ),
            (_THE_PAPER, "ancestral", "256", "reconstruction", "18.6", "15.39"),
            (_THE_PAPER, "langevin", "128 + 128", "reconstruction", "16.2 +- 0.34", "15.64"),
            (
                f"{_THE_PAPER}, clips with replacement and another seed",
                *("langevin", "128 + 128", "reconstruction", "16.9", NOT_GIVEN),
            ),
        ),
        requires=_ALL_FRAMES_AT_ONCE,
        note="IS is over the 400 classes of Kinetics-400, those of the I3D of FVD. The paper does "
        "not specify the meaning of its +-.",
    ),
    Table(
        "Table 4",
        "Text to video: joint training on images",
        ("text_16x64x64",),
        ("data.num_images",),
        _TEXT_METRICS,
        tuple(
            (_THE_PAPER, *row.split())
            for row in (
                "0 202.28/205.42 37.52/37.40 7.91/7.58 41.14/40.87 9.23/8.74",
                "4 68.11/70.74 18.62/18.42 9.02/8.53 22.54/22.19 10.58/9.91",
                "8 57.84/60.72 15.57/15.44 9.32/8.82 19.25/18.98 10.81/10.12",
            )
        ),
        requires={
            "model.base_channels": (128,),
            "data.num_images": (0, 4, 8),
            "data.frameskip": (1,),
            "sample.task": ("generate",),
            "sample.guidance_weight": (1.0,),
        },
        note=_TRAIN_AND_VALIDATION,
    ),
    Table(
        "Table 5",
        "Text to video: classifier-free guidance",
        ("text_16x64x64", "text_16x64x64_frameskip4"),
        ("data.frameskip", "sample.guidance_weight"),
        _TEXT_METRICS,
        tuple(
            (_THE_PAPER, *row.split())
            for row in (
                "1 1.0 41.65/43.70 12.49/12.39 10.80/10.07 16.42/16.19 12.17/11.22",
                "1 2.0 50.19/48.79 10.53/10.47 13.22/12.10 13.91/13.75 14.81/13.46",
                "1 5.0 163.74/160.21 13.54/13.52 14.80/13.46 17.07/16.95 16.40/14.75",
                "4 1.0 56.71/60.30 11.03/10.93 9.40/8.90 16.21/15.96 11.39/10.61",
                "4 2.0 54.28/51.95 9.39/9.36 11.53/10.75 14.21/14.04 13.81/12.63",
                "4 5.0 185.89/176.82 11.82/11.78 13.73/12.59 16.59/16.44 16.24/14.62",
            )
        ),
        requires={
            "model.base_channels": (256,),
            "data.num_images": (8,),
            "sample.task": ("generate",),
        },
        note=_TRAIN_AND_VALIDATION,
    ),
    Table(
        "Table 6",
        "Text to video: extension to 64 frames",
        ("text_64x64x64",),
        ("sample.guidance_weight", "sample.conditioning"),
        _TEXT_METRICS,
        tuple(
            (_THE_PAPER, *row.split())
            for row in (
                "2.0 reconstruction 136.22/134.55 13.77/13.62 10.30/9.66 16.34/16.46 14.67/13.37",
                "2.0 replacement 451.45/436.16 25.95/25.52 7.00/6.75 16.33/16.46 14.67/13.34",
                "5.0 reconstruction 133.92/133.04 13.59/13.58 10.31/9.65 16.28/16.53 15.09/13.72",
                "5.0 replacement 456.24/441.93 26.05/25.69 7.04/6.78 16.30/16.54 15.11/13.69",
            )
        ),
        requires={
            "model.base_channels": (256,),
            "data.num_images": (8,),
            "sample.task": ("extend",),
            "sample.conditioning": ("reconstruction", "replacement"),
            "sample.context_noise": (0.0, None),
            "extend.method": ("autoregressive", None),
            "extend.num_given": (0, None),
        },
        note=_TRAIN_AND_VALIDATION,
    ),
)
