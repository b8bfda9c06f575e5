"""A store that was interrupted ends with the samples of an uninterrupted one."""

import jax
import numpy as np
import pytest

from tests.compiled import init_params
from vdm.data.folder.videos import open_folder
from vdm.exported import export
from vdm.sampling.sample_store import SampleStore, samples_made_by


def sample(index):
    return np.random.default_rng(index).integers(0, 256, (3, 2, 2, 1), dtype=np.uint8)


class Generator:
    """Generates samples; KeyboardInterrupt after max_count of them."""

    def __init__(self, max_count=100):
        self.max_count, self.generated = max_count, []

    def __call__(self, indices):
        if len(self.generated) + len(indices) > self.max_count:
            raise KeyboardInterrupt
        self.generated += indices
        return np.stack([sample(index) for index in indices])


def test_keeps_existing_shards_and_samples_missing_ones(tmp_path):
    store = SampleStore(tmp_path, {"seed": 0}, count=11, shard_size=4)
    first = Generator(max_count=8)
    with pytest.raises(KeyboardInterrupt):
        store.complete(first)
    # A killed process leaves a temporary file.
    (store.folder / "samples_00002.tmp").write_bytes(b"half")
    second = Generator()
    store.complete(second)
    assert (first.generated, second.generated) == (list(range(8)), [8, 9, 10])
    np.testing.assert_array_equal(list(store), [sample(index) for index in range(11)])
    assert len(store) == 11


def test_never_reuses_samples_of_other_settings_or_counts(tmp_path):
    SampleStore(tmp_path, {"seed": 0}, 4, 4).complete(Generator())
    for made_by, count in (({"seed": 1}, 4), ({"seed": 0}, 5)):
        generator = Generator()
        SampleStore(tmp_path, made_by, count, 4).complete(generator)
        assert len(generator.generated) == count


def test_names_a_damaged_shard(tmp_path):
    store = SampleStore(tmp_path, {}, 4, 2)
    store.complete(Generator())
    shard = store.folder / "samples_00001.npz"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(OSError, match=r"samples_00001\.npz cannot be read: delete it"):
        list(store)
    shard.unlink()
    store.complete(Generator())
    assert len(list(store)) == 4


def test_weights_and_settings_determine_the_folder(tiny_config):
    params = {"layer": {"kernel": np.ones((2, 2), np.float32)}}
    base = samples_made_by(tiny_config, params)
    assert samples_made_by(tiny_config, {"layer": {"kernel": np.eye(2, dtype=np.float32)}}) != base
    tiny_config.training.num_steps += 1
    assert samples_made_by(tiny_config, params) == base
    tiny_config.sample.guidance_weight += 1
    assert samples_made_by(tiny_config, params) != base


@pytest.mark.parametrize(
    ("task", "section", "field"),
    [("cascade", "cascade", "base_checkpoint"), ("extend", "extend", "key_frame_checkpoint")],
)
def test_another_second_model_at_the_same_path_has_another_folder(
    tiny_config, tmp_path, task, section, field
):
    params, path = init_params(tiny_config), tmp_path / "other.safetensors"
    config = tiny_config.copy_and_resolve_references()
    config.sample.task, config[section][field] = task, str(path)
    folders = set()
    for shift, steps in ((0.0, 4), (1.0, 4), (1.0, 8)):  # other weights; another configuration
        tiny_config.sample.num_steps = steps
        export(path, jax.tree.map(lambda leaf, by=shift: leaf + by, params), tiny_config, 0)
        folders.add(SampleStore(tmp_path, samples_made_by(config, params), 4, 4).folder)
    assert len(folders) == 3


@pytest.mark.parametrize("field", ["sample.observed", "data.path"])
def test_observed_videos_determine_the_folder(tiny_config, tmp_path, field):
    """A video that is replaced under its name is never mixed with samples of the one before."""
    section, name = field.split(".")
    tiny_config.data.name = "folder"
    tiny_config[section][name] = str(tmp_path)
    tiny_config.sample.task = "predict"

    def made_by_videos(seed):
        rng = np.random.default_rng(seed)
        for video in ("a.npz", "b.npz"):
            np.savez(tmp_path / video, video=rng.integers(0, 256, (4, 8, 8, 3), np.uint8))
        open_folder.cache_clear()  # as in another process
        return samples_made_by(tiny_config, {})

    first = made_by_videos(0)
    assert samples_made_by(tiny_config, {}) == first != made_by_videos(1)
    if field == "sample.observed":  # whatever the times of the files
        assert made_by_videos(0) == first
