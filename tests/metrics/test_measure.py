"""Metrics of two sets of videos, with a network that NumPy computes in a line."""

import dataclasses
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.evaluation.shares import from_arrays, merged, to_arrays
from vdm.metrics import compare_sets, features
from vdm.metrics.frechet import frechet_distance
from vdm.metrics.inception_score import inception_score
from vdm.metrics.measure import (
    Summary,
    compare,
    standard_error_of_difference,
    summarize,
    warnings_of,
)
from vdm.metrics.networks import c3d, i3d, inception
from vdm.metrics.pairwise.similarity import ssim
from vdm.metrics.protocols import PAPER, PROTOCOLS, Protocol

NUM_VIDEOS, FRAMES = 43, 5


@dataclasses.dataclass
class MeanColour:
    """Features: the mean colour. Probabilities: a softmax of it."""

    name: str = "i3d"

    def __call__(self, videos):
        features = videos.mean(tuple(range(1, videos.ndim - 1))) / 255
        odds = np.exp(3 * features)
        return {"features": features, "probabilities": odds / odds.sum(-1, keepdims=True)}


EXTRACTORS = {name: MeanColour(name) for name in ("i3d", "inception")}


def videos(seed):
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (NUM_VIDEOS, FRAMES, 1, 1, 3))
    noise = rng.integers(0, 50, (NUM_VIDEOS, FRAMES, 4, 4, 3))
    return np.minimum(colours + noise, 255).astype(np.uint8)


def measured(protocol, batch_size):
    real, generated = (
        summarize(iter(videos(seed)), NUM_VIDEOS, protocol, EXTRACTORS, batch_size=batch_size)
        for seed in (0, 1)
    )
    return compare(real, generated, protocol)


def test_merged_shares_of_processes_equal_the_whole(tmp_path):
    """Every third video each, and one process without videos."""
    protocol = Protocol("all", ("fvd", "is_i3d", "fid_avg"), inception_splits=(1, 3))
    whole = summarize(iter(videos(1)), NUM_VIDEOS, protocol, EXTRACTORS)
    shares = [
        summarize(
            (videos(1)[index] for index in indices),
            NUM_VIDEOS,
            protocol,
            EXTRACTORS,
            indices=indices,
            batch_size=4,
        )
        for indices in (*(range(first, NUM_VIDEOS, 3) for first in range(3)), range(0))
    ]
    total = functools.reduce(Summary.merge, shares)
    np.savez(tmp_path / "share.npz", **to_arrays(total))
    with np.load(tmp_path / "share.npz") as arrays:
        total = from_arrays(dict(arrays))
    real = summarize(iter(videos(0)), NUM_VIDEOS, protocol, EXTRACTORS)
    assert total.count == NUM_VIDEOS
    result = compare(real, total, protocol)
    for name, expected in compare(real, whole, protocol).items():
        assert result[name] == pytest.approx(expected, rel=1e-10)


def gaussian_distance(a, b):
    return frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_each_metric_reads_its_view_of_the_videos(batch_size):
    protocol = Protocol(
        "all",
        ("fvd", "is_i3d", "fid_avg", "fid_first", "is_avg", "is_first"),
        inception_splits=(1, 3),
    )
    result = measured(protocol, batch_size)
    real, generated = videos(0) / 255, videos(1) / 255
    clip, first = (2, 3), (1, 2)
    expected = {
        "fvd": gaussian_distance(real.mean((1, *clip)), generated.mean((1, *clip))),
        "fid_avg": gaussian_distance(real.mean((1, *clip)), generated.mean((1, *clip))),
        "fid_first": gaussian_distance(real[:, 0].mean(first), generated[:, 0].mean(first)),
    }
    # The softmax of the mean over frames of the logits, which is that of the mean colour.
    for name, colours in (
        ("is_i3d", generated.mean((1, *clip))),
        ("is_avg", generated.mean((1, *clip))),
        ("is_first", generated[:, 0].mean(first)),
    ):
        odds = np.exp(3 * colours)
        p = odds / odds.sum(-1, keepdims=True)
        expected[name] = inception_score(p, 1)[0]
        expected[f"{name}_3_splits"], expected[f"{name}_3_splits_standard_deviation"] = (
            inception_score(p, 3)
        )
    errors = [name for name in result if name.endswith(("standard_error", "leave_one_out"))]
    assert {name: result[name] for name in result if name not in errors} == pytest.approx(
        expected, rel=1e-6
    )


