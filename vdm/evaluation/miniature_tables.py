"""Miniature tables: tables 1, 4, 5 and 6 of the paper, and their claims, on moving digits.

`benchmarks/miniature_tables.py` runs each row with three seeds, and writes one JSON file (a record)
per row and seed; `python -m vdm.evaluation.tables` prints the tables next to the paper's.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vdm import markdown
from vdm.evaluation import paper_tables
from vdm.evaluation.paper_tables import NOT_GIVEN, NOT_RUN
from vdm.shipped import package_folders

SEEDS = (0, 1, 2)
LEVEL = 0.95  # confidence required to decide a claim
BLOCK = 16  # frames
STEPS = 1_200  # training steps of 8 videos without independent images

_SAMPLER = {"sampler": "dpmpp_2m", "num_steps": 8, "batch_size": 32}
_EXTENSIONS = 24  # videos per seed of table 6, whose guided steps take three times as long
_FOLDERS = package_folders("benchmarks")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a miniature table.

    Attributes:
      name: name on the command line and of the files.
      source: origin of the videos: 'shipped', the checkpoint moving_digits; 'trained', a model
        trained for the row; 'train_videos', real videos of the training split; or 'noise'.
      videos: number of videos per seed.
      settings: fields of config.sample.
      training: {'section.field': value}, overrides of configs/moving_digits.py for 'trained'.
      overlap: frames shared by consecutive blocks of 64-frame videos; 0 for single blocks.
    """

    name: str
    source: str = "shipped"
    videos: int = 128
    settings: Mapping = dataclasses.field(default_factory=dict)
    training: Mapping = dataclasses.field(default_factory=dict)
    overlap: int = 0

    @property
    def frames(self) -> int:
        """Frames per video."""
        return 4 * BLOCK if self.overlap else BLOCK

    @property
    def seams(self) -> list[int]:
        """Indices of the frames that begin a new block."""
        return list(range(BLOCK, self.frames, BLOCK - self.overlap)) if self.overlap else []


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper: a metric is lower in one row than in another, at equal seeds."""

    text: str
    metric: str
    lower: str
    higher: str


@dataclasses.dataclass(frozen=True)
class MiniatureTable:
    """A miniature table.

    Attributes:
      number: number of the paper's table.
      title: data and task.
      metrics: columns, keys of the records' metrics.
      rows: rows of the table.
      claims: claims of the paper's table that the rows can test.
      error: what differs between seeds.
    """

    number: int
    title: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    error: str

    def row(self, name: str) -> Row:
        """Returns the row with a name.

        Raises:
          ValueError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.rows)
        raise ValueError(f"table {self.number} has no row {name!r}: its rows are {names}")

    @property
    def paper(self) -> paper_tables.Table:
        """The table of the paper."""
        return next(t for t in paper_tables.TABLES if t.name == f"Table {self.number}")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A paired comparison of two rows: differences at equal seeds.

    Attributes:
      count: number of seeds.
      mean: mean difference.
      interval: its 95% confidence interval by Student's t distribution.
      p_value: p-value of a two-sided paired t-test for mean difference 0.
    """

    count: int
    mean: float
    interval: tuple[float, float]
    p_value: float


def compare(lower: Sequence[float], higher: Sequence[float]) -> Comparison:
    """Compares `higher` with `lower`; both have one value per seed, in the same order.

    Raises:
      ValueError: there are fewer than two seeds, or the numbers of values differ.
    """
    from scipy import stats  # here, because the import takes a sixth of a second

    if len(lower) != len(higher) or len(lower) < 2:
        raise ValueError(f"{len(lower)} and {len(higher)} values: a paired test needs 2 pairs")
    differences = np.asarray(higher, float) - np.asarray(lower, float)
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if not error:  # equal differences at all seeds
        return Comparison(count, mean, (mean, mean), 0.0 if mean else 1.0)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return Comparison(count, mean, (mean - half, mean + half), p_value)


def _guidance(weight: float) -> dict:
    return {**_SAMPLER, "guidance_weight": weight}


def _joint_training(num_images: int) -> Row:
    """Returns a row of table 4; all rows train on the same total number of frames and images.

    A step's FLOPs are proportional to this number, apart from the small temporal attention.
    """
    steps = STEPS * BLOCK // (BLOCK + num_images)
    training = {"data.num_images": num_images, **_length(steps)}
    return Row(f"images_{num_images}", "trained", settings=_guidance(1.0), training=training)


def _length(steps: int) -> dict:
    return {"training.num_steps": steps, "training.decay_steps": steps // 3}


def _extension(method: str, overlap: int) -> Row:
    settings = {"conditioning": method, "reconstruction_micro_batch": 0, "batch_size": _EXTENSIONS}
    return Row(
        f"{method}_overlap_{overlap}",
        videos=_EXTENSIONS,
        settings=_guidance(1.0) | settings,
        overlap=overlap,
    )


def _claims_of_overlap(overlap: int) -> list[Claim]:
    ours, theirs = (f"{method}_overlap_{overlap}" for method in _METHODS)
    return [
        Claim(f"{text}, overlap {overlap}", metric, lower, higher)
        for text, metric, lower, higher in (
            (
                "FVD of reconstruction guidance is below that of replacement",
                "digit_fvd",
                ours,
                theirs,
            ),
            (
                "FID of reconstruction guidance is below that of replacement",
                "digit_fid",
                ours,
                theirs,
            ),
            (
                "IS of reconstruction guidance is above that of replacement",
                "digit_is",
                theirs,
                ours,
            ),
        )
    ]


_OVERLAPS = (1, 4, 8, 12)
_METHODS = ("reconstruction", "replacement")
_UNCONDITIONAL = {"data.condition": "none", "model.num_classes": 0, **_length(STEPS)}

TABLES = (
    MiniatureTable(
        1,
        "generation of 16 frames",
        ("digit_fid", "digit_is", "persistence"),
        (
            Row("unconditional", "trained", settings=_guidance(1.0), training=_UNCONDITIONAL),
            Row("class_conditional", settings=_guidance(1.0)),
            Row("train_videos", "train_videos"),
            Row("noise", "noise"),
        ),
        (
            Claim(
                text="the Inception Score of unconditional samples is below that of real videos",
                metric="digit_is",
                lower="unconditional",
                higher="train_videos",
            ),
            Claim(
                text="the same of a class-conditional model (not in the paper)",
                metric="digit_is",
                lower="class_conditional",
                higher="train_videos",
            ),
        ),
        "trainings for `unconditional`, sampling seeds and other real videos for the other rows",
    ),
    MiniatureTable(
        4,
        "joint training on independent images at equal compute",
        ("digit_fvd", "digit_fid", "digit_is", "persistence", "gradient_variance"),
        tuple(_joint_training(num_images) for num_images in (0, 4, 8)),
        (
            Claim("4 images per video lower FVD", "digit_fvd", "images_4", "images_0"),
            Claim("8 images per video lower FVD", "digit_fvd", "images_8", "images_0"),
            Claim("8 images per video lower FVD more than 4", "digit_fvd", "images_8", "images_4"),
            Claim("8 images per video lower FID", "digit_fid", "images_8", "images_0"),
            Claim("8 images per video raise IS", "digit_is", "images_0", "images_8"),
            Claim(
                text="images reduce the variance of the gradient",
                metric="gradient_variance",
                lower="images_8",
                higher="images_0",
            ),
        ),
        "trainings",
    ),
    MiniatureTable(
        5,
        "classifier-free guidance",
        ("digit_fvd", "digit_fid", "digit_is", "persistence", "as_asked"),
        tuple(Row(f"weight_{w}", settings=_guidance(float(w))) for w in (1, 2, 5)),
        (
            Claim("IS rises from weight 1 to 2", "digit_is", "weight_1", "weight_2"),
            Claim("IS rises from weight 2 to 5", "digit_is", "weight_2", "weight_5"),
            Claim("FID falls from weight 1 to 2", "digit_fid", "weight_2", "weight_1"),
            Claim("FID rises from weight 2 to 5", "digit_fid", "weight_2", "weight_5"),
            Claim("FVD rises from weight 2 to 5", "digit_fvd", "weight_2", "weight_5"),
            Claim("FVD is worse at weight 5 than at 1", "digit_fvd", "weight_1", "weight_5"),
        ),
        "sampling seeds",
    ),
    MiniatureTable(
        6,
        "extension from 16 to 64 frames",
        ("digit_fvd", "digit_fid", "digit_is", "persistence", "change_at_seams"),
        tuple(_extension(method, overlap) for overlap in _OVERLAPS for method in _METHODS),
        tuple(claim for overlap in (8, 1, 4, 12) for claim in _claims_of_overlap(overlap)),
        "sampling seeds",
    ),
)


def table_of(number: int) -> MiniatureTable:
    """Returns the miniature table of a table of the paper.

    Raises:
      ValueError: there is none.
    """
    for table in TABLES:
        if table.number == number:
            return table
    raise ValueError(f"there is no miniature of table {number}: 1, 4, 5 and 6 have one")


def record_name(table: MiniatureTable, row: Row, seed: int) -> str:
    """Returns the file name, without suffix, of the record of a row and seed."""
    return f"table_{table.number}_{row.name}_seed_{seed}"


def load_records(table: MiniatureTable, folder: Path | None = None) -> dict[str, list[dict]]:
    """Returns the records of each row in the order of seeds; [] for a row that was not run.

    Args:
      table: a miniature table.
      folder: folder of the records; default: benchmarks/results/miniature of the repository.

    Raises:
      ValueError: the folder or a file cannot be read.
    """
    folders = [folder] if folder else [each / "results" / "miniature" for each in _FOLDERS]
    found = next((each for each in folders if each.is_dir()), None)
    if found is None:
        raise ValueError(f"{folders[-1]} is not a folder: miniature tables need the repository")
    records = {}
    for row in table.rows:
        paths = [found / f"{record_name(table, row, seed)}.json" for seed in SEEDS]
        records[row.name] = [_read(path) for path in paths if path.is_file()]
    return records


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def verdict(claim: Claim, records: Mapping[str, list[dict]]) -> str:
    """Returns a sentence on whether a claim holds, by how much and with what confidence."""
    values = [
        {record["seed"]: record["metrics"][claim.metric] for record in records[name]}
        for name in (claim.lower, claim.higher)
    ]
    seeds = sorted(values[0].keys() & values[1].keys())
    text = f"{claim.text[0].upper()}{claim.text[1:]}"
    if not seeds:
        return f"{text}: **{NOT_RUN}**."
    if len(seeds) == 1:
        difference = values[1][seeds[0]] - values[0][seeds[0]]
        return (
            f"{text}: **not decided here**, from a single seed; `{claim.metric}` of {claim.higher} "
            f"less that of {claim.lower} is {difference:+.3g}."
        )
    result = compare([values[0][seed] for seed in seeds], [values[1][seed] for seed in seeds])
    if 1 - result.p_value < LEVEL:
        decision = "not decided here"
    else:
        decision = "holds here" if result.mean > 0 else "does not hold here, the opposite does"
    low, high = result.interval
    return (
        f"{text}: **{decision}**; `{claim.metric}` of {claim.higher} less that of {claim.lower} is "
        f"{result.mean:+.3g}, 95% interval {low:+.3g} to {high:+.3g}, "
        f"confidence {_percent(1 - result.p_value)}, {result.count} seeds."
    )


def table_markdown(table: MiniatureTable, records: Mapping[str, list[dict]]) -> list[str]:
    """Returns the lines of a miniature table, its claims and the paper's table."""
    header = ("row", "seeds", "videos per seed", *table.metrics, "hours per seed")
    lines = markdown.table(header, [_cells(table, row, records[row.name]) for row in table.rows])
    if any(row.overlap for row in table.rows):
        lines += ["", f"`digit_fvd` by block of {BLOCK} frames, against real videos' same block:"]
        blocks = max(row.frames for row in table.rows) // BLOCK
        columns = ("row", *(f"block {block + 1}" for block in range(blocks)))
        lines += ["", *markdown.table(columns, [_blocks(r, records, blocks) for r in table.rows])]
    lines += ["", f"`+-` is the standard deviation over seeds, which are {table.error}.", ""]
    lines += [f"- {verdict(claim, records)}" for claim in table.claims]
    lines += ["", f"{table.paper.name} of the paper, {table.paper.title}:", ""]
    return [*lines, *markdown.table(table.paper.header, table.paper.rows)]


