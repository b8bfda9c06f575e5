"""Which frames each task observes, and where it puts the sampled ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import init_params
from vdm.build import make_denoiser, make_schedule
from vdm.checks import validate
from vdm.data.datasets import make_data_set
from vdm.diffusion.conditioning import ObservedFrames, ObservedLowResolution
from vdm.exported import export
from vdm.parallel.mesh import make_mesh
from vdm.preflight import check_sampling
from vdm.sampling.conditions import load_observed, needs_held_out
from vdm.sampling.generate import divides_by_block, make_generator
from vdm.sampling.preview import preview_config
from vdm.sampling.tasks import cascade, extend, predict
from vdm.video.pixels import from_uint8, to_uint8

pytestmark = pytest.mark.usefixtures("quick_compilation")


class _Counter:
    """Draws frames of consecutive numbers, and returns observed frames unchanged."""

    def __init__(self, shape):
        self.shape, self.observations, self.last = shape, [], 0

    def __call__(self, block, observation):
        assert block == len(self.observations)
        self.observations.append(observation)
        parts = observation if isinstance(observation, tuple) else (observation,)
        frames = next(part for part in parts if isinstance(part, ObservedFrames))
        new = self.last + 1 + np.arange(self.shape[1], dtype=np.float32)
        self.last += self.shape[1]
        new = np.broadcast_to(new[None, :, None, None, None], self.shape)
        return np.where(frames.mask[..., None, None, None], frames.values, new)


@pytest.mark.parametrize(
    ("stride", "known", "expected"),
    [
        (0, [2], [0, -1, 3, 4, 5, 6, 7]),
        (2, [2, 4, 6], [0, -1, 3, 4, 12, 13, 21]),
        (5, [2], [0, -1, 3, 4, 5, 6, 7]),
    ],
)
def test_prediction_in_blocks_observes_all_frames_so_far(tiny_config, stride, known, expected):
    """Blocks are 1..7, 8..14 and 15..21; the last one has room for one new frame."""
    tiny_config.data.frames = 7
    tiny_config.predict.update(num_given=2, stride=stride)
    draw = _Counter((2, 7, 8, 8, 1))
    given = np.full((2, 7, 8, 8, 1), -np.arange(7.0, dtype=np.float32)[:, None, None, None])
    video = predict(tiny_config, draw, given)
    np.testing.assert_array_equal(video[0, :, 0, 0, 0], expected)
    for observed, frames in zip(draw.observations, known, strict=True):
        assert observed.mask[0].tolist() == [i < frames for i in range(7)]
        np.testing.assert_array_equal(observed.values[1, :frames, 0, 0, 0], expected[:frames])


def test_extension_observes_the_last_frames_so_far(tiny_config):
    tiny_config.data.frames = 6
    tiny_config.extend.update(num_frames=11, overlap=2, stride=3)
    draw = _Counter((2, 6, 8, 8, 1))
    video = extend(tiny_config, draw, np.zeros((2, 6, 8, 8, 1), np.float32))
    # Blocks are 1..6, 7..12, 13..18; each further block has 2 overlapping and 3 kept frames.
    np.testing.assert_array_equal(video[0, :, 0, 0, 0], [1, 2, 3, 4, 5, 6, 9, 10, 11, 15, 16])
    for block, values in enumerate([[], [5, 6], [10, 11]]):
        observed = draw.observations[block]
        assert observed.mask[0].tolist() == [i < len(values) for i in range(6)]
        assert observed.values[0, : len(values), 0, 0, 0].tolist() == values


def test_an_extension_from_nothing_needs_no_held_out_videos(tiny_config, tmp_path):
    tiny_config.sample.update(task="extend", num_videos=2, batch_size=2, guidance_weight=1.0)
    tiny_config.extend.update(num_frames=6, num_given=0, overlap=2, stride=2)
    mesh, params = make_mesh(tiny_config), init_params(tiny_config)
    expected = make_generator(tiny_config, mesh)(params, range(2))
    tiny_config.data.update(name="folder", path=str(tmp_path / "gone"))
    assert not needs_held_out(tiny_config)
    found = make_generator(tiny_config, mesh)(params, range(2))
    np.testing.assert_array_equal(found, expected)


def test_context_noise_is_of_generated_frames_alone(tiny_config):
    """Three given frames: the second block observes one of them and a generated frame."""
    tiny_config.data.frames = 4
    tiny_config.extend.update(num_frames=8, num_given=3, overlap=2, stride=2)
    tiny_config.sample.context_noise = 0.25
    draw = _Counter((2, 4, 8, 8, 1))
    extend(tiny_config, draw, np.zeros((2, 4, 8, 8, 1), np.float32))
    exact, noisy = make_schedule(tiny_config)(jnp.array([0.0, 0.25])).tolist()
    for observed, is_exact in zip(draw.observations, [3, 1, 0], strict=True):
        (row,) = {tuple(row) for row in observed.log_snr.tolist()}
        assert row == pytest.approx([exact] * is_exact + [noisy] * (4 - is_exact))


def test_key_frames_come_first_and_each_block_observes_those_ahead(tiny_config):
    tiny_config.data.frames = 6
    tiny_config.extend.update(
        method="key_frames", num_frames=15, num_given=4, overlap=3, stride=3, key_frame_interval=3
    )
    draw = _Counter((1, 6, 8, 8, 1))
    given = np.full((1, 6, 8, 8, 1), -np.arange(6.0, dtype=np.float32)[:, None, None, None])
    video = extend(tiny_config, draw, given)
    # Key frames 0 and 1 are given frames 0 and 3; those at 6, 9, 12 and 15 are numbers 3 to 6.
    expected = [0, -1, -2, -3, 10, 11, 3, 16, 17, 4, 22, 23, 5, 28, 29]
    np.testing.assert_array_equal(video[0, :, 0, 0, 0], expected)
    assert [np.flatnonzero(o.mask[0]).tolist() for o in draw.observations] == [
        [0, 1],
        *[[0, 1, 2, 5]] * 4,  # three frames of the block before, and the next key frame
    ]
    assert draw.observations[1].values[0, [0, 1, 2, 5], 0, 0, 0].tolist() == [-1, -2, -3, 3]


def test_cascade_observes_each_low_resolution_frame_at_its_time(tiny_config):
    tiny_config.data.frames = 5
    tiny_config.cascade.update(num_frames=11, frameskip=2, overlap=1)
    low = np.broadcast_to(
        100 * np.arange(5, dtype=np.float32)[None, :, None, None, None], (2, 5, 4, 4, 1)
    )
    draw = _Counter((2, 5, 8, 8, 1))
    video = cascade(tiny_config, draw, low)
    np.testing.assert_array_equal(video[0, :, 0, 0, 0], [1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13])
    # First frame of each block, and its low-resolution frames, as indices into the result.
    for block, (start, known) in enumerate([(0, [0, 2, 4]), (4, [4, 6, 8]), (8, [8])]):
        frames, small = draw.observations[block]
        assert isinstance(small, ObservedLowResolution)
        positions = start + np.flatnonzero(small.mask[0])
        assert positions.tolist() == known
        np.testing.assert_array_equal(small.values[0, small.mask[0], 0, 0, 0], 50 * np.array(known))
        assert frames.mask[0].tolist() == [block > 0] + [False] * 4


@pytest.fixture(scope="module")
def params(tiny_config_of_module):
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
        init_params(tiny_config_of_module),
    )


@pytest.mark.parametrize(
    ("task", "observed"), [("predict", [0, 1]), ("interpolate", [0, 3]), ("extend", [0, 1, 2])]
)
def test_returns_observed_frames_and_samples_the_others(tiny_config, params, task, observed):
    config = tiny_config
    config.sample.update(task=task, num_videos=3, batch_size=2)
    config.predict.num_given = 2
    config.interpolate.every = 3
    config.extend.update(num_given=3, num_frames=7, overlap=2, stride=2)
    generate = make_generator(config, make_mesh(config))
    videos = generate(params, range(3))
    source = make_data_set(config, "test")
    real = to_uint8(np.stack([source.example(i)["video"] for i in range(3)]))
    assert videos.shape == (3, 7 if task == "extend" else 4, 8, 8, 1)
    np.testing.assert_array_equal(videos[:, observed], real[:, observed])
    others = [i for i in range(4) if i not in observed]
    assert (videos[:, others] != real[:, others]).any((2, 3, 4)).all()
    # Sample 2 was alone in its batch; here it shares one.
    together = generate(params, [1, 2])
    np.testing.assert_allclose(together.astype(int), videos[1:].astype(int), atol=1)


def test_joint_extension_is_the_same_with_videos_or_blocks_on_two_devices(tiny_config, params):
    """One video is divided by block, of which there are three, and two videos are not divided."""
    config = tiny_config
    config.sample.update(task="extend", num_videos=2, conditioning="replacement")
    config.extend.update(method="joint", num_given=3, num_frames=7, overlap=2, stride=2)
    check_sampling(config)
    config.sample.batch_size = 2
    videos = make_generator(config, make_mesh(config))(params, range(2))
    source = make_data_set(config, "test")
    real = to_uint8(np.stack([source.example(i)["video"] for i in range(2)]))
    assert videos.shape == (2, 7, 8, 8, 1) and (videos[0] != videos[1]).any()
    np.testing.assert_array_equal(videos[:, :3], real[:, :3])
    config.sample.batch_size = 1
    mesh = make_mesh(config)
    assert mesh.size == 2 and divides_by_block(config, mesh)
    by_block = make_generator(config, mesh)(params, [1])
    np.testing.assert_allclose(by_block.astype(int), videos[1:].astype(int), atol=1)


def test_another_model_of_the_key_frames_frameskip_draws_them(tiny_config, params, tmp_path):
    """The same weights draw the same key frames, and other weights others."""
    config = tiny_config
    config.sample.update(task="extend", batch_size=2, conditioning="replacement")
    config.extend.update(
        method="key_frames", num_frames=7, overlap=2, stride=2, key_frame_interval=2
    )
    other = config.copy_and_resolve_references()
    other.data.frameskip = 2
    weights = {"same": params, "other": jax.tree.map(lambda leaf: 1.5 * leaf, params)}
    videos = {"": make_generator(config, make_mesh(config))(params, range(2))}
    for name, of_key_frames in weights.items():
        path = tmp_path / f"{name}.safetensors"
        export(path, of_key_frames, other, 0)
        config.extend.key_frame_checkpoint = str(path)
        check_sampling(config)
        videos[name] = make_generator(config, make_mesh(config))(params, range(2))
    np.testing.assert_array_equal(videos["same"], videos[""])
    assert (videos["other"] != videos[""]).any((2, 3, 4)).all()
    config.data.frameskip = 2
    with pytest.raises(ValueError, match=r"has data\.frameskip 2, and must have 4, config\.data"):
        check_sampling(config)


@pytest.mark.parametrize(
    ("field", "value", "sample", "message"),
    [
        (
            *("diffusion.frame_times", "shared", {"conditioning": "diffusion_forcing"}),
            "has diffusion.frame_times 'shared', and must have one noise level per frame, since",
        ),
        (
            *("training.distill_steps", 4, {"sampler": "ddim", "num_steps": 8}),
            "does not fit: config.sample.num_steps is 8, and must be 4 for a student of 4 steps",
        ),
        (
            *("model.num_classes", 5, {"label": 7}),
            "does not fit: config.sample.label is 7, and must be less than config.model.num_cl",
        ),
    ],
)
def test_a_model_of_key_frames_fits_the_sampler_and_the_condition(
    field, value, sample, message, tiny_config, tmp_path
):
    config = tiny_config
    config.data.condition, config.model.num_classes = "label", 10
    config.diffusion.update(frame_times="mixed", target="v")
    config.sample.update({"task": "extend", "guidance_weight": 1.0, "conditioning": "replacement"})
    config.sample.update(sample)
    config.extend.update(
        method="key_frames", num_frames=7, overlap=2, stride=2, key_frame_interval=2
    )
    other = config.copy_and_resolve_references()
    other.data.frameskip = 2
    export(tmp_path / "fits.safetensors", {}, other, 0)
    section, _, name = field.partition(".")
    other[section][name] = value
    export(tmp_path / "other.safetensors", {}, other, 0)
    config.extend.key_frame_checkpoint = str(tmp_path / "fits.safetensors")
    check_sampling(config)
    config.extend.key_frame_checkpoint = str(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=re.escape(message)):
        check_sampling(config)


@pytest.mark.slow
def test_micro_batches_of_guidance_do_not_change_samples(tiny_config):
    """Seven labelled videos on two devices: each guides its four in micro-batches of two."""
    config = tiny_config
    config.data.condition, config.model.num_classes = "label", 10
    config.sample.update(task="predict", batch_size=7, reconstruction_weight=3.0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
        init_params(config),
    )
    videos = {}
    for size in (0, 3):
        config.sample.reconstruction_micro_batch = size
        videos[size] = make_generator(config, make_mesh(config))(params, range(7))
    np.testing.assert_allclose(videos[3].astype(int), videos[0].astype(int), atol=1)


def test_upsampling_matches_the_observed_low_resolution(tiny_config, params):
    """With many steps and a large weight the downsampled sample approaches the observation."""
    config = tiny_config
    config.sample.update(task="upsample", sampler="ddim", num_steps=32, batch_size=4)
    generate = {}
    for weight in (0.0, 20.0):
        config.sample.reconstruction_weight = weight
        generate[weight] = make_generator(config, make_mesh(config))(params, range(4))
    source = make_data_set(config, "test")
    real = np.stack([source.example(i)["video"] for i in range(4)])

    def error(videos):
        blocks = (from_uint8(videos) - real).reshape(4, 4, 4, 2, 4, 2)
        return np.mean(blocks.mean((3, 5)) ** 2)

    assert error(generate[20.0]) < 0.5 * error(generate[0.0])


def test_classifier_free_guidance_extrapolates_from_the_unconditional_model(tiny_config):
    config = tiny_config
    config.data.condition, config.model.num_classes = "label", 10
    config.diffusion.clip = False
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
        init_params(config),
    )
    z = jax.random.normal(jax.random.key(0), (2, 4, 8, 8, 1))
    log_snr = jnp.array([0.3, -1.0])

    def x_hat(condition, weight):
        config.sample.guidance_weight = weight
        return jax.jit(make_denoiser(config, params, condition))(z, log_snr)

    label = {"label": jnp.array([3, 7])}
    conditional, unconditional = x_hat(label, 1.0), x_hat({}, 1.0)
    assert np.abs(conditional - unconditional).max() > 1e-3
    np.testing.assert_allclose(
        x_hat(label, 2.5), 2.5 * conditional - 1.5 * unconditional, atol=1e-4
    )


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        ("sample", {"task": "inpaint"}, "config.sample.task is 'inpaint', and must be one of"),
        ("predict", {"num_given": 4}, "config.predict.num_given is 4, and must be 1 to 3"),
        ("extend", {"overlap": 3, "stride": 2}, "config.extend.stride is 2, and must be 1 to 1"),
        (
            "extend",
            {"method": "whole"},
            "config.extend.method is 'whole', and must be one of 'auto",
        ),
        (
            "extend",
            {"method": "joint", "overlap": 2, "stride": 1},
            "config.extend.stride is 1, and must be 2, config.data.frames less config.extend.overl",
        ),
        (
            "extend",
            {"method": "joint", "overlap": 2, "stride": 2, "num_frames": 3},
            "config.extend.num_frames is 3, and must be at least 4, config.data.frames, where conf",
        ),
        (
            "extend",
            {"method": "key_frames", "overlap": 2, "stride": 2, "key_frame_interval": 3},
            "config.extend.key_frame_interval is 3, and must be 2 to 2",
        ),
        (
            "extend",
            {"method": "key_frames", "overlap": 2, "stride": 2, "key_frame_interval": 2},
            "config.extend.num_frames is 64, and must be at most 8, config.data.frames times conf",
        ),
        (
            "extend",
            {"overlap": 2, "stride": 2, "key_frame_checkpoint": "keys.safetensors"},
            "config.extend.key_frame_checkpoint is 'keys.safetensors', and must be empty where con",
        ),
        ("upsample", {"factor": 3}, "config.upsample.factor is 3, and must be a divisor of"),
        (
            "sample",
            {"task": "upsample", "conditioning": "replacement"},
            "must be 'reconstruction' for the task 'upsample'",
        ),
        ("sample", {"task": "cascade"}, "config.cascade.base_checkpoint is '', and must be an"),
        ("sample", {"observed": "clips"}, "config.sample.observed is 'clips', and must be empty"),
        ("sample", {"task": "predict", "observed": "/no/such"}, "/no/such"),
    ],
)
def test_refuses_wrong_settings_in_one_sentence(tiny_config, section, values, sentence):
    if section != "sample":
        tiny_config.sample.task = section
    tiny_config[section].update(values)
    with pytest.raises((ValueError, OSError), match=re.escape(sentence)):
        validate(tiny_config)
        check_sampling(tiny_config)


def test_names_observed_videos_that_are_too_short(tiny_config, tmp_path):
    tiny_config.sample.update(task="predict", observed=str(tmp_path / "mine.npz"))
    tiny_config.predict.num_given = 3
    np.savez(tmp_path / "mine.npz", video=np.zeros((2, 2, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match=r"mine\.npz has 2 frames, and 3 are needed"):
        check_sampling(tiny_config)


def test_crops_and_resizes_observed_videos(tiny_config, tmp_path):
    tiny_config.sample.update(task="predict", observed=str(tmp_path / "mine.npz"))
    video = np.zeros((2, 3, 16, 24, 1), np.uint8)
    video[..., 4:12, :] = 255  # the left half of the square in the middle
    np.savez(tmp_path / "mine.npz", video=video)
    check_sampling(tiny_config)
    observed = load_observed(tiny_config)[:, 0]
    assert observed.shape == (2, 8, 8, 1)
    assert (observed[:, :, :4] == 255).all() and not observed[:, :, 4:].any()


def test_cascade_runs_two_models(tiny_config, params, tmp_path):
    base = tiny_config.copy_and_resolve_references()
    base.data.update(frameskip=2, resolution=4, downsample=2)
    base.model.attention_resolutions = (2,)
    export(tmp_path / "base.safetensors", params, base, 0)
    config = tiny_config
    config.sample.update(task="cascade", num_videos=2, batch_size=2)
    config.cascade.update(
        base_checkpoint=str(tmp_path / "base.safetensors"), num_frames=8, frameskip=2
    )
    check_sampling(config)
    videos = make_generator(config, make_mesh(config))(params, range(2))
    assert videos.shape == (2, 8, 8, 8, 1)
    config.cascade.num_frames = 9  # one more than the 4 low-resolution frames of frameskip 2 span
    with pytest.raises(ValueError, match=r"cascade\.num_frames is 9, and must be at most 8, the 4"):
        check_sampling(config)
    config.cascade.num_frames = 8
    config.cascade.frameskip = 4
    with pytest.raises(ValueError, match=r"frameskip 2, and config\.cascade\.frameskip is 4"):
        check_sampling(config)
    config.cascade.frameskip = 2
    config.data.frame_rate = 8.0
    with pytest.raises(ValueError, match=r"frame_rate 0\.0, and config\.data\.frame_rate is 8\.0"):
        check_sampling(config)


def test_models_of_a_cascade_draw_different_noise(tiny_config, params, tmp_path, monkeypatch):
    """With each sample replaced by a number from its key, minus the number that it observes."""

    def number(keys, denoiser, shape, *, observation=None, **options):
        numbers = jax.vmap(jax.random.uniform)(keys)
        if observation is not None:
            numbers -= observation[1].values[:, 0, 0, 0, 0]
        return jnp.broadcast_to(numbers.reshape(-1, 1, 1, 1, 1), shape)

    monkeypatch.setattr("vdm.sampling.generate.sample", number)
    base = tiny_config.copy_and_resolve_references()
    base.data.update(frameskip=2, resolution=4, downsample=2)
    base.model.attention_resolutions = (2,)
    export(tmp_path / "base.safetensors", params, base, 0)
    tiny_config.sample.update(task="cascade", batch_size=4)
    tiny_config.cascade.update(
        base_checkpoint=str(tmp_path / "base.safetensors"), num_frames=4, frameskip=2
    )
    videos = make_generator(tiny_config, make_mesh(tiny_config))(params, range(4))
    assert np.abs(from_uint8(videos)).max(axis=(1, 2, 3, 4)).min() > 0.02  # 8 bits resolve 0.008


def test_both_models_of_a_cascade_have_the_labels_of_the_same_examples(
    tiny_config, tmp_path, monkeypatch
):
    """With each sample replaced by its label, above that of the observed low resolution."""

    def labels(keys, denoiser, shape, *, condition, observation=None, **options):
        values = condition["label"] / 10
        if observation is not None:
            values -= observation[1].values[:, 0, 0, 0, 0]
        return jnp.broadcast_to(values.reshape(-1, 1, 1, 1, 1), shape)

    monkeypatch.setattr("vdm.sampling.generate.sample", labels)
    config = tiny_config
    config.data.condition, config.model.num_classes = "label", 10
    params = init_params(config)
    base = config.copy_and_resolve_references()
    base.data.update(frameskip=2, resolution=4, downsample=2)
    base.model.attention_resolutions = (2,)
    export(tmp_path / "base.safetensors", params, base, 0)
    config.sample.update(task="cascade", batch_size=8, per_example=3)
    config.cascade.update(
        base_checkpoint=str(tmp_path / "base.safetensors"), num_frames=4, frameskip=2
    )
    videos = make_generator(config, make_mesh(config))(params, range(8))
    np.testing.assert_allclose(from_uint8(videos), 0, atol=0.01)  # 8 bits resolve 0.008


@pytest.mark.slow
def test_cascade_gives_its_low_resolution_model_the_same_label(tiny_config, tmp_path):
    """The high-resolution model is unconditional here, so only the other can differ."""
    config = tiny_config
    config.data.condition, config.model.num_classes = "label", 10
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
        init_params(config),
    )
    base = config.copy_and_resolve_references()
    base.data.update(frameskip=2, resolution=4, downsample=2)
    base.model.attention_resolutions = (2,)
    export(tmp_path / "base.safetensors", params, base, 0)
    config.cascade.update(
        base_checkpoint=str(tmp_path / "base.safetensors"), num_frames=4, frameskip=2
    )
    config.sample.update(task="cascade", batch_size=1, guidance_weight=0.0)
    videos = []
    for label in (3, 8):
        config.sample.label = label
        videos.append(make_generator(config, make_mesh(config))(params, [0]))
    assert (videos[0] != videos[1]).any()


def test_previews_need_no_other_model(tiny_config):
    tiny_config.sample.task = "cascade"
    check_sampling(preview_config(tiny_config))
    tiny_config.sample.task = "predict"
    assert preview_config(tiny_config).sample.task == "predict"
