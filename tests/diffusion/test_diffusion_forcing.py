"""One noise level per frame on Gaussian 'videos', against exact laws in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from tests.diffusion.gaussian import (
    Gaussian,
    Method,
    assert_law,
    joint_law,
    law_of,
    squared_wasserstein,
)
from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.guidance import ConditionalDenoiser, classifier_free_guidance
from vdm.diffusion.history_guidance import HistoryOptions, history_guidance
from vdm.diffusion.loss import draw_noise, error_weight, loss_given
from vdm.diffusion.process import diffuse
from vdm.diffusion.samplers import SAMPLERS, sample
from vdm.diffusion.schedule import cosine_log_snr
from vdm.diffusion.trajectory import Trajectory

FRAMES = 4
MASK = np.array([True, False, True, False])
X_A = np.array([-1.0, 1.2])
ROOT = np.random.default_rng(0).normal(size=(FRAMES, 2 * FRAMES))
DATA = Gaussian(np.array([0.3, -0.2, 0.5, 0.1]), ROOT @ ROOT.T / (4 * FRAMES))
CONDITIONAL = DATA.given(np.eye(FRAMES)[MASK], X_A)
# The missing frames given the observed ones: mean [2] and covariance [2, 2].
EXACT = Gaussian(CONDITIONAL.mean[~MASK], CONDITIONAL.covariance[np.ix_(~MASK, ~MASK)])


def _observation(count):
    values = np.where(MASK, 0.0, np.nan)
    values[MASK] = X_A
    values = np.broadcast_to(values[:, None, None, None], (count, FRAMES, 1, 1, 1))
    return ObservedFrames(jnp.array(values, jnp.float32), jnp.array(MASK))


def _sample(count, denoiser=DATA.frame_denoiser, conditioning="diffusion_forcing", **options):
    options.setdefault("observation", _observation(count))

    def run(key):
        return sample(
            key,
            denoiser,
            (count, FRAMES, 1, 1, 1),
            conditioning=conditioning,
            **options,
        )

    x = jax.jit(run)(jax.random.key(3))
    return np.asarray(x, np.float64).reshape(count, FRAMES)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_law_is_that_of_an_unconditional_sampler_of_the_exact_conditional(sampler):
    """Eight steps: far enough from the exact conditional that a wrong coefficient would show."""
    x = _sample(40_000, sampler=sampler, num_steps=8, gamma=0.3, langevin_step_size=0.4)
    method = Method(sampler=sampler, conditioning="none", gamma=0.3, delta=0.4)
    assert_law(x[:, ~MASK], law_of(EXACT, method))
    np.testing.assert_array_equal(x[:, MASK], np.broadcast_to(np.float32(X_A), (40_000, 2)))


def _errors(x, law):
    """The largest error of the mean and of the covariance, in standard errors."""
    count, variances = len(x), np.diag(law.covariance)
    of_mean = np.abs(x.mean(0) - law.mean) / np.sqrt(variances / count)
    spread = np.sqrt((np.outer(variances, variances) + law.covariance**2) / count)
    return of_mean.max(), (np.abs(np.cov(x.T) - law.covariance) / spread).max()


def test_samples_have_the_exact_conditional_and_those_of_equation_7_do_not():
    """Within 4.5 standard errors, of which the error of the discretisation is 0.2."""
    options = {"sampler": "dpmpp_2m", "num_steps": 128}
    count = 10_000
    forced = _errors(_sample(count, **options)[:, ~MASK], EXACT)
    assert max(forced) < 4.5, forced
    guided = {}
    for weight in (1.0, 2.0, 5.0):
        x = _sample(count, DATA.denoiser, "reconstruction", weight=weight, **options)
        guided[weight] = _errors(x[:, ~MASK], EXACT)
    assert min(max(errors) for errors in guided.values()) > 15, guided
    print("standard errors of mean and covariance:", forced, guided)  # docs have these


@pytest.mark.parametrize(("sampler", "num_steps"), [("ancestral", 128), ("langevin", 64)])
def test_the_distance_to_the_data_is_the_discretisation_error_alone(sampler, num_steps):
    """The videos of docs/conditional_sampling.md, 4 of 16 frames observed, by their exact laws."""
    lags = np.abs(np.subtract.outer(np.arange(16), np.arange(16)))
    data, mask = Gaussian(np.zeros(16), 0.25 * 0.95**lags), np.arange(16) < 4
    steps = {"sampler": sampler, "num_steps": num_steps}

    def distance(**options):
        return squared_wasserstein(joint_law(data, mask, **steps, **options), data)

    forced = distance(conditioning="diffusion_forcing")
    guided = min(distance(weight=weight) for weight in (1.0, 2.0, 3.0, 5.0, 10.0))
    unconditional = law_of(data, Method(conditioning="none", **steps))
    print(sampler, "distances:", forced, guided, squared_wasserstein(unconditional, data))
    assert forced < 2 * squared_wasserstein(unconditional, data) and forced < 0.5 * guided


def test_context_noise_is_that_of_one_draw_of_the_observed_frames():
    level = 0.4
    log_snr = float(cosine_log_snr(level))
    alpha, sigma = (1 / np.sqrt(1 + np.exp(-s * log_snr)) for s in (1, -1))
    options = HistoryOptions(context_noise=level)
    x = _sample(20_000, sampler="dpmpp_2m", num_steps=64, history_options=options)
    own, cross = DATA.covariance[np.ix_(MASK, MASK)], DATA.covariance[np.ix_(~MASK, MASK)]
    gain = alpha * cross @ np.linalg.inv(alpha**2 * own + sigma**2 * np.eye(2))
    given_z = DATA.covariance[np.ix_(~MASK, ~MASK)] - alpha * gain @ cross.T
    mean = DATA.mean[~MASK] + alpha * gain @ (X_A - DATA.mean[MASK])
    assert_law(x[:, ~MASK], Gaussian(mean, given_z + sigma**2 * gain @ gain.T))


def test_each_observed_frame_may_have_its_own_context_noise():
    """Frame 0 is exact, and frame 2 one draw at a noise level: against the law given both."""
    log_snr, count = np.array([20.0, 0.0, 0.4, 0.0]), 20_000
    alpha, sigma = (1 / np.sqrt(1 + np.exp(-s * log_snr[MASK])) for s in (1, -1))
    known = dataclasses.replace(_observation(count), log_snr=jnp.array(log_snr, jnp.float32))
    x = _sample(count, sampler="dpmpp_2m", num_steps=64, observation=known)
    own, cross = DATA.covariance[np.ix_(MASK, MASK)], DATA.covariance[np.ix_(~MASK, MASK)]
    marginal = np.diag(alpha) @ own @ np.diag(alpha) + np.diag(sigma**2)
    gain = cross @ np.diag(alpha) @ np.linalg.inv(marginal)
    mean = DATA.mean[~MASK] + gain @ (alpha * (X_A - DATA.mean[MASK]))
    given_z = DATA.covariance[np.ix_(~MASK, ~MASK)] - gain @ np.diag(alpha) @ cross.T
    assert_law(x[:, ~MASK], Gaussian(mean, given_z + gain @ np.diag(sigma**2) @ gain.T))


@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["vanilla", "fractional"])
def test_history_guidance_adds_what_the_noisy_history_tells(noise):
    """Against E[x given z] of each history, from the definition in float64."""
    count, weight = 3, 2.5
    rng = np.random.default_rng(1)
    z, history_noise = rng.normal(size=(2, count, FRAMES))
    log_snr = np.where(MASK, 20.0, np.array([[-3.0], [0.0], [2.0]]))
    z[:, MASK] = X_A

    def estimate(z, log_snr):
        rows = []
        for row, levels in zip(z, log_snr, strict=True):
            alpha = np.diag(1 / np.sqrt(1 + np.exp(-levels)))
            marginal = alpha @ DATA.covariance @ alpha + np.diag(1 / (1 + np.exp(levels)))
            gain = DATA.covariance @ alpha @ np.linalg.inv(marginal)
            rows.append(DATA.mean + gain @ (row - alpha @ DATA.mean))
        return np.array(rows)

    def with_history(level):
        history = float(cosine_log_snr(level))
        alpha, sigma = (1 / np.sqrt(1 + np.exp(-s * history)) for s in (1, -1))
        known = np.zeros(FRAMES)
        known[MASK] = X_A
        noised = np.where(MASK, alpha * known + sigma * history_noise, z)
        return estimate(noised, np.where(MASK, history, log_snr))

    x, masked = estimate(z, log_snr), with_history(1.0)
    expected = x + (weight - 1) * ((with_history(noise) if noise else x) - masked)

    calls = []

    def denoiser(z, log_snr, condition):
        calls.append((z.shape, condition.shape))
        return DATA.frame_denoiser(z, log_snr)

    shape = (count, FRAMES, 1, 1, 1)
    guided = history_guidance(
        denoiser,
        _observation(count),
        jnp.array(history_noise.reshape(shape), jnp.float32),
        HistoryOptions(weight=weight, noise=noise),
        condition=jnp.zeros((count, 7)),
    )
    found = guided(jnp.array(z.reshape(shape), jnp.float32), jnp.array(log_snr, jnp.float32))
    np.testing.assert_allclose(found.reshape(count, FRAMES), expected, atol=2e-4)
    batch = (3 if noise else 2) * count
    assert calls == [((batch, *shape[1:]), (batch, 7))]


@pytest.mark.usefixtures("quick_compilation_once")
def test_guided_samples_follow_the_history_more():
    """Vanilla guidance moves the mean of the missing frames away from that without a history."""
    options = {"sampler": "ddim", "num_steps": 32}
    away = EXACT.mean - DATA.mean[~MASK]
    for noise in (0.0, 0.4):
        guidance = HistoryOptions(weight=1.5, noise=noise)
        x = _sample(2_000, history_options=guidance, **options)
        assert ((x[:, ~MASK].mean(0) - EXACT.mean) @ away) > 0.05 * away @ away


@pytest.mark.usefixtures("quick_compilation_once")
def test_each_video_may_have_its_own_observed_frames_and_a_trajectory_its_own_levels():
    """A trajectory of log-SNRs [steps, batch, frames], the same for all frames, is the scalar's."""
    mask = jnp.array([[True, False, False, False], [False, False, True, True]])
    values = jnp.arange(8.0).reshape(2, FRAMES, 1, 1, 1) / 8
    x = sample(
        jax.random.key(0),
        DATA.frame_denoiser,
        values.shape,
        num_steps=3,
        observation=ObservedFrames(values, mask),
        conditioning="diffusion_forcing",
    )
    np.testing.assert_array_equal(x[mask], values[mask])
    assert not np.isin(x[~mask], values).any()

    log_snr = cosine_log_snr(jnp.linspace(1.0, 0.0, 6))
    options = {"ancestral": {"gamma": 0.3}, "langevin": {"gamma": 0.3, "step_size": 0.1}}
    for name, sampler in SAMPLERS.items():
        shared, own = (
            sampler(
                Trajectory.start(jax.random.key(1), values.shape, levels),
                denoiser,
                **options.get(name, {}),
            )
            for levels, denoiser in (
                (log_snr, DATA.denoiser),
                (jnp.broadcast_to(log_snr[:, None, None], (6, 2, FRAMES)), DATA.frame_denoiser),
            )
        )
        np.testing.assert_allclose(own, shared, atol=1e-4)


