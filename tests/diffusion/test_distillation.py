"""Distillation on Gaussian 'videos', where teachers and optimal students are linear and known.

The closed forms are computed here in float64, from the definition of DDIM in the eigenbasis of the
covariance, and without the library's formulas.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian import Gaussian, scales
from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.distillation import (
    STUDENT_TARGETS,
    WEIGHTINGS,
    distillation_loss,
    draw_observed,
    loss_weight,
    student_log_snr,
    two_step_target,
)
from vdm.diffusion.guidance import classifier_free_guidance
from vdm.diffusion.process import denoiser as denoiser_of
from vdm.diffusion.process import diffuse, target_value
from vdm.diffusion.samplers import sample
from vdm.diffusion.schedule import alpha_sigma, cosine_log_snr, sampling_log_snr

FRAMES = 4
MEAN = np.array([0.3, -0.2, 0.5, 0.1])
COVARIANCE = 0.4 * 0.8 ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
DATA = Gaussian(MEAN, COVARIANCE)
EYE = np.eye(FRAMES)
STAGES = (64, 32, 16, 8, 4, 2, 1)


def _ddim(num_steps, first, last, data=DATA):
    """The map of steps first to last - 1 of num_steps, as (matrix, offset), in float64.

    x_hat is the exact E[x given z] of `data`.
    """
    levels, eye = scales(num_steps), np.eye(len(data.mean))
    matrix, offset = eye, np.zeros(len(eye))
    for k in range(first, last):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels[k], levels[k + 1]
        if k == num_steps - 1:
            alpha_s, sigma_s = 1.0, 0.0  # the last step ends at x_hat
        gain = data.gain(alpha_t, sigma_t)
        x_matrix, x_offset = gain, data.mean - alpha_t * gain @ data.mean
        step = sigma_s / sigma_t * eye + (alpha_s - alpha_t * sigma_s / sigma_t) * x_matrix
        shift = (alpha_s - alpha_t * sigma_s / sigma_t) * x_offset
        matrix, offset = step @ matrix, step @ offset + shift
    return matrix, offset


def _optimal_student(num_steps, data=DATA, num_teacher_steps=STAGES[0]):
    """x_hat of the student of num_steps from teachers 64, ..., 2 num_steps: (matrix, offset) by k.

    One step of it is 64 / num_steps steps of the exact denoiser, which is solved for x_hat.
    """
    levels, ratio, student = scales(num_steps), num_teacher_steps // num_steps, []
    for k in range(num_steps):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels[k], levels[k + 1]
        if k == num_steps - 1:
            alpha_s, sigma_s = 1.0, 0.0
        matrix, offset = _ddim(num_teacher_steps, k * ratio, (k + 1) * ratio, data)
        scale = alpha_s - alpha_t * sigma_s / sigma_t
        eye = np.eye(len(data.mean))
        student.append(((matrix - sigma_s / sigma_t * eye) / scale, offset / scale))
    return student


def _apply(x_hat, z):
    matrix, offset = x_hat
    return np.einsum("ij,bj->bi", matrix, np.asarray(z, np.float64)) + offset


def _linear_denoiser(student):
    """A denoiser of the log-SNRs of a student's steps, from its matrices."""
    levels = sampling_log_snr(len(student))[:-1]
    matrices, offsets = (jnp.asarray(np.stack(a), jnp.float32) for a in zip(*student, strict=True))

    def denoise(z, log_snr):
        k = jnp.abs(levels - log_snr[:, None]).argmin(axis=1)
        flat = z.reshape(len(z), -1)
        exact = jax.lax.Precision.HIGHEST
        x = jnp.einsum("bij,bj->bi", matrices[k], flat, precision=exact) + offsets[k]
        return x.reshape(z.shape)

    return denoise


def _teacher(num_steps):
    return (
        DATA.denoiser if num_steps == STAGES[0] else _linear_denoiser(_optimal_student(num_steps))
    )


