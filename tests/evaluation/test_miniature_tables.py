"""The miniature tables: their metrics, statistics, rows and verdicts."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest
from scipy import stats

from vdm.data.moving_digits import MovingDigits
from vdm.evaluation import digit_network, tables
from vdm.evaluation.miniature_tables import (
    TABLES,
    Claim,
    compare,
    load_records,
    record_name,
    table_of,
    to_markdown,
    verdict,
)
from vdm.metrics.frechet import frechet_distance
from vdm.video.pixels import to_uint8

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    """Returns the module benchmarks/miniature_tables.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("miniature_tables")
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def _videos(split, count, frames=4):
    source = MovingDigits(split, frames=frames, resolution=12, motion="horizontal")
    return to_uint8(source.batch(0, count)["video"])


def test_the_comparison_is_the_paired_t_test_of_scipy():
    lower, higher = [1.0, 2.5, 1.7], [1.9, 2.9, 3.0]
    ours, theirs = compare(lower, higher), stats.ttest_rel(higher, lower)
    assert ours.count == 3 and ours.mean == pytest.approx(np.mean(np.subtract(higher, lower)))
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_the_comparison_of_two_seeds_has_a_closed_form():
    """Student's t distribution with one degree of freedom is Cauchy's."""
    result = compare([0, 0], [1, 3])
    assert result.p_value == pytest.approx(1 - 2 / np.pi * np.arctan(2))
    assert compare([0, 1], [2, 3]).p_value == 0 and compare([1, 2], [1, 2]).p_value == 1
    with pytest.raises(ValueError, match="needs 2 pairs"):
        compare([1], [2])


def test_verdicts():
    claim = Claim("a is below b", "m", "a", "b")

    def of(a, b):
        rows = {"a": a, "b": b}
        return verdict(
            claim,
            {
                name: [{"seed": seed, "metrics": {"m": value}} for seed, value in values]
                for name, values in rows.items()
            },
        )

    low, high = [(0, 1.0), (1, 2.0), (2, 3.0)], [(0, 2.0), (1, 3.1), (2, 4.05)]
    assert "A is below b: **holds here**" in of(low, high) and "3 seeds" in of(low, high)
    assert "**does not hold here, the opposite does**" in of(high, low)
    assert "**not decided here**" in of(low, low[::-1])
    assert "a single seed" in of(low[:1], high) and "+1" in of(low[:1], high)
    assert of([], high) == "A is below b: **not run**."


def test_the_committed_network_reads_unseen_handwriting():
    network = digit_network.load_digit_network()
    assert digit_network.accuracy(network, 250) > 0.85
    with pytest.raises(ValueError, match="must be uint8"):
        network(np.zeros((1, 2, 12, 12, 1)))


def test_training_is_deterministic_and_weights_are_kept(tmp_path):
    first, second = (digit_network.train_digit_network(32, 1) for _ in range(2))
    assert first.digest() == second.digest()
    first.save(tmp_path / "network.npz")
    assert digit_network.load_digit_network(tmp_path / "network.npz").digest() == first.digest()


def test_weights_that_cannot_be_written_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_network, "WEIGHTS", tmp_path / "gone" / "network.npz")
    monkeypatch.setattr(
        digit_network, "train_digit_network", lambda: digit_network.load_digit_network()
    )
    with pytest.raises(SystemExit, match=r"^error: .*gone/network\.npz cannot be written: No such"):
        digit_network.main([])


@pytest.mark.parametrize(
    ("argument", "status", "printed"),
    [("--help", 0, "writes its"), ("--epochs=1", 2, "unrecognized arguments: --epochs=1")],
)
def test_arguments_do_not_start_the_training(monkeypatch, capsys, argument, status, printed):
    monkeypatch.setattr(digit_network, "train_digit_network", None)
    monkeypatch.setattr("sys.argv", ["digit_network.py", argument])
    with pytest.raises(SystemExit) as stopped:
        digit_network.main()
    assert stopped.value.code == status and printed in "".join(capsys.readouterr())


