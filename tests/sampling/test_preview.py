"""Previews: real videos and samples with their conditions, and the steps that have one."""

import numpy as np
import pytest

from vdm.data.datasets import make_data_set
from vdm.sampling import preview as module
from vdm.sampling.preview import make_preview
from vdm.training.loop import has_preview
from vdm.video.pixels import to_uint8


@pytest.fixture
def samples(monkeypatch):
    """Samples of known values, instead of those of a network."""
    values = np.arange(5 * 4 * 8 * 8, dtype=np.uint8).reshape(5, 4, 8, 8, 1)
    generator = lambda params, indices: values[: len(indices)]  # noqa: E731
    monkeypatch.setattr(module, "make_generator", lambda config, mesh: generator)
    return values


@pytest.mark.parametrize("label", [-1, 7])
def test_has_real_videos_and_samples_with_their_labels(tiny_config, samples, label):
    tiny_config.data.condition, tiny_config.model.num_classes = "label", 10
    tiny_config.sample.update(num_videos=5, batch_size=8, label=label, per_example=2)
    video, text = make_preview(tiny_config, None)({})

    source = make_data_set(tiny_config, "test")
    examples = [source.example(index) for index in range(3)]
    real = [example["label"] for example in examples]
    expected = [f"- real, video {i}: label {value}" for i, value in enumerate(real)]
    labels = [real[i // 2] if label < 0 else label for i in range(5)]
    expected += [f"- samples, video {i}: label {value}" for i, value in enumerate(labels)]
    assert text.splitlines() == expected

    # A caption of 16 rows, then a grid of videos that are enlarged 4 times, with 4-pixel lines.
    cells = {"real": (16 + 4, to_uint8(np.stack([e["video"] for e in examples])))}
    cells["samples"] = (cells["real"][0] + 32 + 4 + 16 + 4, samples)
    for top, videos in cells.values():
        for index, clip in enumerate(videos):
            row, column = divmod(index, 3)
            y, x = top + 36 * row, 4 + 36 * column
            np.testing.assert_array_equal(video[:, y : y + 32 : 4, x : x + 32 : 4], clip)
    assert video[:, :16].max() > 200  # the caption


def test_labels_of_real_videos_are_their_own_if_some_are_too_short(tiny_config, samples, tmp_path):
    """An extension shows real videos of its own length, and observes also shorter ones."""
    rows = ["file,label,split"]
    for index, (length, label) in enumerate(zip([2, 4, 2, 4, 4], "abaab", strict=True)):
        video = np.full((1, length, 8, 8, 1), 50 * "ab".index(label), np.uint8)
        np.savez(tmp_path / f"{index}.npz", video=video)
        rows.append(f"{index}.npz,{label},test")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    tiny_config.data.update(name="folder", path=str(tmp_path), condition="label", frames=2)
    tiny_config.model.num_classes = 2
    tiny_config.sample.update(task="extend", num_videos=5, batch_size=8)
    tiny_config.extend.update(num_frames=4, num_given=1, overlap=1, stride=1)
    _, text = make_preview(tiny_config, None)({})
    found = [line for line in text.splitlines() if "real" in line]
    assert found == [f"- real, video {i}: label {'ab'.index('bab'[i])}" for i in range(3)]


def test_leaves_out_real_videos_that_are_missing(tiny_config, samples, monkeypatch):
    def missing(*_):
        raise ValueError("no video is in the split 'test'")

    monkeypatch.setattr(module, "held_out_videos", missing)
    video, text = make_preview(tiny_config, None)({})
    assert video.shape == (4, 16 + 4 + 2 * 36, 4 + 2 * 36, 1)
    assert text.splitlines() == [f"- samples, video {i}: no condition" for i in range(4)]


def test_other_processes_draw_and_get_nothing(tiny_config, samples, monkeypatch):
    monkeypatch.setattr(module, "is_first_process", lambda: False)
    assert make_preview(tiny_config, None)({}) is None


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (0, []),
        (4, [4, 8, 12]),
        (100, [12, 25, 50, 100, 200, 300]),
        (10_000, [19, 39, 78, 156, 312, 625, 1250, 2500, 5000, 10_000, 20_000, 30_000]),
    ],
)
def test_previews_start_early_and_double_their_distance(every, expected):
    steps = [step for step in range(1, max(1, 3 * every) + 1) if has_preview(step, every)]
    assert steps == expected
    assert has_preview(7, every, is_last=True) == (every > 0)
