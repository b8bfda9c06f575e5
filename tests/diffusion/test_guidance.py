"""Guidance: one network call for classifier-free guidance, options, and dtypes under x64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.diffusion.conditioning import ObservedFrames, ObservedLowResolution
from vdm.diffusion.guidance import (
    ConditionalDenoiser,
    ReconstructionOptions,
    classifier_free_guidance,
)
from vdm.diffusion.loss import loss_at
from vdm.diffusion.samplers import sample
from vdm.diffusion.schedule import cosine_log_snr

_SHIFT = np.float64(1.0)


def _denoise(z, log_snr, shift):
    return jnp.tanh(z + shift[:, None] * jax.nn.sigmoid(log_snr)[:, None])


def test_classifier_free_guidance_calls_a_shared_network_once():
    batches = []

    def network(z, log_snr, shift):
        batches.append(len(z))
        return _denoise(z, log_snr, shift)

    z, log_snr = jnp.arange(6.0).reshape(2, 3), jnp.array([0.5, -1.0])
    pair = [ConditionalDenoiser(network, shift) for shift in (jnp.array([1.0, 2.0]), jnp.zeros(2))]
    once = classifier_free_guidance(*pair, weight=2.5)(z, log_snr)
    assert batches == [4]
    separate = [lambda z, log_snr, d=d: d(z, log_snr) for d in pair]
    twice = classifier_free_guidance(*separate, weight=2.5)(z, log_snr)
    assert batches == [4, 2, 2]
    np.testing.assert_allclose(once, twice, rtol=1e-6)
    np.testing.assert_allclose(
        once, 2.5 * pair[0](z, log_snr) - 1.5 * pair[1](z, log_snr), rtol=1e-5
    )


def test_classifier_free_guidance_is_guidance_by_the_implicit_classifier():
    """Its score is grad log p(z | c) + w grad log p(c | z), where weight = 1 + w (section 3.1).

    Classes are Gaussians with means of their own, so that p(c | z) is a softmax in closed form.
    """
    means, deviation, weight = jnp.array([[-1.0, 0.5], [0.7, 0.2], [0.1, -1.2]]), 0.4, 3.0
    z = jnp.array([[0.3, -0.6], [-1.5, 0.2], [0.9, 0.9], [0.0, 0.1]])
    classes, log_snr = jnp.array([0, 1, 2, 1]), jnp.array([-2.0, 0.0, 1.5, 4.0])

    def parts(log_snr):
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
        return alpha, sigma, (alpha * deviation) ** 2 + sigma**2

    def log_densities(z, log_snr):  # log p(z | c), up to a constant, of every class
        alpha, _, variance = parts(log_snr)
        return -0.5 * jnp.square(z - alpha * means).sum(-1) / variance

    def log_class(z, log_snr, label):
        return jax.nn.log_softmax(log_densities(z, log_snr))[label]

    def of_class(z, log_snr, mean):  # E[x | z, c]
        alpha, _, variance = parts(log_snr)
        return mean + alpha * deviation**2 / variance * (z - alpha * mean)

    def conditional(z, log_snr):
        return jax.vmap(of_class)(z, log_snr, means[classes])

    def unconditional(z, log_snr):  # the mean over classes, weighted by p(c | z)
        posterior = jax.vmap(lambda z, s: jax.nn.softmax(log_densities(z, s)))(z, log_snr)
        every = jax.vmap(lambda z, s: jax.vmap(of_class, (None, None, 0))(z, s, means))(z, log_snr)
        return jnp.einsum("bc,bcd->bd", posterior, every)

    guided = classifier_free_guidance(conditional, unconditional, weight)(z, log_snr)
    alpha, sigma, variance = (part[:, None] for part in parts(log_snr))
    score = (alpha * guided - z) / sigma**2
    of_data = (alpha * means[classes] - z) / variance
    of_classifier = jax.vmap(jax.grad(log_class))(z, log_snr, classes)
    expected = of_data + (weight - 1) * of_classifier
    np.testing.assert_allclose(score, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"normalization": "l2"}, "normalization must be one of none, residual, not 'l2'"),
        ({"data_variance": 0.0}, "data_variance must be positive, not 0.0"),
        ({"micro_batches": 0}, "micro_batches must be at least 1, not 0"),
    ],
)
def test_invalid_options_raise(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ReconstructionOptions(**options)


@pytest.mark.parametrize("downsampling", ["area", pytest.param("bilinear", marks=pytest.mark.slow)])
def test_sampling_under_x64_stays_in_float32(downsampling):
    shape = (2, 3, 4, 4, 1)
    values = np.linspace(-1.0, 1.0, 96).reshape(shape)  # float64, as NumPy's arrays usually are
    mask = jnp.array([True, False, False])
    dtypes = set()

    def denoiser(z, log_snr):
        dtypes.update((z.dtype, log_snr.dtype))
        return jnp.tanh(z + jax.nn.sigmoid(log_snr).reshape(-1, 1, 1, 1, 1))

    def run():
        low = ObservedLowResolution(values[:, :, ::2, ::2], downsampling=downsampling)
        return sample(
            jax.random.key(0),
            denoiser,
            shape,
            num_steps=2,
            observation=(ObservedFrames(values, mask), low),
            weight=2.0,
            reconstruction_options=ReconstructionOptions(data_variance=0.5),
        )

    expected = np.asarray(run())
    jax.config.update("jax_enable_x64", True)
    try:
        x = run()
    finally:
        jax.config.update("jax_enable_x64", False)
    assert x.dtype == jnp.float32 and dtypes == {jnp.dtype("float32")}
    np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "langevin", "gamma": np.float64(0.3), "langevin_step_size": np.float64(0.1)},
        {"conditioning": "diffusion_forcing"},
        {"conditioning": "diffusion_forcing", "schedule": lambda t: cosine_log_snr(t) - _SHIFT},
    ],
    ids=["langevin", "levels", "schedule"],
)
def test_sampling_under_x64_takes_the_numbers_of_numpy(options):
    shape = (2, 3, 4, 4, 1)
    values = np.linspace(-1.0, 1.0, 96).reshape(shape)
    levels = None if "schedule" in options else np.array([2.0, 20.0, 20.0])  # float64

    def run():
        return sample(
            jax.random.key(0),
            lambda z, log_snr: 0.5 * jnp.tanh(z),
            shape,
            num_steps=2,
            observation=ObservedFrames(values, np.array([True, False, False]), levels),
            **options,
        )

    expected = np.asarray(run())
    jax.config.update("jax_enable_x64", True)
    try:
        x = run()
        loss = loss_at(jax.random.key(0), lambda z, log_snr: z, jnp.asarray(values), jnp.ones(2))
    finally:
        jax.config.update("jax_enable_x64", False)
    assert x.dtype == loss.dtype == jnp.float32
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_lists_are_observations_like_arrays():
    values, mask = np.linspace(-1.0, 1.0, 6).reshape(1, 3, 2), [True, False, False]

    def run(*observed):
        return sample(
            jax.random.key(0),
            lambda z, log_snr: 0.5 * jnp.tanh(z),
            (1, 3, 2),
            num_steps=2,
            observation=ObservedFrames(*observed),
        )

    expected = run(jnp.asarray(values), jnp.array(mask), jnp.full(3, 20.0))
    np.testing.assert_array_equal(run(values.tolist(), mask, [20.0, 20.0, 20.0]), expected)
    with pytest.raises(ValueError, match=r"must be bool .3. or .1, 3., not int32 .3."):
        run(values.tolist(), [1, 0, 0])