def test_metrics_order_real_videos_frozen_videos_and_noise():
    real, other = _videos("test", 64), _videos("train", 64)
    frozen = np.repeat(other[:, :1], 4, axis=1)
    noise = np.random.default_rng(0).integers(256, size=real.shape, dtype=np.uint8)
    results = [digit_network.digit_metrics(videos, real) for videos in (real, other, frozen, noise)]
    distances = [result["digit_fvd"] for result in results]
    assert distances == sorted(distances) and distances[0] == pytest.approx(0, abs=1e-6)
    assert results[3]["digit_is"] < 2 < results[1]["digit_is"] < 10
    network = digit_network.load_digit_network()
    features = [network(videos)[0].mean(1) for videos in (other, real)]
    moments = [moment for x in features for moment in (x.mean(0), np.cov(x.T))]
    assert results[1]["digit_fid"] == pytest.approx(frechet_distance(*moments))


def test_change_at_seams():
    videos = np.zeros((2, 6, 1, 1, 1), np.uint8)
    videos[:, :, 0, 0, 0] = [0, 2, 4, 14, 16, 18]  # changes of 2, and of 10 before frame 3
    assert digit_network.change_at_seams(videos, [3]) == 5


def test_rows_have_the_paper_s_settings():
    for table in TABLES:
        names = {row.name for row in table.rows}
        assert {name for claim in table.claims for name in (claim.lower, claim.higher)} <= names
        assert {claim.metric for claim in table.claims} <= set(table.metrics)
    frames = [
        row.training["training.num_steps"] * (16 + row.training["data.num_images"])
        for row in table_of(4).rows
    ]
    assert len(set(frames)) == 1  # equal compute
    assert table_of(6).row("replacement_overlap_8").seams == [16, 24, 32, 40, 48, 56]
    assert table_of(6).row("replacement_overlap_4").seams == [16, 28, 40, 52]
    with pytest.raises(ValueError, match="has no row 'weight_3': its rows are weight_1"):
        table_of(5).row("weight_3")
    with pytest.raises(ValueError, match="no miniature of table 2"):
        table_of(2)


def test_committed_records_are_those_of_the_rows():
    digest = digit_network.load_digit_network().digest()
    for table in TABLES:
        for row in table.rows:
            for record in load_records(table)[row.name]:
                assert record["settings"] == row.settings and record["training"] == row.training
                assert (record["videos"], record["overlap"]) == (row.videos, row.overlap)
                assert record["digit_network"] == digest and record["hardware"]
                end = f"{table.number} {row.name} --seed={record['seed']}"
                assert record["command"].endswith(end) and record["hours"] > 0


def test_a_row_with_its_seed_gives_the_same_numbers(script, quick_compilation_once):
    table, row = table_of(5), table_of(5).row("weight_1")
    small = row.__class__(row.name, settings={**row.settings, "batch_size": 2, "num_steps": 1})
    records = [
        script.run_row(table, small, seed, script.parse(["5", "--videos=2"])) for seed in (0, 0, 1)
    ]
    for record in records:
        del record["hours"]
    assert records[0] == records[1]
    assert records[0]["metrics"] != records[2]["metrics"]
    assert records[0]["command"].endswith("miniature_tables.py 5 weight_1 --seed=0 --videos=2")


def test_prints_the_tables_and_rows_that_were_not_run(script, tmp_path, capsys):
    table = table_of(1)
    for row in table.rows[-2:]:
        record = script.run_row(table, row, 0, script.parse(["1", "--videos=20"]))
        (tmp_path / f"{record_name(table, row, 0)}.json").write_text(json.dumps(record))
    page = to_markdown(tmp_path)
    assert "| unconditional | 0 | 128 | not run |" in page
    assert "| noise | 1 | 20 | " in page and "| Video Diffusion (the paper) |" in page
    tables.main([])
    assert "## Table 6 in miniature" in capsys.readouterr().out
