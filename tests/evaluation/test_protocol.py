"""Evaluation by a protocol resumes, equals its closed form, and refuses unsuitable videos."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from tests.compiled import init_params
from vdm import preflight
from vdm.checks import validate
from vdm.configuration.resolve import find_file, resolve
from vdm.data.datasets import make_data_set
from vdm.evaluation import protocol
from vdm.evaluation.paper_tables import TABLES
from vdm.evaluation.report import evaluate_to_folder
from vdm.evaluation.tables import belongs, rows_of, to_markdown
from vdm.evaluation.tables import main as write_tables
from vdm.metrics.frechet import frechet_distance
from vdm.metrics.measure import compare, summarize
from vdm.metrics.protocols import PROTOCOLS, Protocol
from vdm.sampling.conditions import examples_of, make_observed
from vdm.video.pixels import from_uint8, to_uint8

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("quick_compilation")


class MeanOfQuarters:
    """Features: the mean of each quarter of the frame, over all frames."""

    digest, min_frames, has_classes = "none", 1, True

    def __call__(self, videos):
        n, frames, side = videos.shape[:3]
        quarters = videos.mean(-1).reshape(n, frames, 2, side // 2, 2, side // 2).mean((1, 3, 5))
        return {"features": quarters.reshape(n, 4) / 127.5 - 1}


@pytest.fixture
def config(tiny_config, monkeypatch):
    monkeypatch.setattr(protocol, "make_extractors", lambda _: {"i3d": MeanOfQuarters()})
    tiny_config.sample.batch_size = 4
    tiny_config.eval.update(protocol="fvd", num_videos=12, shard_size=8, batch_size=5)
    return tiny_config


def test_fvd_equals_that_of_the_samples_on_disk(config, tmp_path):
    params = init_params(config)
    result = protocol.evaluate(config, params, 7, tmp_path / "samples")
    shards = sorted(pathlib.Path(result["generated"]["paths"][0]).glob("*.npz"))
    samples = np.concatenate([np.load(shard)["video"] for shard in shards])
    source = make_data_set(config, "test")
    real = np.stack([source.example(i)["video"] for i in range(12)])

    def statistics(videos):
        quarters = videos.reshape(12, 4, 2, 4, 2, 4).mean((1, 3, 5)).reshape(12, 4)
        return quarters.mean(0), np.cov(quarters, rowvar=False)

    expected = frechet_distance(*statistics(real), *statistics(from_uint8(samples)))
    assert result["fvd"] == pytest.approx(expected, abs=1e-3)
    assert result["protocol"]["num_generated"] == 12
    assert result["protocol"]["splits"] == ("test",)

    # A resumed evaluation gives the same result.
    shards[1].unlink()
    again = protocol.evaluate(config, params, 7, tmp_path / "samples")
    assert json.dumps(again) == json.dumps(result)
    page = protocol.to_markdown(result)
    assert f"| fvd | {result['fvd']:.3f} |" in page


@pytest.mark.slow
def test_repeats_use_consecutive_seeds(config, tmp_path):
    params = init_params(config)
    config.eval.update(num_videos=4, repeats=2)
    both = protocol.evaluate(config, params, 0, tmp_path)
    config.eval.repeats = 1
    values = []
    for seed in (0, 1):
        config.sample.seed = seed
        values.append(protocol.evaluate(config, params, 0, tmp_path)["fvd"])
    assert both["fvd_of_repeats"] == values and values[0] != values[1]
    assert both["fvd"] == pytest.approx(np.mean(values))
    assert both["fvd_standard_deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_compares_text_to_video_with_training_and_held_out_videos(config, tmp_path, monkeypatch):
    small = dataclasses.replace(
        PROTOCOLS["text_16x64x64"],
        metrics=("fvd",),
        num_real=6,
        num_generated=6,
        frames=4,
        resolution=8,
    )
    monkeypatch.setitem(PROTOCOLS, small.name, small)
    config.eval.protocol = small.name
    result = protocol.evaluate(config, init_params(config), 0, tmp_path)
    shards = sorted(pathlib.Path(result["generated"]["paths"][0]).glob("*.npz"))
    samples = np.concatenate([np.load(shard)["video"] for shard in shards])
    for name, split in (("fvd", "train"), ("fvd_test", "test")):
        source = make_data_set(config, split)
        real = np.stack([to_uint8(source.example(i)["video"]) for i in range(6)])
        statistics = []
        for videos in (real, samples):
            quarters = MeanOfQuarters()(videos.repeat(3, axis=-1))["features"]
            statistics += [quarters.mean(0), np.cov(quarters, rowvar=False)]
        assert result[name] == pytest.approx(frechet_distance(*statistics), abs=1e-3)
    assert result["protocol"]["splits"] == ("train", "test")
    table = next(table for table in TABLES if table.name == "Table 4")
    result["config"]["model"]["base_channels"] = 128
    result["config"]["sample"]["guidance_weight"] = 1.0
    row = rows_of(table, [{**result, "path": tmp_path / "r.json"}])[-1]
    assert f"{result['fvd']:.2f} / {result['fvd_test']:.2f}" in row


def test_without_a_classifier_the_other_metrics_are_reported(config, tmp_path, monkeypatch, capsys):
    class WithoutClassifier(MeanOfQuarters):
        has_classes = False

    def make_extractors(_):
        return {"i3d": WithoutClassifier()}

    monkeypatch.setitem(PROTOCOLS, "fvd", Protocol("fvd", ("fvd", "is_i3d")))
    monkeypatch.setattr(protocol, "make_extractors", make_extractors)
    config.eval.num_videos = 8
    result = protocol.evaluate(config, init_params(config), 0, tmp_path)
    warning = "is_i3d left out: the Inception Score needs the classifier of i3d"
    assert result["fvd"] > 0 and "is_i3d" not in result
    assert any(sentence.startswith(warning) for sentence in result["warnings"])

    monkeypatch.setattr(preflight, "make_extractors", make_extractors)
    config.eval.baseline = "train_videos"  # needs no weights
    capsys.readouterr()
    preflight.check(config, tmp_path, "eval")  # before any work
    assert f"warning: {warning}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metric", "samples", "videos", "reason"),
    [
        ("fvd", 1, 0, r"config\.eval\.num_videos is 1, and must be at least 2 for"),
        ("kvd", 8, 1, "'fvd' needs 2 real videos, and the split 'test' has 1$"),
        ("is_i3d", 9, 0, r"config\.eval\.num_videos is 9, and must be at least 10 for"),
        ("fvd", 2, 2, ""),
        ("is_i3d", 10, 0, ""),
        ("motion", 1, 1, ""),
    ],
)
def test_too_few_videos_are_found_before_sampling(
    config, tmp_path, monkeypatch, metric, samples, videos, reason
):
    small = Protocol("fvd", (metric,), inception_splits=(1, 10))
    monkeypatch.setitem(PROTOCOLS, "fvd", small)
    networks = {"i3d": MeanOfQuarters()} if small.networks else {}
    monkeypatch.setattr(preflight, "make_extractors", lambda _: networks)
    monkeypatch.setattr(protocol, "number_of_videos", lambda _: videos)
    config.eval.update(protocol="fvd", num_videos=samples, baseline="train_videos")
    with pytest.raises(ValueError, match=reason) if reason else contextlib.nullcontext():
        preflight.check(config, tmp_path, "eval")


def test_consecutive_samples_share_an_example(tiny_config):
    tiny_config.sample.per_example = 100
    assert examples_of(tiny_config, [0, 99, 100, 25_599]).tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sample.task": "generate"}, r"sample\.task is 'generate', and must be another"),
        ({"sample.task": "cascade"}, r"sample\.task is 'cascade', and must be another"),
        ({"sample.task": "extend"}, r"extend\.num_given is 0, and must be at least 1"),
        ({"sample.observed": "mine.mp4"}, r"sample\.observed is 'mine\.mp4', and must be empty"),
        (
            {"sample.task": "extend", "extend.num_given": 1, "data.name": "captioned_videos"},
            r"sample\.task is 'extend', and must keep the 4 frames of a clip",
        ),
        ({}, ""),
        ({"sample.task": "extend", "extend.num_given": 1}, ""),
        ({"sample.task": "upsample", "data.name": "captioned_videos"}, ""),
    ],
)
def test_samples_are_paired_with_videos_that_they_observed_alone(tiny_config, options, reason):
    tiny_config.sample.task, tiny_config.eval.protocol = "predict", "similarity"
    for field, value in options.items():
        section, name = field.split(".")
        tiny_config[section][name] = value
    if not reason:
        assert protocol.protocol_of(tiny_config).name == "similarity"
        return
    with pytest.raises(ValueError, match=f"whose frames they were given: config.{reason}"):
        protocol.protocol_of(tiny_config)


def test_a_real_video_without_all_of_its_samples_is_refused(tiny_config):
    tiny_config.eval.update(protocol="prediction", num_videos=10)
    tiny_config.sample.update(task="predict", per_example=4)
    with pytest.raises(
        ValueError, match=r"eval\.num_videos is 10, .* multiple of .*per_example, 4"
    ):
        protocol.protocol_of(tiny_config)


def _write_folder(folder, config, lengths):
    """Writes held-out videos of random pixels; each third one has no class."""
    rng = np.random.default_rng(0)
    rows = ["file,label,split"]
    for index, length in enumerate(lengths):
        np.savez(
            folder / f"{index}.npz", video=rng.integers(0, 256, (1, length, 12, 12, 1), np.uint8)
        )
        rows += [f"{index}.npz,{'ab'[index % 2] if index % 3 else ''},test"]
    np.savez(folder / "train.npz", video=np.zeros((1, max(lengths), 12, 12, 1), np.uint8))
    (folder / "manifest.csv").write_text("\n".join([*rows, "train.npz,a,train"]))
    config.data.update(name="folder", path=str(folder), condition="label", resolution=12)
    config.model.num_classes = 2
    config.sample.update(task="predict", num_videos=4, guidance_weight=1.0)
    config.eval.update(protocol="similarity", num_videos=4)


def test_samples_are_compared_with_the_videos_that_they_observed_if_some_have_no_label(
    config, tmp_path
):
    """The observed frame of a sample is that of its real video."""
    _write_folder(tmp_path, config, [4] * 6)
    observed = make_observed(config)(range(4))
    found = protocol.protocol_of(config)
    (source,) = protocol.real_sources(config, found).values()
    assert len(source) == 4
    for index in range(4):
        np.testing.assert_array_equal(source.example(index)["video"], observed[index])
    assert source.example(0).keys() == {"video"}


def test_samples_longer_than_the_videos_that_they_observed_are_refused(config, tmp_path):
    _write_folder(tmp_path, config, [8, 4, 8, 8, 8, 8])
    config.sample.task = "extend"
    config.extend.update(num_frames=8, num_given=2, overlap=2, stride=2)
    found = protocol.protocol_of(config)
    with pytest.raises(ValueError, match=r"samples of 8 frames .* and 1 of the 4 in .*manifest"):
        protocol.check_pairs(config, found, protocol.real_sources(config, found))
    with pytest.raises(ValueError, match="1 of the 4 in"):
        preflight.check(config, tmp_path / "run", "eval")
    config.extend.num_frames = 4
    found = protocol.protocol_of(config)
    protocol.check_pairs(config, found, protocol.real_sources(config, found))


def test_the_observed_frames_of_an_extension_are_not_compared(tiny_config):
    """They equal the real ones, whose PSNR of 100 would be a part of the mean."""
    tiny_config.sample.task = "extend"
    tiny_config.eval.protocol = "similarity"
    tiny_config.extend.update(num_frames=6, num_given=4)
    found = protocol.protocol_of(tiny_config)
    assert (found.frames, found.frames_given) == (6, 4)
    real = np.zeros((1, 6, 16, 16, 3), np.uint8)
    sample = real.copy()
    sample[:, 4:] = 51  # a fifth of the range in the new frames
    summary = summarize(iter(sample), 1, found, {}, references=iter(real))
    numbers = compare(summarize(iter(real), 1, found, {}), summary, found)
    assert numbers["psnr"] == pytest.approx(20 * np.log10(5))


def test_the_observed_frames_of_an_interpolation_are_not_compared(tiny_config):
    tiny_config.data.frames = 7
    tiny_config.sample.task, tiny_config.interpolate.every = "interpolate", 3
    tiny_config.eval.protocol = "similarity"
    found = protocol.protocol_of(tiny_config)
    real = np.zeros((1, 7, 16, 16, 3), np.uint8)
    sample = real.copy()
    sample[:, [1, 2, 4, 5]] = 51  # a fifth of the range between the observed frames 0, 3 and 6
    summary = summarize(iter(sample), 1, found, {}, references=iter(real))
    numbers = compare(summarize(iter(real), 1, found, {}), summary, found)
    assert numbers["psnr"] == pytest.approx(20 * np.log10(5))


@pytest.mark.parametrize(
    "name", ["bair", "kinetics600", "text_9x128", "text_large", "text_small", "ucf101"]
)
def test_configurations_of_the_paper_fit_their_protocols(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    protocol.protocol_of(config)
    if PROTOCOLS[config.eval.protocol].frames:
        config.data.frames = 8
        with pytest.raises(ValueError, match=r"data\.frames 16, and this configuration has 8"):
            protocol.protocol_of(config)


def test_tables_of_runs_in_an_object_store(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = bucket / "tables" / "run"
    result = {"fvd": 123.456, "protocol": PROTOCOLS["bair"].to_dict(), "config": {}}
    (run / "eval" / "bair_0.json").write_text(json.dumps(result))
    write_tables([str(run), f"--output={run}"])
    page = (run / "tables.md").read_text()
    assert "this project, gs://tests/tables/run/eval/bair_0 |" in page and "| 123.46 |" in page
    assert capsys.readouterr().out.strip() == page.strip()
    assert not list(tmp_path.iterdir())  # such as a folder gs:
    with pytest.raises(SystemExit):
        write_tables([str(bucket / "tables" / "gone")])
    assert capsys.readouterr().err == "error: gs://tests/tables/gone is not a folder\n"


def test_tables_have_the_papers_numbers_ours_and_not_run(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    result = {
        "fvd": 123.456,
        "fvd_standard_error": 1.5,
        "warnings": ["1 video"],
        "protocol": PROTOCOLS["bair"].to_dict(),
        "config": {},
    }
    (tmp_path / "runs" / "bair.json").write_text(json.dumps(result))
    (tmp_path / "runs" / "other.json").write_text("[]")
    write_tables([str(tmp_path / "runs"), f"--output={tmp_path}"])
    page = (tmp_path / "tables.md").read_text()
    assert capsys.readouterr().out.strip() == page.strip()
    assert f"| this project, {tmp_path}/runs/bair | ? | ? | ? | 123.46 +- 1.50 |" in page
    assert page.count("| this project | not run |") == len(TABLES) - 1
    assert "| langevin | 256 + 256 | reconstruction | 66.92 |" in page
    assert f"{tmp_path}/runs/bair: +- of fvd is the standard error by the jackknife" in page
    (tmp_path / "runs" / "bad.json").write_text("{")
    with pytest.raises(SystemExit):
        write_tables([str(tmp_path / "runs"), f"--output={tmp_path}"])
    assert "bad.json cannot be read" in capsys.readouterr().err


def test_each_block_of_a_long_video_has_a_row(tmp_path):
    numbers = {"fvd_block_0": 5.0, "fvd_block_10": 7.5, "motion": 1.0}
    errors = {"fvd_block_10_standard_error": 0.25, "fvd_block_10_leave_one_out": [7.0, 8.0]}
    result = {**numbers, **errors, "protocol": PROTOCOLS["long"].to_dict(), "path": tmp_path}
    page = to_markdown([result])
    rows = [line for line in page.splitlines() if line.startswith(f"| {tmp_path} |")]
    cells = [row.split(" | ", 3)[-1].removesuffix(" |") for row in rows]
    assert cells == ["fvd_block_0 | 5.00", "fvd_block_10 | 7.50 +- 0.25", "motion | 1.00"]


def test_notes_say_what_error_bars_are_and_what_the_paper_leaves_open(tmp_path):
    bair = PROTOCOLS["bair"]
    results = [
        {
            "fvd": 7.0,
            f"fvd_standard_{error}": 0.5,
            "protocol": dataclasses.replace(bair, repeats=repeats).to_dict(),
            "path": tmp_path / f"{repeats}.json",
        }
        for repeats, error in ((1, "error"), (3, "deviation"))
    ]
    page = to_markdown(results)
    assert page.count("| 7.00 +- 0.50 |") == 2
    assert f"{tmp_path}/1: +- of fvd is the standard error by the jackknife over 10 groups" in page
    assert f"{tmp_path}/3: +- is the standard deviation over 3 sets of samples" in page
    _, table_1, _, table_3, *text_tables = page.split("## Table ")
    assert "specifies neither the real videos of FID nor the meaning of its +-" in table_1
    assert "one window of each of the 13,320 videos, which is our reading" in table_1
    assert "IS is over the 400 classes of Kinetics-400" in table_3
    assert "does not specify the meaning of its +-" in " ".join(table_3.split())
    assert all("IS is over 1 / 10 splits" in table for table in text_tables)


def test_protocols_name_the_classes_of_their_inception_score():
    for name, found in PROTOCOLS.items():
        has_score = any(metric.startswith("is_") for metric in found.metrics)
        assert bool(found.classes) == has_score, name
    assert PROTOCOLS["kinetics600"].classes == "400 of Kinetics-400, by the I3D of FVD"


def _text_result(tmp_path, name, **changes):
    """A result of the large text-to-video model, with changed settings."""
    settings = {
        "model": {"base_channels": 256},
        "data": {"num_images": 8, "frameskip": 1},
        "sample": {"task": "generate", "guidance_weight": 1.0, "conditioning": "reconstruction"},
        "extend": {"method": "autoregressive", "num_given": 0},
    }
    for field, value in changes.items():
        section, field = field.split("__")
        settings[section][field] = value
    task = settings["sample"]["task"]
    protocol = "text_64x64x64" if task == "extend" else "text_16x64x64"
    return {
        "fvd": float(len(name)),
        "protocol": PROTOCOLS[protocol].to_dict(),
        "config": settings,
        "path": tmp_path / f"{name}.json",
    }


def test_each_result_is_in_the_table_of_its_settings(tmp_path):
    result = functools.partial(_text_result, tmp_path)
    results = [
        result("small", model__base_channels=128),
        result("small_guided", model__base_channels=128, sample__guidance_weight=5.0),
        result("large"),
        result("large_weight_5", sample__guidance_weight=5.0),
        result("long", sample__task="extend", sample__guidance_weight=2.0),
        result("long_replaced", sample__task="extend", sample__conditioning="replacement"),
        result("long_joint", sample__task="extend", extend__method="joint"),
        result("long_noisy", sample__task="extend", sample__context_noise=0.1),
        result("long_given", sample__task="extend", extend__num_given=16),
    ]
    found = {
        table.name: [row for row in rows_of(table, results) if str(tmp_path) in row[0]]
        for table in TABLES
    }
    names = {
        table: [row[0].rpartition("/")[2] for row in rows] for table, rows in found.items() if rows
    }
    assert names == {
        "Table 4": ["small"],
        "Table 5": ["large", "large_weight_5"],
        "Table 6": ["long", "long_replaced"],
    }
    assert [row[2] for row in found["Table 5"]] == ["1.0", "5.0"]
    assert [row[2] for row in found["Table 6"]] == ["reconstruction", "replacement"]
    others = to_markdown(results).partition("## Other results")[2]
    for name in ("small_guided", "long_joint", "long_noisy", "long_given"):
        assert f"{name} |" in others
    assert "long_replaced" not in others


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ucf101", {"sample.task": "upsample"}),  # of real videos
        ("ucf101", {"data.condition": "label"}),
        ("bair", {"predict.stride": 5}),
        ("bair", {"data.condition": "action"}),
        ("kinetics600", {"predict.stride": 5}),
    ],
)
def test_tables_1_to_3_have_no_results_of_easier_tasks(name, changes, tmp_path):
    table = next(table for table in TABLES if name in table.protocols)
    config = resolve(name, None, {}).to_dict()
    result = {"protocol": PROTOCOLS[name].to_dict(), "config": config, "path": tmp_path / "r"}
    assert belongs(result, table)
    for field, value in changes.items():
        section, field = field.split(".")
        config[section][field] = value
    assert not belongs(result, table)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"fvd": None}, "its 'fvd' is None, and must be a number"),
        ({"fvd_standard_error": "3"}, "its 'fvd_standard_error' is '3', and must be a number"),
        ({"config": None}, "its 'config' is no configuration"),
        ({"config": {"eval": []}}, "its 'config' is no configuration"),
        ({"config": {"predict": []}}, "its 'config' is no configuration"),
        ({"protocol": {"name": ["bair"]}}, "its 'protocol' has no name"),
        (
            {"protocol": {"name": "bair", "metrics": [3]}},
            "its 'metrics' is [3], and must be a list",
        ),
        ({"protocol": {"name": "bair", "splits": 3}}, "its 'splits' is 3, and must be a list of"),
        (
            {"protocol": {"name": "bair", "repeats": "3"}},
            "its 'repeats' is '3', and must be an int",
        ),
        ({"warnings": "few videos"}, "its 'warnings' is 'few videos', and must be a list of texts"),
    ],
)
def test_a_damaged_result_is_named(part, named, tmp_path, capsys):
    result = {"protocol": {"name": "bair", "metrics": ["fvd"]}, "fvd": 1.0}
    (tmp_path / "result.json").write_text(json.dumps(result | part))
    with pytest.raises(SystemExit):
        write_tables([str(tmp_path)])
    assert f"error: {tmp_path / 'result.json'} cannot be read: {named}" in capsys.readouterr().err


def test_no_result_overwrites_another(config, tmp_path):
    params = init_params(config)
    config.eval.num_videos = 4
    config.sample.update(task="predict", num_steps=2)
    for settings in (
        {"conditioning": "reconstruction", "reconstruction_weight": 1.0},
        {"conditioning": "reconstruction", "reconstruction_weight": 2.0},
        {"conditioning": "replacement"},
    ):
        config.sample.update(settings)
        evaluate_to_folder(config, params, 0, tmp_path)
    evaluate_to_folder(config, jax.tree.map(lambda p: p + 0.01, params), 0, tmp_path)
    assert len(list(tmp_path.glob("fvd_*.json"))) == len(list(tmp_path.glob("fvd_*.md"))) == 4
    evaluate_to_folder(config, params, 0, tmp_path)  # the same settings: the same file
    assert len(list(tmp_path.glob("fvd_*.json"))) == 4


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        (r"on every fourth \((.*?)\)", "text_16x64x64_frameskip4"),
        (r"Table 6 extends videos to 64 frames: (.*?);", "text_64x64x64"),
    ],
)
@pytest.mark.parametrize("weight", ["1.0", "5.0"])
def test_the_options_in_the_header_of_the_large_text_model_fit_their_protocols(
    sentence, name, weight
):
    path = find_file("text_large")
    header = " ".join(path.read_text().split('"""')[1].split())
    options = re.findall(r"--config\.(\S+)=(\S+)", re.search(sentence, header)[1])
    assert len(options) == 2
    overrides = {**dict(options), "sample.guidance_weight": weight}
    config = resolve(str(path), None, overrides)
    validate(config)
    assert protocol.protocol_of(config).name == name


def test_real_windows_of_a_protocol():
    several = dataclasses.replace(PROTOCOLS["ucf101_train"], num_real=25)
    np.testing.assert_array_equal(protocol._real_examples(several, 10), np.arange(25))
    one = dataclasses.replace(PROTOCOLS["ucf101"], num_real=25)
    np.testing.assert_array_equal(protocol._real_examples(one, 10), np.arange(10))
    drawn = protocol._real_examples(PROTOCOLS["kinetics600_with_replacement"], 1000)
    videos = drawn % 1000
    assert len(drawn) == 1000 and drawn.min() >= 1000  # other windows than those of the samples
    # With replacement, 1 - 1 / e of the videos are drawn.
    assert len(np.unique(videos)) == pytest.approx(632, abs=40)


def test_tables_equal_the_papers():
    paper = ROOT.parent / "shared" / "paper.md"
    if not paper.exists():
        pytest.skip(f"{paper} is missing")
    text = paper.read_text()
    numbers = text[text.index("## 5.") : text.index("## 6.")]
    for table in TABLES:
        for row in table.rows:
            for cell in row[1 + len(table.settings) :]:
                assert cell == "-" or cell in numbers, (table.name, row[0], cell)