def test_classifier_free_guidance_takes_one_log_snr_per_frame():
    z, log_snr = jnp.ones((2, FRAMES, 1, 1, 1)), jnp.arange(8.0).reshape(2, FRAMES)

    def network(z, log_snr, shift):
        return z + log_snr[..., None, None, None] * shift[:, None, None, None, None]

    pair = [ConditionalDenoiser(network, jnp.full(2, shift)) for shift in (1.0, 0.0)]
    guided = classifier_free_guidance(*pair, weight=3.0)(z, log_snr)
    np.testing.assert_allclose(guided[..., 0, 0, 0], 1 + 3 * log_snr)


@pytest.mark.parametrize("time_sampling", ["independent", "stratified"])
def test_frame_times_are_uniform_and_independent_of_each_other(time_sampling):
    batch, shape = 2_000, (2_000, 3, 1, 1, 1)
    noise, t = draw_noise(
        jax.random.key(0),
        shape,
        schedule=lambda t: t,
        time_sampling=time_sampling,
        frame_times="independent",
    )
    assert noise.shape == shape and t.shape == (batch, 3)
    np.testing.assert_allclose(np.corrcoef(t.T), np.eye(3), atol=0.1)
    if time_sampling == "stratified":  # one time of each frame in each of `batch` equal parts
        spacing = np.diff(np.sort(t, axis=0), axis=0)
        np.testing.assert_allclose(spacing, 1 / batch, atol=1e-6)
    else:
        np.testing.assert_allclose(np.sort(t, axis=0)[::200, 0], np.arange(10) / 10, atol=0.05)


