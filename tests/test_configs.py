"""Every configuration is complete and valid; six of them equal appendix A of the paper."""

import importlib.util
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.build import parameter_shapes
from vdm.checks import RULES, validate
from vdm.config import default_config
from vdm.models.unet import SpaceTimeUNet
from vdm.training.state import make_learning_rate

ROOT = pathlib.Path(__file__).parents[1]
PAPER = ROOT.parent / "shared" / "paper.md"

# Appendix A, copied from the paper, not from configs/.
TABLE = """\
| | UCF101 | BAIR | Kinetics-600 | text small | text large | text 9x128 |
|---|---|---|---|---|---|---|
| video | 16x64x64 skip 1 | 16x64x64 skip 1 | 16x64x64 skip 1 | 16x64x64 skip 1 | 16x64x64 skip 1 and 4 | 9x128x128 skip 1 |
| base channels | 256 | 128 | 256 | 128 | 256 | 128 |
| multipliers | 1,2,4,8 | 1,2,3,4 | 1,2,4,8 | 1,2,4,8 | 1,2,4,8 | 1,2,4,8,16 |
| blocks per resolution | 2 | 3 | 2 | 2 | 2 | 2 |
| head dimension | 64 | 64 | 64 | 64 | 64 | 128 |
| conditioning MLP layers | 4 | 2 | 2 | 4 | 4 | 4 |
| weight decay | 0 | 0.01 | 0 | 0 | 0 | 0 |
| Adam b1, b2 | .9, .99 | .9, .999 | .9, .99 | .9, .99 | .9, .99 | .9, .99 |
| learning rate | 3e-4 | 2e-4 | 2e-4 | 3e-4 | 3e-4 | 2e-4 |
| batch | 128 | 128 | 256 | 128 | 128 | 128 |
| EMA | .9999 | .999 | .9999 | .9999 | .9999 | .9999 |
| dropout | 0.1 | 0.1 | 0.1 | 0 | 0 | 0 |
| steps | 60,000 | 660,000 | 220,000 | 200,000 | 700,000 | 800,000 |
| hardware (TPU v4 chips) | 128 | 128 | 256 | 64 | 128 | 128 |
| image frames per video | 8 | 8 | 8 | 0, 4, 8 | 8 | 7 |
| target | eps | v | v | eps | eps | eps |
| sampler | ancestral 256 | 256 + 256 Langevin | 128 + 128 Langevin | ancestral 256 | ancestral 256 | ancestral 256 |
| gamma | 0.1 | 0.0 | 0.0 | 0.3 | 0.3 | 0.3 |
| reconstruction weight w_r | | 50 | 9 | | | |
| augmentation | | left-right flips | | | | |
"""  # noqa: E501

FILE_OF_COLUMN = {
    "UCF101": "ucf101",
    "BAIR": "bair",
    "Kinetics-600": "kinetics600",
    "text small": "text_small",
    "text large": "text_large",
    "text 9x128": "text_9x128",
}
PAPER_CONFIGS = sorted(FILE_OF_COLUMN.values())
ALL_CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def load(name):
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"configs.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flatten(config):
    """Returns {"section.field": value}."""
    return {
        f"{section}.{field}": value
        for section, fields in config.items()
        if hasattr(fields, "items")
        for field, value in fields.items()
    }


