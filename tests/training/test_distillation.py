"""Distillation as a run: the objective, its teacher, what is refused, and a resumed student."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.restored import first_state, newest_state
from vdm.build import count_parameters, init_params, make_denoiser, make_model, make_schedule
from vdm.checks import validate
from vdm.configuration.resolve import resolve
from vdm.data.datasets import make_data_set
from vdm.exported import export, load_exported_config
from vdm.parallel.mesh import make_mesh
from vdm.parallel.rows import shard_batch
from vdm.planning.steps import make_step
from vdm.preflight import check
from vdm.training.compatibility import check_same_model, check_same_run
from vdm.training.loop import train
from vdm.training.objective import drop_conditions, make_objective
from vdm.training.step import make_train_step
from vdm.training.warm_start import check_warm_start, load_source, make_first_state

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _random_params(config, seed=0):
    """Random parameters: a new network's last convolution is zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 16
        value = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        return jnp.array(value + (path[-1].key == "scale"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(partial(init_params, config)))


@pytest.fixture
def teacher_config(tiny_config):
    """A class-conditional model."""
    tiny_config.data.condition, tiny_config.model.num_classes = "label", 10
    tiny_config.sample.update(sampler="ddim", num_steps=2, guidance_weight=1.0)
    return tiny_config


def _student_config(teacher_config, path="", *, steps=2, weights=()):
    config = teacher_config.copy_and_resolve_references()
    config.training.update(init_from=str(path), distill_steps=steps)
    config.model.guidance_weights = weights
    config.sample.update(num_steps=steps or 2, guidance_weight=2.0 if weights else 1.0)
    return config


def _scales(log_snr):
    log_snr = np.asarray(log_snr, np.float64)
    log_snr = log_snr.reshape(*log_snr.shape, *[1] * (5 - log_snr.ndim))
    return 1 / np.sqrt(1 + np.exp(-log_snr)), 1 / np.sqrt(1 + np.exp(log_snr))


def _batch(config, size=4):
    return {
        name: jnp.asarray(a) for name, a in make_data_set(config, "train").batch(0, size).items()
    }


@pytest.mark.parametrize("weights", [(), (1.0, 4.0)])
def test_a_students_loss_is_the_error_of_two_steps_of_its_teacher(teacher_config, weights):
    """Against the paper's formula; the student and the teacher see the same conditions."""
    config = _student_config(teacher_config, steps=2, weights=weights)
    config.training.distill_weighting = "v"
    config.model.condition_dropout = 0.5
    params, teacher = (_random_params(config, seed) for seed in (0, 1))
    objective, batch = make_objective(config), _batch(config)
    x = batch["video"]
    batch, draws = objective.draw(jax.random.key(3), batch, x.shape)
    noise, log_snrs, observed = draws
    assert observed is None
    log_snr, log_snr_m, log_snr_s = map(np.asarray, log_snrs)
    assert 0 < np.sum(np.asarray(batch["label"]) < 0) < 4  # dropped for both networks
    key = jax.random.key(4)
    loss = jax.jit(objective.loss)(params, teacher, batch, x, draws, key)

    @jax.jit
    def estimate(params, z, log_snr):
        v = make_model(config).apply({"params": params}, z, log_snr, batch)
        alpha, sigma = (s.reshape(-1, 1, 1, 1, 1) for s in _jax_scales(log_snr))
        return alpha * z - sigma * v

    def teacher_x(z, log_snr):  # samplers clip
        return np.clip(estimate(teacher, jnp.asarray(z, jnp.float32), log_snr), -1, 1)

    (alpha, sigma), (alpha_m, sigma_m) = _scales(log_snr), _scales(log_snr_m)
    z = alpha * np.asarray(x) + sigma * noise
    x_t = teacher_x(z, log_snr)
    z_m = alpha_m * x_t + sigma_m * (z - alpha * x_t) / sigma
    x_m = teacher_x(z_m, log_snr_m)
    is_last = np.isinf(log_snr_s).reshape(-1, 1, 1, 1, 1)
    assert 0 < is_last.sum() < 4
    alpha_s, sigma_s = _scales(np.where(np.isinf(log_snr_s), 0.0, log_snr_s))
    alpha_s, sigma_s = np.where(is_last, 1.0, alpha_s), np.where(is_last, 0.0, sigma_s)
    z_s = alpha_s * x_m + sigma_s * (z_m - alpha_m * x_m) / sigma_m
    x_target = (z_s - sigma_s / sigma * z) / (alpha_s - sigma_s / sigma * alpha)
    x_hat = np.asarray(estimate(params, jnp.asarray(z, jnp.float32), log_snr), np.float64)
    expected = np.mean((x_hat - x_target) ** 2 / sigma**2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)
    assert bool(weights) == ("guidance_weight" in batch)


def test_a_student_of_diffusion_forcing_has_the_error_of_the_missing_frames(tiny_config):
    """Against the paper's formula, where the networks see observed frames without noise."""
    config = _student_config(tiny_config, steps=2)
    config.diffusion.frame_times, config.predict.num_given = "mixed", 2
    config.data.num_images = 1
    config.training.distill_weighting = "v"
    config.sample.update(sampler="ddim", conditioning="diffusion_forcing", task="predict")
    validate(config)
    params, teacher = (_random_params(config, seed) for seed in (0, 1))
    objective, batch = make_objective(config), _batch(config, 8)
    x = np.concatenate([batch["video"], batch["images"]], axis=1)
    batch, draws = objective.draw(jax.random.key(0), batch, x.shape)
    loss = jax.jit(objective.loss)(params, teacher, batch, x, draws, jax.random.key(4))
    noise, (log_snr, log_snr_m, log_snr_s), observed = jax.tree.map(np.asarray, draws)
    assert observed.shape == (8, 5) and not observed[:, 4].any()  # the image
    assert set(observed.sum(1)) == {0, 1, 2, 3}
    np.testing.assert_allclose(log_snr[observed], 18.0, rtol=1e-5)  # of data, with a shift of -2

    def estimate(params, z, log_snr):
        arguments = (jnp.asarray(z, jnp.float32), jnp.asarray(log_snr), batch)
        v = make_model(config).apply({"params": params}, *arguments, num_images=1)
        alpha, sigma = _scales(log_snr)
        return alpha * z - sigma * v

    (alpha, sigma), (alpha_m, sigma_m) = _scales(log_snr), _scales(log_snr_m)
    z = alpha * x + sigma * noise
    x_t = np.clip(estimate(teacher, z, log_snr), -1, 1)
    z_m = alpha_m * x_t + sigma_m * (z - alpha * x_t) / sigma
    x_m = np.clip(estimate(teacher, z_m, log_snr_m), -1, 1)
    is_last = _column(np.isinf(log_snr_s))
    alpha_s, sigma_s = _scales(np.where(np.isinf(log_snr_s), 0.0, log_snr_s))
    alpha_s, sigma_s = np.where(is_last, 1.0, alpha_s), np.where(is_last, 0.0, sigma_s)
    z_s = alpha_s * x_m + sigma_s * (z_m - alpha_m * x_m) / sigma_m
    step = alpha_s - sigma_s / sigma * alpha
    x_target = (z_s - sigma_s / sigma * z) / np.where(_column(observed), 1.0, step)
    error = (estimate(params, z, log_snr) - x_target) / sigma
    expected = np.mean(error**2, axis=(2, 3, 4)).mean(axis=1, where=~observed)
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


def _column(values):
    return values.reshape(*values.shape, 1, 1, 1)


def _jax_scales(log_snr):
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


def test_a_guided_students_target_is_the_guided_teacher_of_the_sampler(teacher_config):
    """Each weight of a batch has the guidance of `make_denoiser`, which samples have."""
    config = _student_config(teacher_config, steps=0, weights=(1.0, 4.0))
    config.model.condition_dropout = 0.0
    config.training.distill_weighting = "v"
    teacher = _random_params(teacher_config, 1)
    student = _random_params(config, 0)
    padded = dict(student) | {name: teacher[name] for name in teacher if name != "conditioning"}
    weight_kernel = {"kernel": jnp.zeros_like(student["conditioning"]["guidance_weight"]["kernel"])}
    padded["conditioning"] = dict(teacher["conditioning"]) | {"guidance_weight": weight_kernel}
    objective, batch = make_objective(config), _batch(config)
    x = batch["video"]
    batch, draws = objective.draw(jax.random.key(5), batch, x.shape)
    noise, (log_snr,), _ = draws
    weight = np.asarray(batch["guidance_weight"])
    assert weight.min() > 1 and weight.max() < 4 and len(set(weight)) == 4
    loss = jax.jit(objective.loss)(student, padded, batch, x, draws, jax.random.key(6))

    alpha, sigma = _scales(log_snr)
    z = jnp.asarray(alpha * np.asarray(x) + sigma * noise, jnp.float32)
    label = {"label": batch["label"]}
    x_target, x_hat = [], []
    for i in range(4):
        for found, of, params in ((x_target, teacher_config, teacher), (x_hat, config, student)):
            of.sample.guidance_weight = float(weight[i])
            found.append(jax.jit(make_denoiser(of, params, label, clip=False))(z, log_snr)[i])
    error = np.asarray(x_hat, np.float64) - np.asarray(x_target, np.float64)
    expected = np.mean(error**2 / sigma**2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


def test_a_guided_student_starts_as_its_teacher_and_reads_the_weight(teacher_config, tmp_path):
    path, trained = tmp_path / "teacher.safetensors", _random_params(teacher_config)
    export(path, trained, teacher_config, 7)
    config = _student_config(teacher_config, path, steps=0, weights=(1.0, 4.0))
    state = first_state(config)
    jax.tree.map(np.testing.assert_array_equal, state.params, state.teacher)
    jax.tree.map(np.testing.assert_array_equal, state.params, state.ema_params)
    z = jax.random.normal(jax.random.key(0), (2, 4, 8, 8, 1))
    log_snr, label = jnp.array([-3.0, 3.0]), {"label": jnp.array([1, 2])}
    expected = jax.jit(make_denoiser(teacher_config, trained, label))(z, log_snr)
    found = jax.jit(make_denoiser(config, state.params, label))(z, log_snr)
    np.testing.assert_allclose(found, expected, atol=1e-6)

    batches = []
    kernel = state.params["conditioning"]["guidance_weight"]["kernel"]
    state.params["conditioning"]["guidance_weight"]["kernel"] = jnp.ones_like(kernel)
    for weight in (2.0, 3.0):
        config.sample.guidance_weight = weight
        batches.append(jax.jit(make_denoiser(config, state.params, label))(z, log_snr))
    assert np.abs(batches[0] - batches[1]).max() > 1e-4


def test_dropped_conditions_are_those_of_random_videos_and_images():
    batch = {
        "video": jnp.zeros((1000, 1)),
        "label": jnp.full(1000, 3),
        "image_label": jnp.full((1000, 2), 4),
        "text_mask": jnp.ones((1000, 5), bool),
        "text": jnp.ones((1000, 5, 2)),
    }
    dropped = drop_conditions(jax.random.key(0), batch, 0.25)
    is_dropped = np.asarray(dropped["label"]) == -1
    assert 0.2 < is_dropped.mean() < 0.3
    np.testing.assert_array_equal(dropped["label"][~is_dropped], 3)
    np.testing.assert_array_equal(dropped["text_mask"].any(1), ~is_dropped)
    np.testing.assert_array_equal(dropped["text_mask"].all(1), ~is_dropped)
    images = np.asarray(dropped["image_label"]) == -1
    assert 0.2 < images.mean() < 0.3 and (images[:, 0] != images[:, 1]).any()
    assert dropped["text"] is batch["text"] and dropped["video"] is batch["video"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"diffusion.target": "eps"},
            r"target is 'eps', and must be 'x' or 'v' for a student of 2",
        ),
        ({"sample.sampler": "ancestral"}, r"sampler is 'ancestral', and must be 'ddim' for a stud"),
        ({"sample.num_steps": 4}, r"num_steps is 4, and must be 2 for a student of 2 steps"),
        ({"sample.num_steps": 1}, r"num_steps is 1, and must be 2 for a student of 2 steps"),
        ({"training.eval_every": 5}, r"eval_every is 5, and must be 0 for a student"),
        ({"sample.guidance_weight": 2.0}, r"guidance_weight is 2\.0, and must be 0 or 1 for a stu"),
        ({"training.distill_steps": -1}, r"distill_steps is -1, and must be at least 0"),
        ({"training.distill_weighting": "snr"}, r"weighting is 'snr', and must be one of 'truncat"),
        (
            {"model.guidance_weights": (3.0, 1.0)},
            r"guidance_weights is \(3\.0, 1\.0\), and must be e",
        ),
        (
            {"model.guidance_weights": (2.0, 4.0)},
            r"guidance_weight is 1\.0, and must be 2\.0 to 4\.0",
        ),
    ],
)
def test_names_a_wrong_field_of_a_student(changes, message, teacher_config):
    config = _student_config(teacher_config)
    validate(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message) as error:
        validate(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample.task": "interpolate"}, r"task is 'interpolate', and must be generate, predict"),
        (
            {"sample.task": "generate", "predict.num_given": 4},
            r"num_given is 4, and must be 1 to 3",
        ),
        ({"sample.context_noise": 0.1}, r"context_noise is 0\.1, and must be 0 for a student"),
        (
            {"sample.history_guidance_weight": 3.0},
            r"history_guidance_weight is 3\.0, and must be 1 for a student, which learned to obse",
        ),
        (
            {"sample.task": "extend", "extend.method": "key_frames"},
            r"method is 'key_frames', and must be 'autoregressive' or 'joint' for a student",
        ),
    ],
)
def test_names_a_wrong_observation_of_a_student_of_diffusion_forcing(changes, message, tiny_config):
    config = _student_config(tiny_config)
    config.diffusion.frame_times = "independent"
    config.sample.update(sampler="ddim", conditioning="diffusion_forcing", task="predict")
    validate(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_guidance_is_distilled_from_a_model_with_a_condition(tiny_config):
    tiny_config.model.guidance_weights, tiny_config.sample.guidance_weight = (1.0, 4.0), 2.0
    with pytest.raises(ValueError, match=r"data\.condition is 'none', and must be label, text"):
        validate(tiny_config)


@pytest.mark.parametrize(
    ("of_teacher", "of_student", "message"),
    [
        ({}, {"training.init_from": ""}, r"init_from is '', and must be the teacher of a student"),
        ({"training.distill_steps": 8}, {}, r"distill_steps is 2, and must be half of the 8 steps"),
        (
            {"training.distill_steps": 8},
            {"training.distill_steps": 0, "model.guidance_weights": (1.0, 4.0)},
            r"is a student of 8 steps, whose guidance cannot be distilled: distil guidance first",
        ),
        (
            {"model.guidance_weights": (1.0, 4.0)},
            {"training.distill_steps": 0, "model.guidance_weights": (1.0, 4.0)},
            r"distill_steps is 0, and must be positive, since .* is a guided student already",
        ),
        (
            {"model.guidance_weights": (1.0, 4.0)},
            {},
            r"no teacher of this model: its config\.model\.guidance_weights is \(1\.0, 4\.0\)",
        ),
        (
            {},
            {"diffusion.frame_times": "mixed"},
            r"frame_times is 'mixed', and must be 'shared', since .* with one noise level per vid",
        ),
        (
            {"diffusion.log_snr_shift": -1.0},
            {},
            r"no teacher of this model: its config\.diffusion\.log_snr_shift is -1\.0",
        ),
    ],
)
def test_names_a_wrong_teacher(of_teacher, of_student, message, teacher_config, tmp_path):
    path = tmp_path / "teacher.safetensors"
    teacher = teacher_config.copy_and_resolve_references()
    teacher.update_from_flattened_dict(of_teacher)
    export(path, {}, teacher, 1)
    config = _student_config(teacher_config, path)
    config.update_from_flattened_dict(of_student)
    with pytest.raises(ValueError, match=message) as error:
        check_warm_start(config, tmp_path / "new")
    assert "\n" not in str(error.value)


def test_a_plan_counts_the_teacher_and_needs_no_file_of_it(teacher_config):
    config = _student_config(teacher_config, weights=(1.0, 4.0))
    config.training.optimizer = "adam"
    step = make_step(config, make_mesh(config), "train")
    parameters = count_parameters(jax.eval_shape(partial(init_params, config)))
    state, _ = step.arguments
    # Parameters, their average, Adam's two moments and the teacher.
    assert count_parameters(state) == pytest.approx(5 * parameters, abs=10)
    after = step.function.trace(*step.arguments).out_info
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree.teacher) for tree in (state, after)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_sharded_micro_batches_take_the_same_step_as_the_batch(teacher_config):
    config = _student_config(teacher_config, steps=2)
    parts = config.copy_and_resolve_references()
    parts.training.accumulate, parts.mesh.fsdp = 2, 2
    sums = []
    for settings in (config, parts):
        mesh = make_mesh(settings)
        batch = make_data_set(settings, "train").batch(0, 4)
        state = make_first_state(settings, mesh, load_source(settings, mesh))
        state = make_train_step(settings, mesh)(state, shard_batch(mesh, batch, 4))
        sums.append(state.metric_sums)
    assert sums[0]["loss"] > 1e-3
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(sums[0][name], sums[1][name], rtol=1e-4)