def test_a_fast_process_waits_until_its_share_is_merged(tmp_path, monkeypatch):
    """Two splits one after the other, by threads as processes, of which the first reads slowly."""
    process, barrier = threading.local(), threading.Barrier(2)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.process_index", lambda: getattr(process, "index", 0))
    monkeypatch.setattr("vdm.evaluation.shares.wait_for_all", lambda name: barrier.wait(60))
    monkeypatch.setattr("vdm.evaluation.shares.from_arrays", lambda a: sleep(0.5) or from_arrays(a))
    protocol = Protocol("fvd", ("fvd",))
    indices = [range(40), range(40, NUM_VIDEOS)]

    def summary_of(seed, part):
        values = (videos(seed)[index] for index in part)
        return summarize(values, NUM_VIDEOS, protocol, EXTRACTORS, indices=part)

    def work(index):
        process.index = index
        shares = [summary_of(seed, indices[index]) for seed in range(2)]
        return [merged(tmp_path, share) for share in shares]

    with ThreadPoolExecutor(2) as executor:
        first, second = executor.map(work, range(2))
    assert second == [None, None] and not list(tmp_path.iterdir())
    wholes = [summary_of(seed, range(NUM_VIDEOS)) for seed in range(2)]
    expected = compare(*wholes, protocol)["fvd"]
    assert compare(*first, protocol)["fvd"] == pytest.approx(expected, rel=1e-10)


def test_observed_frames_can_be_excluded():
    protocol = Protocol("fvd", ("fvd",), frames_given=2, given_frames_counted=False)
    real, generated = videos(0)[:, 2:] / 255, videos(1)[:, 2:] / 255
    expected = gaussian_distance(real.mean((1, 2, 3)), generated.mean((1, 2, 3)))
    assert measured(protocol, 8)["fvd"] == pytest.approx(expected, rel=1e-6)


def test_blocks_need_as_many_frames():
    protocol = Protocol("long", ("fvd_by_block",), block_frames=FRAMES)
    result = measured(protocol, 8)
    assert result["fvd_block_0"] == measured(Protocol("fvd", ("fvd",)), 8)["fvd"]
    with pytest.raises(ValueError, match="videos have 5 frames, fewer than a block of 16"):
        measured(PROTOCOLS["long"], 8)


def test_the_standard_error_matches_repeated_draws():
    """Draws of 300 generated videos against 3,000 fixed real ones."""
    protocol = Protocol("fvd", ("fvd",))
    rng = np.random.default_rng(0)

    def draw(count, centre):
        return np.clip(rng.normal(centre, 40, (count, 1, 1, 1, 3)), 0, 255).astype(np.uint8)

    real = summarize(iter(draw(3000, 110)), 3000, protocol, EXTRACTORS, batch_size=500)
    results = []
    for _ in range(60):
        generated = summarize(iter(draw(300, 140)), 300, protocol, EXTRACTORS, batch_size=100)
        results.append(compare(real, generated, protocol))
    spread = np.std([result["fvd"] for result in results])
    claimed = np.sqrt(np.mean([result["fvd_standard_error"] ** 2 for result in results]))
    # The relative error of the standard deviation of 60 draws is 9 %.
    assert 0.7 < claimed / spread < 1.4


def starts_with_samples(rng, samples):
    """100 colours of starts, and `samples` videos near each."""
    starts = rng.normal(140, 40, (100, 1, 1, 1, 1, 3))
    noise = rng.normal(0, 5, (100, samples, 1, 1, 1, 3))
    return np.clip(starts + noise, 0, 255).astype(np.uint8).reshape(-1, 1, 1, 1, 3)