@pytest.mark.parametrize("num_steps", STAGES[1:])
def test_the_target_of_each_stage_is_the_closed_form(num_steps):
    student = _optimal_student(num_steps)
    t = (jnp.arange(num_steps) + 0.5) / num_steps
    log_snr_t, log_snr_m, log_snr_s = student_log_snr(t, num_steps)
    key_x, key_noise = jax.random.split(jax.random.key(num_steps))
    x = MEAN + jax.random.normal(key_x, (num_steps, FRAMES)) @ np.linalg.cholesky(COVARIANCE).T
    z = diffuse(x, jax.random.normal(key_noise, x.shape), log_snr_t)
    found = two_step_target(_teacher(2 * num_steps), z, log_snr_t, log_snr_m, log_snr_s)
    expected = np.concatenate([_apply(student[k], z[k : k + 1]) for k in range(num_steps)])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    loss = distillation_loss(
        lambda z, log_snr: _linear_denoiser(student)(z, log_snr), z, log_snr_t, found, target="x"
    )
    # The error of x_hat is rounding alone, whatever the signal-to-noise ratio.
    np.testing.assert_array_less(loss / loss_weight(log_snr_t, "truncated_snr"), 1e-9)


@pytest.mark.parametrize("num_steps", STAGES[1:])
def test_n_steps_of_the_student_are_2n_of_the_teacher(num_steps):
    """The student is the target itself, evaluated by the library, in place of a trained network."""
    t = (jnp.arange(num_steps) + 0.5) / num_steps
    starts, midpoints, ends = student_log_snr(t, num_steps)
    teacher = _teacher(2 * num_steps)

    def student(z, log_snr):
        k = jnp.abs(starts - log_snr[:, None]).argmin(axis=1)
        return two_step_target(teacher, z, log_snr, midpoints[k], ends[k])

    shape = (32, FRAMES, 1, 1, 1)
    fast, slow = (
        sample(jax.random.key(1), denoiser, shape, sampler="ddim", num_steps=steps)
        for denoiser, steps in ((student, num_steps), (teacher, 2 * num_steps))
    )
    assert np.std(slow) > 0.3
    np.testing.assert_allclose(fast, slow, atol=2e-5)
    # All of the teachers' steps are those of the first one.
    first = sample(jax.random.key(1), DATA.denoiser, shape, sampler="ddim", num_steps=STAGES[0])
    np.testing.assert_allclose(fast, first, atol=1e-4)


@pytest.mark.parametrize("num_steps", [8, 2, 1])
def test_a_student_of_diffusion_forcing_is_that_of_the_conditional_law(num_steps):
    """Observed frames have the log-SNR of data; the others take the steps of their exact law."""
    observed, count = np.array([True, True, False, False]), 6
    values = np.random.default_rng(2).normal(size=(count, FRAMES))
    starts, midpoints, ends = student_log_snr((jnp.arange(num_steps) + 0.5) / num_steps, num_steps)
    for k in range(num_steps):
        log_snrs = [
            jnp.broadcast_to(jnp.where(observed, 20.0, level[k]), (count, FRAMES))
            for level in (starts, midpoints, ends)
        ]
        noise = jax.random.normal(jax.random.key(k), (count, FRAMES))
        z = diffuse(jnp.asarray(values, jnp.float32), noise, log_snrs[0])
        found = two_step_target(DATA.frame_denoiser, z, *log_snrs)
        np.testing.assert_allclose(found[:, observed], values[:, observed], atol=1e-3)
        for row in range(count):
            law = DATA.given(EYE[observed], values[row, observed])
            missing = Gaussian(law.mean[2:], law.covariance[2:, 2:])
            student = _optimal_student(num_steps, missing, 2 * num_steps)[k]
            expected = _apply(student, z[row : row + 1, 2:])[0]
            np.testing.assert_allclose(found[row, 2:], expected, atol=2e-3)


@pytest.mark.parametrize("num_steps", [8, 1])
def test_n_steps_of_a_student_of_diffusion_forcing_are_2n_of_its_teacher(num_steps):
    starts, midpoints, ends = student_log_snr((jnp.arange(num_steps) + 0.5) / num_steps, num_steps)

    def student(z, log_snr):
        k = jnp.abs(starts - log_snr[0, -1]).argmin()
        is_observed = log_snr > 19.0
        levels = (jnp.where(is_observed, log_snr, level[k]) for level in (midpoints, ends))
        return two_step_target(DATA.frame_denoiser, z, log_snr, *levels)

    shape = (32, FRAMES, 1, 1, 1)
    values = jax.random.normal(jax.random.key(2), shape)
    fast, slow = (
        sample(
            jax.random.key(1),
            denoiser,
            shape,
            sampler="ddim",
            num_steps=steps,
            observation=ObservedFrames(values, jnp.arange(FRAMES) < 2),
            conditioning="diffusion_forcing",
        )
        for denoiser, steps in ((student, num_steps), (DATA.frame_denoiser, 2 * num_steps))
    )
    assert np.std(slow[:, 2:]) > 0.3
    np.testing.assert_allclose(fast, slow, atol=1e-4)