@pytest.mark.parametrize("time_sampling", ["independent", "stratified"])
def test_mixed_frame_times_are_shared_in_half_of_the_examples(time_sampling):
    noise, t = draw_noise(
        jax.random.key(0),
        (2_000, 3, 10, 10, 8),
        schedule=lambda t: t,
        time_sampling=time_sampling,
        frame_times="mixed",
    )
    shared = (t == t[:, :1]).all(axis=1)
    assert abs(shared.mean() - 0.5) < 0.05
    np.testing.assert_allclose(np.corrcoef(t[~shared].T), np.eye(3), atol=0.1)
    for times in (t[shared, 0], t[~shared].ravel()):  # both uniform
        assert kstest(times, "uniform").pvalue > 0.01
    # Sharing is independent of the noise, in whatever order its elements are drawn.
    first = np.asarray(noise)[0].ravel()[: len(shared)] < 0
    assert abs(np.corrcoef(shared, first)[0, 1]) < 0.1


def test_the_loss_weighs_each_frame_at_its_own_log_snr():
    shape = (2, 3, 2, 2, 1)
    x, noise = (jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))
    log_snr = jnp.array([[-4.0, 0.0, 4.0], [1.0, 2.0, 3.0]])
    seen = []

    def network(z, log_snr):
        seen.append((z, log_snr))
        return 0.5 * z

    loss = loss_given(network, x, noise, log_snr, target="x", weighting="v")
    (z, levels), *_ = seen
    np.testing.assert_array_equal(levels, log_snr)
    of_frames = []
    for frame in range(3):  # each frame is an example of one log-SNR
        own = log_snr[:, frame]
        latents = diffuse(x[:, frame], noise[:, frame], own)
        np.testing.assert_allclose(z[:, frame], latents, rtol=1e-6)
        error = jnp.mean(jnp.square(0.5 * latents - x[:, frame]), axis=(1, 2, 3))
        of_frames.append(error_weight(own, "x", "v") * error)
    np.testing.assert_allclose(loss, np.mean(of_frames, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight": -1.0}, "weight must be at least 0, not -1.0"),
        ({"noise": 1.5}, "noise must be between 0 and 1, not 1.5"),
        ({"context_noise": float("nan")}, "context_noise must be between 0 and 1, not nan"),
    ],
)
def test_invalid_options_raise(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        HistoryOptions(**options)


def test_unknown_frame_times_raise():
    with pytest.raises(ValueError, match="unknown frame_times 'own': it must be one of shared, in"):
        draw_noise(jax.random.key(0), (2, 3), frame_times="own")