@pytest.mark.parametrize(
    ("samples", "clips", "passes"), [(4, 1, 1), (1, 4, 1), (2, 2, 1), (2, 1, 2)]
)
def test_standard_errors_know_that_videos_of_a_start_are_alike(samples, clips, passes):
    """The spread over draws of the starts, of which the 400 videos have 100."""
    kinds = {"samples_per_given": samples, "clips_per_video": clips, "videos_given": 100}
    protocol = Protocol("all", ("fvd", "kvd"), **kinds)
    rng = np.random.default_rng(0)
    videos = starts_with_samples(rng, clips)
    real = summarize(iter(videos), len(videos), protocol, EXTRACTORS, batch_size=100)
    results = []
    for _ in range(60):
        videos = starts_with_samples(rng, 4)
        by_start = videos.reshape(100, passes, samples * clips, 1, 1, 1, 3)
        videos = by_start.swapaxes(0, 1).reshape(videos.shape)
        generated = summarize(iter(videos), 400, protocol, EXTRACTORS, batch_size=400)
        results.append(compare(real, generated, protocol))
    spread = np.std([result["fvd"] for result in results])
    claimed = np.sqrt(np.mean([result["fvd_standard_error"] ** 2 for result in results]))
    assert 0.7 < claimed / spread < 1.4
    # The bootstrap of KVD draws real videos, too, whose 100 are as many independent ones.
    spread = np.std([result["kvd"] for result in results])
    claimed = np.sqrt(np.mean([result["kvd_standard_error"] ** 2 for result in results]))
    assert 0.9 < claimed / spread < 2.5


def test_the_error_of_a_difference_matches_repeated_draws_of_the_same_starts():
    """Two methods whose samples of a start differ little, as those of the same noise."""
    protocol = Protocol("fvd", ("fvd",))
    rng = np.random.default_rng(0)
    real = summarize(iter(starts_with_samples(rng, 1)), 100, protocol, EXTRACTORS, batch_size=100)
    differences, claimed, apart = [], [], []
    for _ in range(60):
        pairs = starts_with_samples(rng, 2).reshape(100, 2, 1, 1, 1, 3)
        ours, theirs = (
            compare(
                real,
                summarize(iter(pairs[:, method]), 100, protocol, EXTRACTORS, batch_size=100),
                protocol,
            )
            for method in range(2)
        )
        differences.append(ours["fvd"] - theirs["fvd"])
        claimed.append(standard_error_of_difference("fvd", ours, theirs))
        apart.append(np.hypot(ours["fvd_standard_error"], theirs["fvd_standard_error"]))
    ratio = np.sqrt(np.mean(np.square(claimed))) / np.std(differences)
    assert 0.7 < ratio < 1.4
    assert np.mean(claimed) < np.mean(apart) / 2


def test_one_batch_of_videos_is_read_per_step():
    counts = []

    class Network(MeanColour):
        def __call__(self, batch):
            counts.append(read[0])
            return super().__call__(batch)

    read = [0]

    def stream():
        for video in videos(0):
            read[0] += 1
            yield video

    summarize(stream(), NUM_VIDEOS, PROTOCOLS["fvd"], {"i3d": Network()}, batch_size=8)
    assert counts == [8, 16, 24, 32, 40, 43]
    with pytest.raises(ValueError, match="44 videos are needed, and there are 43"):
        summarize(stream(), 44, PROTOCOLS["fvd"], {"i3d": Network()})


def test_too_few_videos_give_a_warning():
    protocol = dataclasses.replace(PROTOCOLS["fvd"], num_generated=100)
    summary = summarize(iter(videos(0)), 3, protocol, EXTRACTORS)
    found = warnings_of(summary, summary, protocol)
    assert len(found) == 3
    assert found[0].startswith("3 real videos are too few for the covariance of 3 features of i3d")
    assert "3 generated videos, where the protocol fvd has 100" in found


def test_a_kernel_distance_needs_no_covariance():
    summary = summarize(iter(videos(0)), 3, PROTOCOLS["kvd"], EXTRACTORS)
    assert warnings_of(summary, summary, PROTOCOLS["kvd"]) == []


def test_views_of_a_network_share_a_warning():
    for name, network in (("fid", "inception"), ("long", "i3d")):
        protocol = dataclasses.replace(PROTOCOLS[name], block_frames=2)
        summary = summarize(iter(videos(0)), 3, protocol, EXTRACTORS)
        assert len(summary.statistics) == 2
        found = warnings_of(summary, summary, protocol)
        for kind, warning in zip(("real", "generated"), found, strict=True):
            assert warning.startswith(f"3 {kind} videos are too few") and network in warning


