"""Samples on disk: interrupted and resumed, or not written at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import init_params
from vdm.data.datasets import frame_rate_of
from vdm.files import as_path
from vdm.preflight import check_sampling
from vdm.sampling import sample_store
from vdm.sampling.generate import SamplesNotFinite
from vdm.sampling.sample_store import SampleStore
from vdm.sampling.write import sample_to_folder, write_samples
from vdm.training.checkpoints import saved_steps
from vdm.training.loop import _write_preview
from vdm.training.trackers.interface import Tracker
from vdm.video import open_video
from vdm.video.timing import at_rate

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_an_interrupted_command_resumes(tiny_config, tmp_path, monkeypatch):
    tiny_config.sample.num_videos, tiny_config.eval.shard_size = 7, 2
    params = init_params(tiny_config)
    sampled = []

    def recording(make_generator, most):
        def make(*arguments):
            generator = make_generator(*arguments)

            def generate(params, indices):
                if len(sampled) + len(indices) > most:
                    raise KeyboardInterrupt
                sampled.extend(indices)
                return generator(params, indices)

            return generate

        return make

    original = sample_store.make_generator
    monkeypatch.setattr(sample_store, "make_generator", recording(original, 5))
    with pytest.raises(KeyboardInterrupt):
        sample_to_folder(tiny_config, params, tmp_path / "samples")
    assert not (tmp_path / "samples" / "samples.npz").exists()
    other = tiny_config.copy_and_resolve_references()
    other.sample.update(seed=1, num_videos=1)
    monkeypatch.setattr(sample_store, "make_generator", original)
    sample_to_folder(other, params, tmp_path / "samples")
    monkeypatch.setattr(sample_store, "make_generator", recording(original, 100))
    sample_to_folder(tiny_config, params, tmp_path / "samples")
    assert sampled == list(range(7))
    assert not (tmp_path / "samples" / "unfinished").exists()

    sample_to_folder(tiny_config, params, tmp_path / "whole")
    with (
        np.load(tmp_path / "samples" / "samples.npz") as resumed,
        np.load(tmp_path / "whole" / "samples.npz") as whole,
    ):
        assert resumed["video"].shape == (7, 4, 8, 8, 1)
        np.testing.assert_array_equal(resumed["video"], whole["video"])


def test_a_caption_needs_no_held_out_videos(tiny_config, tmp_path):
    tiny_config.data.update(name="folder", path=str(tmp_path / "gone"), condition="text")
    tiny_config.model.text_width = 8
    tiny_config.sample.update(num_videos=2, caption="a digit")
    params = init_params(tiny_config)
    check_sampling(tiny_config)
    sample_to_folder(tiny_config, params, tmp_path / "samples")
    with np.load(tmp_path / "samples" / "samples.npz") as arrays:
        assert arrays["video"].shape[0] == 2 and list(arrays["caption"]) == ["a digit"] * 2


def test_samples_that_are_not_finite_are_no_result(tiny_config, tmp_path):
    params = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), init_params(tiny_config))
    with pytest.raises(SamplesNotFinite, match="sample"):
        sample_to_folder(tiny_config, params, tmp_path)
    assert not list(tmp_path.glob("*.*"))


@pytest.mark.parametrize(
    ("frame_rate", "frameskip", "seconds"),
    [(24.0, 4, 4 / 24), (25.0, 1, 1 / 25), (25.0, 2, 2 / 25), (0.0, 4, 1 / 8), (1e-6, 1, 100)],
)
def test_samples_and_previews_play_as_fast_as_the_clips(
    frame_rate, frameskip, seconds, tiny_config, tmp_path, monkeypatch
):
    tiny_config.data.update(name="folder", frame_rate=frame_rate, frameskip=frameskip)
    tiny_config.sample.num_videos = 1
    video = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    store = SampleStore(as_path(str(tmp_path / "samples" / "unfinished")), {}, 1, 1)
    store.complete(lambda _: video[None])
    monkeypatch.setattr("vdm.sampling.write.stored_samples", lambda *_: store)
    sample_to_folder(tiny_config, {}, tmp_path / "samples")
    _write_preview(tmp_path, Tracker(), 3, (video, "no condition"), frame_rate_of(tiny_config))
    for stem in ("samples/video_0000", "previews/step_00000003"):
        written = open_video(tmp_path / f"{stem}.mp4")
        np.testing.assert_allclose(np.diff(written.times).astype(float), seconds, rtol=1e-6)
        # Observed at the rate of the clips, a sample has its own frames.
        observed = at_rate(written, frame_rate_of(tiny_config))
        assert observed.stored_indices.tolist() == [0, 1, 2, 3]
        assert (written.num_frames, written.frame_rate) == (4, pytest.approx(1 / seconds))
        gif = open_video(tmp_path / f"{stem}.gif")
        np.testing.assert_allclose(np.diff(gif.times), round(seconds, 2), rtol=1e-6)
        assert gif.frame_rate == pytest.approx(1 / round(seconds, 2))
    assert frame_rate_of(tiny_config) == pytest.approx(1 / seconds)


def test_a_folder_named_as_a_pattern_changes_no_other(tmp_path):
    run, other = as_path(str(tmp_path / "run[1]*")), as_path(str(tmp_path / "run1 other"))
    fields = {"seed": 0, "max_video_files": 3, "described": {}}
    videos = list(np.zeros((3, 4, 8, 8, 1), np.uint8))
    for folder in (other, run):
        write_samples(folder, videos, **fields)
    write_samples(run, videos[:2], **fields)
    (run / "video_final.gif").touch()  # of the user
    write_samples(run, videos[:1], **fields)
    names = {"contact_sheet.png", "samples.npz", "video_0000.gif", "video_0000.mp4"}
    assert {path.name for path in run.iterdir()} == names | {"video_final.gif"}
    assert len(list(other.iterdir())) == 8
    (run / "checkpoints" / "7").mkdir(parents=True)
    assert saved_steps(run) == [7] and saved_steps(as_path(str(tmp_path / "run?"))) == []