def test_half_of_the_videos_observe_the_frames_of_the_task_and_the_others_any_number():
    observed = np.asarray(draw_observed(jax.random.key(0), 8000, 4, 3))
    lengths = observed.sum(1)
    np.testing.assert_array_equal(observed, np.arange(4) < lengths[:, None])
    expected = 8000 * np.array([0.125, 0.125, 0.125, 0.625, 0.0])
    assert np.abs(np.bincount(lengths, minlength=5) - expected).max() < 4 * np.sqrt(2000)


def test_the_loss_of_frames_is_the_mean_over_the_missing_ones():
    rng = np.random.default_rng(3)
    z, x_target, prediction = (
        jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32) for _ in range(3)
    )
    log_snr = jnp.array([[20.0, -1.0, 2.0], [20.0, 20.0, 3.0]])
    loss = distillation_loss(
        lambda *_: prediction, z, log_snr, x_target, target="x", observed=log_snr == 20.0
    )
    means = np.mean(np.square(np.asarray(prediction - x_target, np.float64)), axis=2)
    first = (means[0, 1] + np.exp(2.0) * means[0, 2]) / 2
    np.testing.assert_allclose(loss, [first, np.exp(3.0) * means[1, 2]], rtol=1e-5)


def test_a_student_has_the_steps_of_the_sampler_and_the_midpoints_of_its_teachers():
    t = jnp.array([0.0, 0.24, 0.26, 0.5, 0.999999])
    starts, midpoints, ends = student_log_snr(t, 4)
    own, teachers = sampling_log_snr(4), sampling_log_snr(8)
    k = np.array([0, 0, 1, 2, 3])
    np.testing.assert_array_equal(starts, own[k])
    np.testing.assert_array_equal(midpoints, teachers[2 * k + 1])
    np.testing.assert_array_equal(ends, np.where(k == 3, np.inf, own[k + 1]))
    np.testing.assert_allclose(teachers[::2], own, rtol=1e-5)
    # A shifted and truncated schedule, too.
    shifted = student_log_snr(t, 4, lambda t: cosine_log_snr(t, -9.0, 9.0) - 2.0)
    np.testing.assert_allclose(shifted[0][0], -11.0, rtol=1e-5)
    with pytest.raises(ValueError, match="num_steps must be at least 1, not 0"):
        student_log_snr(t, 0)


@pytest.mark.parametrize("log_snr_s", [-1.0, 3.0, 18.0])
def test_the_target_solves_the_students_step(log_snr_s):
    """The paper's formula, in float64, of a teacher that is not linear."""
    z = np.random.default_rng(0).normal(size=(5, FRAMES))
    log_snr = np.array([log_snr_s - 4.0, log_snr_s - 1.5, log_snr_s])
    (alpha_t, sigma_t), (alpha_m, sigma_m), (alpha_s, sigma_s) = (
        (1 / np.sqrt(1 + np.exp(-level)), 1 / np.sqrt(1 + np.exp(level))) for level in log_snr
    )
    x_t = np.tanh(z + 0.1)
    z_m = alpha_m * x_t + sigma_m * (z - alpha_t * x_t) / sigma_t
    x_m = np.tanh(z_m + 0.1)
    z_s = alpha_s * x_m + sigma_s * (z_m - alpha_m * x_m) / sigma_m
    ratio = sigma_s / sigma_t
    expected = (z_s - ratio * z) / (alpha_s - ratio * alpha_t)

    def teacher(z, log_snr):
        return jnp.tanh(z + 0.1)

    levels = [jnp.full(5, level, jnp.float32) for level in log_snr]
    found = two_step_target(teacher, jnp.asarray(z, jnp.float32), *levels)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    at_end = two_step_target(teacher, jnp.asarray(z, jnp.float32), *levels[:2], jnp.full(5, np.inf))
    np.testing.assert_allclose(at_end, x_m, atol=1e-5)