def test_a_metric_without_a_value_is_named():
    protocol = Protocol("motion", ("motion",))
    still, moving = (np.zeros((3, 4, 2, 2, 3), np.uint8) for _ in range(2))
    moving[:, 1::2] = 9
    of_still, of_moving = (summarize(iter(v), 3, protocol, {}) for v in (still, moving))
    assert "motion" not in compare(of_still, of_moving, protocol)
    (warning,) = warnings_of(of_still, of_moving, protocol)
    assert warning.startswith("motion left out: the real videos have none")
    assert compare(of_moving, of_still, protocol)["motion"] == 0
    assert warnings_of(of_moving, of_still, protocol) == []


def test_the_papers_protocols_match_its_tables():
    """Section 4 of the paper, copied from the paper and not from the protocols."""
    by_name = {protocol.name: protocol for protocol in PAPER}
    bair = by_name["bair"]
    assert (bair.num_real, bair.num_generated, bair.frames_given) == (256, 100 * 256, 1)
    assert (bair.camera, bair.frames, bair.given_frames_counted) == ("image_main", 16, True)
    kinetics = by_name["kinetics600"]
    assert (kinetics.num_real, kinetics.num_generated) == (50_000, 50_000)
    assert (kinetics.frames_given, kinetics.frames) == (5, 16)
    assert by_name["ucf101"].num_generated == 10_000
    for name, frames, frameskip in (
        ("text_16x64x64", 16, 1),
        ("text_16x64x64_frameskip4", 16, 4),
        ("text_64x64x64", 64, 1),
    ):
        text = by_name[name]
        assert (text.num_generated, text.frames, text.frameskip) == (4096, frames, frameskip)
        assert text.inception_splits == (1, 10)


def test_networks_and_similarity_are_float32_under_x64():
    pair = np.random.default_rng(0).integers(0, 256, (2, 1, 2, 12, 12, 3), dtype=np.uint8)
    inputs = {
        "i3d": (i3d.I3D(), (1, 9, 224, 224, 3)),
        "inception": (inception.InceptionV3(head=True), (1, 299, 299, 3)),
        "c3d": (c3d.C3D(), (1, 16, 112, 112, 3)),
    }
    expected = ssim(*pair)
    jax.config.update("jax_enable_x64", True)
    try:
        for name, (module, shape) in inputs.items():
            arguments = jax.random.key(0), jnp.zeros(shape, jnp.float32)
            made = jax.eval_shape(module.init_with_output, *arguments)
            assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}, name
        np.testing.assert_array_equal(ssim(*pair), expected)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_metrics_without_weights_are_left_out_of_a_protocol_with_others(monkeypatch):
    """FID and IS without Inception do not cost the FVD, nor FVD without I3D the PSNR."""

    class Network:
        name, digest, min_frames, has_classes = "i3d", "of means", 1, True

        def __call__(self, videos):
            features = videos.reshape(len(videos), 4, -1).mean(2)
            return {"features": features, "probabilities": features / features.sum(1)[:, None]}

    def make_extractor(name, resize):
        if name in missing:
            raise FileNotFoundError(f"no weights of {name}: install them")
        return Network()

    monkeypatch.setattr(features, "_cached", make_extractor)
    missing = {"inception"}
    text = PROTOCOLS["text_16x64x64"]
    extractors = features.make_extractors(text)
    assert [*extractors] == ["i3d"]
    left, warnings = features.measurable(text, extractors)
    assert left.metrics == ("fvd",)
    assert warnings == [
        "fid_avg, is_avg, fid_first, is_first left out: no weights of inception: install them"
    ]
    missing = {"i3d"}
    videos = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 12, 12, 3), dtype=np.uint8)
    result = compare_sets(*videos, protocol="prediction")
    assert result["psnr"] > 0 and result["ssim"] and "fvd" not in result and "kvd" not in result
    assert result["warnings"][0] == "fvd, kvd left out: no weights of i3d: install them"
    assert result["protocol"]["metrics"] == ("psnr", "ssim", "motion")
    long = PROTOCOLS["long"]
    left, _ = features.measurable(long, features.make_extractors(long))
    assert left.metrics == ("motion",)
    for protocol in ("fvd", "kvd"):
        with pytest.raises(FileNotFoundError, match=r"^no weights of i3d: install them$"):
            compare_sets(*videos, protocol=protocol)
    missing = set()  # once they are installed, without a new process
    assert "fvd" in compare_sets(*videos, protocol="prediction")
