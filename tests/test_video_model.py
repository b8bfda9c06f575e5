"""vdm.load: samples equal those of --mode=sample, and errors say what to do."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import vdm
from tests.compiled import init_params
from vdm.configuration.stored import save_run_config
from vdm.exported import export
from vdm.main import sample as sample_mode
from vdm.training.checkpoints import Checkpoints
from vdm.training.state import init_state

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def labelled(tiny_config_of_module):
    config = tiny_config_of_module
    config.data.condition, config.model.num_classes = "label", 10
    config.sample.batch_size = 2
    config.predict.num_given = 2
    return config


@pytest.fixture(scope="module")
def file(labelled, tmp_path_factory):
    """An exported file of random weights, which depend on the label."""
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
        init_params(labelled),
    )
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    export(path, params, labelled, 12)
    return path


@pytest.fixture(scope="module")
def model(file):
    return vdm.load(file)


@pytest.fixture
def mode_sample(labelled, file, tmp_path):
    """Returns what `--mode=sample` writes with some fields {'section.name': value} set."""

    def run(fields, videos=None):
        config = labelled.copy_and_resolve_references()
        config.checkpoint = str(file)
        if videos is not None:
            np.savez(tmp_path / "observed.npz", video=videos)
            config.sample.observed = str(tmp_path / "observed.npz")
        for name, value in fields.items():
            section, _, field = name.partition(".")
            config[section][field] = value
        sample_mode(config, epath.Path(tmp_path))
        with np.load(tmp_path / "samples" / "samples.npz") as arrays:
            return arrays["video"]

    return run


def _videos(*shape):
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_samples_are_those_of_mode_sample(model, mode_sample):
    settings = {"seed": 5, "label": 3, "guidance_weight": 3.0, "sampler": "ddim", "num_steps": 3}
    found = model.sample(3, **settings)
    assert found.shape == (3, 4, 8, 8, 1) and found.dtype == np.uint8
    expected = mode_sample(
        {f"sample.{k}": v for k, v in settings.items()} | {"sample.num_videos": 3}
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(model.sample(2, **settings), expected[:2])
    assert (model.sample(3, **settings | {"seed": 6}) != expected).any()
    # A label per sample, and those of held-out videos.
    mixed = model.sample(3, **settings | {"label": [3, 8, np.int64(3)]})
    assert (mixed == expected).all((1, 2, 3, 4)).tolist() == [True, False, True]
    np.testing.assert_array_equal(model.sample(3), mode_sample({"sample.num_videos": 3}))


@pytest.mark.parametrize(
    ("task", "fields", "size", "channels"),
    [
        ("predict", {"num_given": 1}, 8, 1),
        ("predict", {}, 10, 3),
        ("interpolate", {"every": 3}, 8, 1),
        ("upsample", {"factor": 2}, 8, 1),
        ("extend", {"num_frames": 6, "overlap": 2, "stride": 1}, 8, 1),
        ("extend", {"num_frames": 7, "overlap": 2, "stride": 2, "method": "joint"}, 8, 1),
    ],
)
def test_tasks_of_observed_videos_are_those_of_mode_sample(
    model, mode_sample, task, fields, size, channels
):
    if size != 8:
        pytest.importorskip("cv2")
    videos = _videos(2, 4, size, size, channels)
    found = getattr(model, task)(videos, seed=1, per_example=2, **fields)
    flags = {"sample.task": task, "sample.seed": 1, "sample.per_example": 2}
    flags |= {f"{task}.{name}": value for name, value in fields.items()}
    if task == "extend":
        flags["extend.num_given"] = 4
    expected = mode_sample(flags | {"sample.num_videos": 4}, videos)
    np.testing.assert_array_equal(found, expected)
    if task == "extend":
        np.testing.assert_array_equal(found[::2, :4], videos)


def test_all_frames_of_a_long_video_are_kept(model):
    videos = _videos(2, 7, 8, 8, 1)
    found = model.extend(list(videos), num_frames=9, overlap=2, stride=2)
    assert found.shape == (2, 9, 8, 8, 1)
    np.testing.assert_array_equal(found[:, :7], videos)
    expected = model.extend(videos[:, 3:], num_frames=6, overlap=2, stride=2)
    np.testing.assert_array_equal(found[:, 3:], expected)


def test_long_videos_from_no_video(model, mode_sample):
    found = model.sample(2, num_frames=6, label=1)  # half a block is observed and half is new
    fields = {"sample.task": "extend", "extend.num_frames": 6, "sample.label": 1}
    fields |= {"sample.num_videos": 2, "extend.overlap": 2, "extend.stride": 2}
    assert found.shape == (2, 6, 8, 8, 1)
    np.testing.assert_array_equal(found, mode_sample(fields))


def test_a_student_extends_videos_of_any_length(tiny_config, tmp_path):
    config = tiny_config
    config.diffusion.update(frame_times="mixed", target="v")
    config.training.distill_steps = 2
    sampler = {"sampler": "ddim", "num_steps": 2}
    config.sample.update(conditioning="diffusion_forcing", **sampler)
    export(tmp_path / "model.safetensors", init_params(config), config, 1)
    student, videos = vdm.load(tmp_path), _videos(2, 6, 8, 8, 1)
    longer = student.extend(videos, num_frames=9, overlap=2)
    np.testing.assert_array_equal(longer[:, :6], videos)
    # Only the last block of 4 frames is observed.
    found = student.extend(videos[:, 2:], num_frames=7, overlap=2)
    np.testing.assert_array_equal(found, longer[:, 2:])


def test_each_sample_of_a_long_video_has_its_action(tiny_config, tmp_path):
    tiny_config.data.update(name="zeros", condition="action")
    tiny_config.model.action_width = 2
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
        init_params(tiny_config),
    )
    export(tmp_path / "model.safetensors", params, tiny_config, 1)
    model, videos, actions = vdm.load(tmp_path), _videos(2, 2, 8, 8, 1), [[1.0, 0.0], [0.0, 1.0]]
    blocks = {"num_frames": 6, "overlap": 2, "stride": 2}
    found = model.extend(videos, action=actions, **blocks)
    assert (model.extend(videos, action=actions[0], **blocks)[1] != found[1]).any()
    for index, action in enumerate(actions):
        one = model.extend(videos, action=action, **blocks)
        np.testing.assert_array_equal(found[index], one[index])
    found = model.sample(2, num_frames=6, action=np.array(actions))
    np.testing.assert_array_equal(found[1], model.sample(2, num_frames=6, action=actions[1])[1])
    with pytest.raises(ValueError, match=r"or extend with config\.sample\.action"):
        model.sample(2, num_frames=6, action=[actions[0], []])


def test_another_seed_or_label_compiles_nothing(file):
    model = vdm.load(file)
    model.sample(1, label=1)
    (draw,) = model._draws.values()
    for settings in ({"label": 2}, {"label": 2, "seed": 2**32 - 1}, {"label": [4]}):
        model.sample(1, **settings)
    assert list(model._draws.values()) == [draw] and draw._cache_size() == 1


def test_numbers_may_be_those_of_numpy_and_jax(model):
    videos, plain = _videos(2, 4, 8, 8, 1), {"label": [1, 2], "guidance_weight": 2.0, "seed": 3}
    expected = model.sample(2, num_frames=6, **plain), model.predict(videos, num_given=2, **plain)
    for convert in (np.asarray, jnp.asarray):
        settings = {name: convert(value) for name, value in plain.items()}
        settings["label"] = list(settings["label"])  # of numbers of NumPy or JAX
        sampled = model.sample(convert(2), num_frames=convert(6), **settings)
        predicted = model.predict(convert(videos), num_given=convert(2), **settings)
        np.testing.assert_array_equal(sampled, expected[0])
        np.testing.assert_array_equal(predicted, expected[1])


def test_a_seed_has_the_same_noise_whatever_the_default_generator(file):
    expected = vdm.load(file).sample(1, label=1)
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(vdm.load(file).sample(1, label=1), expected)


def test_steps_are_reported_and_change_no_sample(file):
    model, steps = vdm.load(file), []
    settings = {"label": 1, "sampler": "ancestral", "num_steps": 3}
    silent = model.sample(3, **settings)  # two batches
    model.on_step = steps.append
    np.testing.assert_array_equal(model.sample(3, **settings), silent)
    assert steps == [0, 1, 2, 0, 1, 2]
    model.on_step = None
    model.sample(3, **settings)
    assert len(steps) == 6


def test_loads_workdirs_folders_and_names(labelled, file, model, tmp_path, caplog):
    folder = tmp_path / "hub"
    folder.mkdir()
    shutil.copy(file, folder)
    assert repr(vdm.load(str(folder))) == repr(model)
    assert repr(model).startswith("VideoModel([4, 8, 8, 1], condition='label', 0.0")
    assert vdm.load("moving_digits").step == 7500

    workdir = epath.Path(tmp_path / "run")
    workdir.mkdir()
    labelled = labelled.copy_and_resolve_references()
    labelled.mesh.fsdp = 3  # of training; not a divisor of the devices here
    save_run_config(workdir, labelled)
    labelled.mesh.fsdp = 1
    state = jax.jit(partial(init_state, labelled))()
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state)
    checkpoints.close()
    caplog.clear()
    loaded = vdm.load(workdir)
    assert loaded.step == 0
    assert not caplog.messages
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.ema_params)


def test_errors_say_what_to_do(model, file, tmp_path):
    (tmp_path / "run").mkdir()
    run = tmp_path / "trained"
    (run / "checkpoints" / "3").mkdir(parents=True)
    save_run_config(run, model.config)
    for path, options, message in (
        (tmp_path / "gone", {}, "gone does not exist, and must be .* or one of moving_digits"),
        (tmp_path / "run", {}, "run has no checkpoint and no model.safetensors: train with"),
        (file, {"step": 3}, "step is 3, and must be empty"),
        (run, {"step": "newest"}, "step is 'newest', and must be '' for the newest checkpoint"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            vdm.load(path, **options)
    videos = _videos(2, 4, 8, 8, 1)
    for call, message in (
        (lambda: model.sample(0), "n is 0"),
        (lambda: model.sample(1.5), "n is 1.5, and must be an integer of at least 1"),
        (lambda: model.predict(None), "videos is None, and must be an array"),
        (lambda: model.predict(videos, per_example=0), "sample.per_example is 0, and must be at"),
        (lambda: model.upsample(videos, factor=0), "upsample.factor is 0, and must be at least 1"),
        (lambda: model.extend(videos, num_frames="9"), "num_frames is '9', and must be an integer"),
        (lambda: model.sample(1, num_step=3), "no setting num_step: did you mean num_steps"),
        (lambda: model.sample(1, num_steps="3"), "num_steps is '3', and must be of type int"),
        (lambda: model.sample(1, sampler="dim"), "config.sample.sampler is 'dim', and must be one"),
        (lambda: model.sample(1, label=10), "config.sample.label is 10, and must be less than"),
        (lambda: model.sample(1, label=[1, 2]), "label has 2 values, and there are 1 samples"),
        (lambda: model.sample(2, label=[1, None]), "label is None, and must be of type int"),
        (lambda: model.sample(2, label=[1, [2]]), "label is .2,., and must be of type int"),
        (lambda: model.sample(2, action=[[1, 2], [3]]), "config.sample.action is .1, 2., and must"),
        (lambda: model.sample(1, num_frames=4.0), "num_frames is 4.0, and must be an integer of"),
        (lambda: model.sample(1, num_frames=3), "num_frames is 3, and must be an integer of at"),
        (lambda: model.sample(1, caption="a"), "config.sample.caption is 'a', and must be empty"),
        (lambda: model.predict(videos, num_given=4), "predict.num_given is 4, and must be 1 to 3"),
        (lambda: model.predict(videos[0]), "videos is uint8 .* must be uint8"),
        (lambda: model.predict(videos[:, :1], num_given=2), r"videos\[0\] has 1 frame, and 2 are"),
        (lambda: model.extend(videos, num_frames=9, overlap=4), "overlap is 4, and must be 1 to 3"),
        (lambda: model.extend(videos, num_frames=4), "num_frames is 4, and must be more than 4"),
        (
            lambda: model.extend([*videos, np.repeat(videos[0], 2, 0)], num_frames=9),
            r"videos\[2\] has 8 frames, and the first video 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_guidance_and_labels_of_an_unconditional_model(tiny_config, tmp_path):
    export(tmp_path / "model.safetensors", init_params(tiny_config), tiny_config, 1)
    model = vdm.load(tmp_path)
    assert model.sample(1).shape == (1, 4, 8, 8, 1)
    with pytest.raises(ValueError, match=r"guidance_weight is 2\.0, and must not be set"):
        model.sample(1, guidance_weight=2.0)
    with pytest.raises(ValueError, match=r"config\.sample\.label is 3"):
        model.sample(1, label=3)