@pytest.mark.parametrize("target", STUDENT_TARGETS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_loss_is_the_weighted_error(target, weighting):
    """'v' is the error of v; 'truncated_snr' the larger one of the errors of x and of eps."""
    rng = np.random.default_rng(1)
    z, x_target, prediction = (
        jnp.asarray(rng.normal(size=(3, 2, 2)), jnp.float32) for _ in range(3)
    )
    log_snr = jnp.array([-3.0, 0.5, 4.0])
    loss = distillation_loss(
        lambda *_: prediction, z, log_snr, x_target, target=target, weighting=weighting
    )
    alpha, sigma = (np.asarray(a, np.float64)[:, None, None] for a in alpha_sigma(log_snr))
    z, x_target, prediction = (np.asarray(a, np.float64) for a in (z, x_target, prediction))
    x_hat = prediction if target == "x" else alpha * z - sigma * prediction
    errors = {
        "x": x_hat - x_target,
        "eps": (z - alpha * x_hat) / sigma - (z - alpha * x_target) / sigma,
        "v": (alpha * z - x_hat) / sigma - (alpha * z - x_target) / sigma,
    }
    means = {name: np.mean(error**2, axis=(1, 2)) for name, error in errors.items()}
    expected = means["v"] if weighting == "v" else np.maximum(means["x"], means["eps"])
    np.testing.assert_allclose(loss, expected, rtol=2e-4)


def test_the_gradient_of_the_loss_leaves_the_target_alone():
    z, log_snr = jnp.ones((1, 2)), jnp.zeros(1)

    def loss(scale):
        return distillation_loss(lambda z, _: scale * z, z, log_snr, 3.0 * scale * z, target="x")[0]

    # d/ds (s - t)^2 at s = 1, t = 3 is -4.
    assert jax.grad(loss)(1.0) == pytest.approx(-4.0)


def test_the_guided_student_matches_equation_6_at_its_own_weight():
    """A network of x: E[x given z, c] of two Gaussians, and of their mixture without c."""
    other = Gaussian(-MEAN, 0.5 * COVARIANCE)
    weights = np.array([1.0, 2.5, 4.0])
    key_x, key_noise = jax.random.split(jax.random.key(3))
    x, log_snr = jax.random.normal(key_x, (3, FRAMES)), jnp.array([-5.0, 0.0, 5.0])
    z = diffuse(x, jax.random.normal(key_noise, x.shape), log_snr)
    guided = classifier_free_guidance(DATA.denoiser, other.denoiser, jnp.asarray(weights))
    alpha, sigma = (np.asarray(a, np.float64) for a in alpha_sigma(log_snr))
    for i in range(3):
        w = weights[i] - 1.0  # of equation 6
        estimates = [
            law.mean + law.gain(alpha[i], sigma[i]) @ (np.asarray(z[i]) - alpha[i] * law.mean)
            for law in (DATA, other)
        ]
        eps, eps_unconditional = ((z[i] - alpha[i] * x_hat) / sigma[i] for x_hat in estimates)
        eps_guided = (1 + w) * eps - w * eps_unconditional
        expected = (z[i] - sigma[i] * eps_guided) / alpha[i]
        np.testing.assert_allclose(guided(z, log_snr)[i], expected, rtol=1e-3, atol=1e-4)
    x_target = guided(z, log_snr)
    v = target_value(x_target, (z - alpha[:, None] * x_target) / sigma[:, None], log_snr, "v")
    student = denoiser_of(lambda z, log_snr: v.astype(jnp.float32), target="v", clip=False)
    np.testing.assert_allclose(student(z, log_snr), x_target, atol=1e-4)
    loss = distillation_loss(lambda *_: v.astype(jnp.float32), z, log_snr, x_target)
    np.testing.assert_array_less(loss, 1e-6)


def test_names_wrong_arguments():
    z, log_snr = jnp.ones((1, 2)), jnp.zeros(1)
    with pytest.raises(
        ValueError, match="target 'eps' cannot be distilled: it must be one of x, v"
    ):
        distillation_loss(lambda z, _: z, z, log_snr, z, target="eps")
    with pytest.raises(
        ValueError, match="unknown weighting 'snr': it must be one of truncated_snr"
    ):
        distillation_loss(lambda z, _: z, z, log_snr, z, weighting="snr")