@pytest.mark.slow
def test_a_resumed_student_needs_no_teacher_and_changes_no_bit(teacher_config, tmp_path):
    path = tmp_path / "teacher.safetensors"
    export(path, _random_params(teacher_config), teacher_config, 7)
    config = _student_config(teacher_config, path, steps=1)
    config.training.update(num_steps=4, checkpoint_every=2, log_every=3)
    config.model.dropout = 0.1
    check(config, tmp_path / "whole", "train")
    train(config, tmp_path / "whole", preview=None)
    config.training.num_steps = 2
    train(config, tmp_path / "parts", preview=None)
    path.unlink()
    config.training.num_steps = 4
    check(config, tmp_path / "parts", "train")
    train(config, tmp_path / "parts", preview=None)
    states = [newest_state(config, tmp_path / name) for name in ("whole", "parts")]
    assert int(states[0].step) == 4
    jax.tree.map(np.testing.assert_array_equal, *states)
    # Frozen, while the student has moved.
    jax.tree.map(np.testing.assert_array_equal, states[0].teacher, _random_params(teacher_config))
    kernels = [tree["conv_out"]["conv"]["kernel"] for tree in (states[0].params, states[0].teacher)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
    config.training.distill_steps = 2
    with pytest.raises(ValueError, match=r"its config\.training\.distill_steps is 1, and this"):
        check_same_run(config, tmp_path / "parts")


def test_an_exported_student_keeps_its_steps_and_its_schedule(teacher_config, tmp_path):
    path = tmp_path / "student.safetensors"
    config = _student_config(teacher_config)
    export(path, {}, config, 1)
    saved, _ = load_exported_config(path)
    check_same_model(config, saved, path)
    for field, value in (("training.distill_steps", 0), ("diffusion.log_snr_shift", 1.0)):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({field: value})
        with pytest.raises(ValueError, match=rf"different model: its config\.{field} is "):
            check_same_model(other, saved, path)
    np.testing.assert_allclose(make_schedule(config)(jnp.ones(1)), [-22.0], rtol=1e-5)


@pytest.mark.slow
def test_the_command_line_distils_and_samples_in_the_students_steps(
    teacher_config, tiny_overrides, tmp_path
):
    teacher, workdir, output = (tmp_path / name for name in ("t.safetensors", "student", "output"))
    export(teacher, _random_params(teacher_config), teacher_config, 7)

    def run(*arguments):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "vdm.main", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = [option for option in tiny_overrides if "condition" not in option]
    options = [option for option in options if "num_classes" not in option]
    options += [f"--config.training.init_from={teacher}", "--config.training.num_steps=2"]
    options += ["--config.training.distill_steps=1", "--config.sample.num_steps=1"]
    options += ["--config.sample.sampler=ddim", "--config.sample.guidance_weight=1"]
    printed = run("--config=moving_digits", f"--workdir={workdir}", *options)
    assert f"warm start from step 7 of {teacher}" in printed and "step 2/2" in printed
    run(f"--workdir={workdir}", "--mode=sample")
    assert np.load(workdir / "samples" / "samples.npz")["video"].shape == (4, 4, 8, 8, 1)
    run(f"--workdir={workdir}", "--mode=export")

    exported = {"checkpoint": str(workdir / "model.safetensors")}
    for overrides in ({}, exported):
        for wrong, message in (
            ({"sample.num_steps": "4"}, "num_steps is 4, and must be 1 for a student of 1 step "),
            ({"sample.sampler": "ancestral"}, "sampler is 'ancestral', and must be 'ddim'"),
            ({"training.distill_steps": "0"}, "its config.training.distill_steps is 1, and this"),
        ):
            config = resolve(None, workdir, overrides | wrong)
            with pytest.raises(ValueError, match=message):
                check(config, workdir if not overrides else output, "sample")