def columns(table):
    """Returns {config name: {row: cell}} of the first Markdown table with these columns."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in table[table.index("| | UCF101 ") :].split("\n\n")[0].strip().splitlines()
    ]
    header, _, *body = rows
    return {
        FILE_OF_COLUMN[column]: {row[0]: row[index] for row in body}
        for index, column in enumerate(header)
        if column
    }


def expected_fields(cells):
    """Returns a column of the table as configuration fields."""
    numbers = {row: [float(n) for n in re.findall(r"[\d.]+", cell)] for row, cell in cells.items()}
    frames, height, width, frameskip = numbers["video"][:4]
    assert height == width
    b1, b2 = numbers["Adam b1, b2"]
    return {
        "data.frames": frames,
        "data.resolution": height,
        "data.frameskip": frameskip,
        "model.base_channels": float(cells["base channels"]),
        "model.channel_multipliers": tuple(numbers["multipliers"]),
        "model.blocks_per_resolution": float(cells["blocks per resolution"]),
        "model.head_dim": float(cells["head dimension"]),
        "model.embedding_layers": float(cells["conditioning MLP layers"]),
        "training.weight_decay": float(cells["weight decay"]),
        "training.adam_b1": b1,
        "training.adam_b2": b2,
        "training.learning_rate": float(cells["learning rate"]),
        "training.batch_size": float(cells["batch"]),
        "training.ema_decay": float(cells["EMA"]),
        "model.dropout": float(cells["dropout"]),
        "training.num_steps": float(cells["steps"].replace(",", "")),
        "data.num_images": numbers["image frames per video"][-1],
        "diffusion.target": cells["target"],
        "sample.sampler": "langevin" if "Langevin" in cells["sampler"] else "ancestral",
        "sample.num_steps": numbers["sampler"][0],
        "sample.gamma": float(cells["gamma"]),
        "sample.reconstruction_weight": float(cells["reconstruction weight w_r"] or 1.0),
        "data.augment_flip": cells["augmentation"] == "left-right flips",
        # The line above the table: all six models.
        "diffusion.log_snr_min": -20.0,
        "diffusion.log_snr_max": 20.0,
        "model.attention_resolutions": (8, 16, 32),
        "model.embedding_dim": 1024,
    }


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_is_valid_and_adds_no_fields(name):
    config = load(name).get_config()
    validate(config)

    assert flatten(config).keys() == flatten(default_config()).keys()


def test_each_field_has_one_rule():
    fields = {name for name in default_config() if name in ("seed", "checkpoint", "step")}
    assert RULES.keys() == flatten(default_config()).keys() | fields


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_header_has_the_command(name):
    header = load(name).__doc__
    assert f"python -m vdm.main --config=configs/{name}.py" in header
    assert "Hardware" in header
    assert "Expected" in header


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_header_has_every_command(name):
    header = load(name).__doc__
    for mode in ("train", "sample", "eval"):
        assert f"--config=configs/{name}.py --workdir=DIR --mode={mode}\n" in header
    assert f"python -m vdm.data.prepare {load(name).get_config().data.name}" in header
    assert "python -m vdm.evaluation.tables DIR\n" in header


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_header_has_the_memory_and_the_hours_of_the_plan(name):
    module = load(name)
    plan = json.loads((ROOT / f"benchmarks/results/plans/{name}_train.json").read_text())
    step, num_steps = plan["steps"]["train"], module.get_config().training.num_steps
    line = next(line for line in module.__doc__.splitlines() if "of 32 GiB" in line)
    chips, memory, first, last = map(
        float,
        re.search(
            r"^ +(\d+) TPU v4 chips +([\d.]+) of 32 GiB +([\d.]+) to ([\d.]+) hours$", line
        ).groups(),
    )
    assert chips == plan["devices"]
    assert memory == pytest.approx(step["memory"]["total_bytes"] / 2**30, abs=0.05)
    hours = [step["seconds"][kind] * num_steps / 3600 for kind in ("overlapped", "in_turn")]
    assert [first, last] == pytest.approx(hours, abs=0.5)


def _parameters_of_the_authors_layout(model, side):
    """Counts by the layout of the authors' released U-Net, and temporal after spatial attention."""
    width, head = model.embedding_dim, model.head_dim
    relative = 2 * (2 * model.max_relative_distance + 1) * head
    levels = [model.base_channels * multiplier for multiplier in model.channel_multipliers]
    finest_with_attention = int(math.log2(side // 32))

    def dense(before, after):
        return before * after + after

    def conv(before, after):
        return 9 * before * after + after

    def residual(before, after):
        skip = 0 if before == after else dense(before, after)
        norms = 2 * before + 2 * after
        return norms + conv(before, after) + conv(after, after) + dense(width, after) + skip

    def attention(level):
        c = levels[level]
        return 2 * (2 * c + 4 * dense(c, c)) + relative if level >= finest_with_attention else 0

    last, blocks = len(levels) - 1, model.blocks_per_resolution
    total = model.embedding_layers * dense(width, width) + conv(3, levels[0])
    h, skips = levels[0], [levels[0]]
    for level, c in enumerate(levels):
        for _ in range(blocks):
            total += residual(h, c) + attention(level)
            h = c
            skips.append(h)
        if level < last:
            total += conv(h, h)
            skips.append(h)
    total += 2 * residual(h, h) + attention(last)
    for level in range(last, -1, -1):
        for _ in range(blocks + 1):
            total += residual(h + skips.pop(), levels[level]) + attention(level)
            h = levels[level]
        if level:
            total += conv(h, h)
    return total + 2 * h + conv(h, 3)


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_parameters_are_those_of_the_authors_layout_and_of_the_header(name):
    module = load(name)
    config = module.get_config()
    shapes = parameter_shapes(config)
    counts = {path: math.prod(shape) for path, shape in shapes.items()}
    text = sum(count for path, count in counts.items() if path.startswith("conditioning/text"))
    expected = _parameters_of_the_authors_layout(config.model, config.data.resolution)
    assert sum(counts.values()) - text == expected
    assert f"Parameters: {sum(counts.values()):,}.\n" in module.__doc__


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_choices_of_the_authors_code_are_set_and_in_the_header(name):
    module = load(name)
    config = module.get_config()
    fields = flatten(config)
    expected = {
        "diffusion.time_sampling": "independent",
        "diffusion.loss_weighting": "none",
        "model.attention_bias": True,
        "model.narrow_upsampling": False,
        "training.ema_ramp": False,
        "training.warmup_steps": 1_000,
    }
    assert {field: fields[field] for field in expected} == expected
    learning_rate = make_learning_rate(config)
    rates = [float(learning_rate(step)) for step in (0, 500, 1_000, 50_000)]
    assert rates == pytest.approx(config.training.learning_rate * np.array([0, 0.5, 1, 1]))
    header = " ".join(module.__doc__.split())
    assert (
        "(channels kept by upsampling, biases of all projections, independent times, 32 groups per "
        "norm, warm-up, EMA)"
    ) in header
    if name == "ucf101":
        assert "64x64: the central square, resized by area." in header


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_equals_the_papers_table(name):
    module, cells = load(name), columns(TABLE)[name]
    config = module.get_config()
    fields, expected = flatten(config), expected_fields(cells)
    assert {field: fields[field] for field in expected} == expected
    assert f"{cells['hardware (TPU v4 chips)']} TPU v4 chips" in module.__doc__
    assert f"{cells['steps']} steps" in module.__doc__
    assert config.data.condition == ("text" if name.startswith("text") else "none")
    # On the page itself, though the defaults are the same.
    page = (ROOT / "configs" / f"{name}.py").read_text()
    for field in expected.keys() - {"diffusion.log_snr_min", "diffusion.log_snr_max"}:
        if field != "sample.reconstruction_weight" or cells["reconstruction weight w_r"]:
            assert f"config.{field} = " in page
    if name == "bair":
        assert "config.data.camera = " in page


def test_table_equals_the_papers():
    if not PAPER.exists():
        pytest.skip(f"{PAPER} is missing")
    assert columns(PAPER.read_text()) == columns(TABLE)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("text_large", "ucf101")))
        for name in PAPER_CONFIGS
    ],
)
def test_network_maps_a_video_to_its_shape(name):
    config = load(name).get_config()
    data, width = config.data, config.model.text_width
    model = SpaceTimeUNet(**config.model)
    shape = (1, data.frames + data.num_images, data.resolution, data.resolution, data.channels)
    condition = {}
    if data.condition == "text":
        condition = {
            "text": jnp.zeros((1, data.text_tokens, width)),
            "text_mask": jnp.ones((1, data.text_tokens), bool),
            "image_text": jnp.zeros((1, data.num_images, data.text_tokens, width)),
            "image_text_mask": jnp.ones((1, data.num_images, data.text_tokens), bool),
        }
    output, _ = jax.eval_shape(
        lambda z, log_snr, condition: model.init_with_output(
            jax.random.key(0), z, log_snr, condition, num_images=data.num_images
        ),
        jax.ShapeDtypeStruct(shape, jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        condition,
    )
    assert output.shape == shape
    assert output.dtype == jnp.float32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.condition", "caption"),
        ("data.frame_rate", -1.0),
        ("data.frame_rate", float("inf")),
        ("data.frame_rate", float("nan")),
        ("data.frame_rate", 1001.0),
        ("data.frames", 0),
        ("data.num_images", -1),
        ("data.resolution", 60),
        ("diffusion.log_snr_max", 200.0),
        ("diffusion.log_snr_min", 20.0),
        ("diffusion.log_snr_min", -2000.0),  # more than exp can take
        ("diffusion.log_snr_shift", -70.0),
        ("diffusion.log_snr_shift", 300.0),
        ("diffusion.target", "noise"),
        ("eval.num_videos", 0),
        ("model.attention_resolutions", ("8",)),
        ("model.attention_resolutions", (8.5,)),
        ("model.channel_multipliers", ()),
        ("model.channel_multipliers", (1.5,)),
        ("model.channel_multipliers", (None, "a")),
        ("model.dropout", 1.5),
        ("model.dtype", "float16"),
        ("model.embedding_dim", 6),
        ("model.head_dim", 48),
        ("model.num_classes", 10),
        ("model.text_width", 8),
        ("model.action_width", 2),
        ("sample.action", (1.0, 0.0)),
        ("sample.action", (float("nan"),)),
        ("sample.gamma", -0.1),
        ("sample.reconstruction_micro_batch", -1),
        ("sample.sampler", "euler"),
        ("training.batch_size", 0),
        ("training.decay_steps", 60_001),
        ("training.ema_decay", 2.0),
        ("training.learning_rate", 1e39),  # infinite in float32
        ("training.num_steps", 2**31),  # of another sign in int32
        ("training.profile_steps", ("1", "2")),
        ("training.warmup_steps", 60_001),
    ],
)
def test_names_the_field_of_an_invalid_value(field, value):
    config = load("ucf101").get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=re.escape(f"config.{field} is {value!r}")):
        validate(config)


def test_huge_intervals_mean_never():
    config = load("ucf101").get_config()
    config.training.update(checkpoint_every=2**63 - 1, log_every=10**12, sample_every=10**12)
    validate(config)