def to_markdown(folder: Path | None = None) -> str:
    """Formats all miniature tables as a page; for `folder` and errors, see `load_records`."""
    lines = ["# The paper's tables in miniature", ""]
    lines += ["On moving digits: `digit_` metrics are not comparable with the paper's.", ""]
    for table in TABLES:
        lines += [f"## Table {table.number} in miniature: {table.title}", ""]
        lines += [*table_markdown(table, load_records(table, folder)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _cells(table: MiniatureTable, row: Row, records: list[dict]) -> list[str]:
    if not records:
        return [row.name, "0", str(row.videos), *[NOT_RUN] * (len(table.metrics) + 1)]
    metrics = [
        _mean([record["metrics"][metric] for record in records if metric in record["metrics"]])
        for metric in table.metrics
    ]
    hours = np.mean([record["hours"] for record in records])
    return [row.name, str(len(records)), str(records[0]["videos"]), *metrics, f"{hours:.2f}"]


def _blocks(row: Row, records: Mapping[str, list[dict]], blocks: int) -> list[str]:
    values = [record["digit_fvd_by_block"] for record in records[row.name]]
    if not values:
        return [row.name, *[NOT_RUN] * blocks]
    return [row.name, *(_mean(list(block)) for block in zip(*values, strict=True))]


def _mean(values: list[float]) -> str:
    if not values:
        return NOT_GIVEN
    error = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{error}"


def _percent(confidence: float) -> str:
    return ">99.9%" if confidence > 0.999 else f"{confidence:.1%}"
