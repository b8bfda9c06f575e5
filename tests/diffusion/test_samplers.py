"""The samplers on Gaussian 'videos', where the denoiser and every sampler's law are known exactly.

The videos have four frames of one pixel, an AR(1) covariance over frames and a mean that is not
zero. Each sampler is then an affine map of Gaussian noise, whose mean and covariance are propagated
here in float64, from the definition of the sampler and not by the library's formulas.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian import Gaussian, scales
from vdm.diffusion.process import denoiser as denoiser_of
from vdm.diffusion.samplers import SAMPLERS, sample
from vdm.diffusion.schedule import cosine_log_snr
from vdm.diffusion.trajectory import Trajectory

FRAMES = 4
MEAN = np.array([0.3, -0.2, 0.5, 0.1])
COVARIANCE = 0.4 * 0.8 ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
IDENTITY = np.eye(FRAMES)
DATA = Gaussian(MEAN, COVARIANCE)


def _exact_law(sampler, num_steps, gamma=0.0, delta=0.1):
    """The map z_1 -> E[result], as (matrix, offset), and the covariance of the steps' noise."""
    levels = scales(num_steps)
    matrix, offset, noise = IDENTITY, np.zeros(FRAMES), np.zeros((FRAMES, FRAMES))
    before = None

    for k in range(num_steps):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels[k], levels[k + 1]
        gain = DATA.gain(alpha_t, sigma_t)
        x_matrix, x_offset = gain @ matrix, gain @ offset + MEAN - alpha_t * gain @ MEAN
        if k == num_steps - 1:
            return x_matrix, x_offset, gain @ noise @ gain.T

        if sampler in ("ancestral", "langevin"):
            # Bayes' rule in precisions: prior N(alpha_s x, sigma_s^2), likelihood N(z_t; a z_s, b).
            a = alpha_t / alpha_s
            b = sigma_t**2 - a**2 * sigma_s**2
            variance = 1 / (1 / sigma_s**2 + a**2 / b)
            of_z, of_x = variance * a / b, variance * alpha_s / sigma_s**2
            step = of_z * IDENTITY + of_x * gain
            noise = step @ noise @ step.T + variance ** (1 - gamma) * b**gamma * IDENTITY
        elif sampler == "ddim":
            of_z, of_x = sigma_s / sigma_t, alpha_s - alpha_t * sigma_s / sigma_t
        else:
            # The exponential integral of the line through the last two x_hat, at mid-interval.
            of_z, of_x = sigma_s / sigma_t, alpha_s - alpha_t * sigma_s / sigma_t
            half_log_snr = np.log(alpha_t / sigma_t)
            here = x_matrix, x_offset, half_log_snr
            if before is not None:
                middle = 0.5 * (np.log(alpha_s / sigma_s) - half_log_snr)
                slope = middle / (half_log_snr - before[2])
                x_matrix = x_matrix + slope * (x_matrix - before[0])
                x_offset = x_offset + slope * (x_offset - before[1])
            before = here
        matrix, offset = of_z * matrix + of_x * x_matrix, of_z * offset + of_x * x_offset

        if sampler == "langevin":
            # z + (delta / 2) sigma^2 score + sqrt(delta) sigma noise, and z ~ N(alpha m, S).
            scale = delta / 2 * sigma_s**2
            precision = np.linalg.inv(alpha_s**2 * COVARIANCE + sigma_s**2 * IDENTITY)
            step = IDENTITY - scale * precision
            matrix, offset = step @ matrix, step @ offset + scale * precision @ MEAN * alpha_s
            noise = step @ noise @ step.T + delta * sigma_s**2 * IDENTITY


def _videos(count, sampler, num_steps, **options):
    shape = (count, FRAMES, 1, 1, 1)
    key = jax.random.key(0)
    videos = sample(key, DATA.denoiser, shape, sampler=sampler, num_steps=num_steps, **options)
    assert videos.shape == shape and videos.dtype == jnp.float32
    return np.asarray(videos, np.float64).reshape(count, FRAMES)


def _assert_law(x, mean, covariance, standard_errors=4.5):
    count, variances = len(x), np.diag(covariance)
    assert np.all(np.abs(x.mean(0) - mean) < standard_errors * np.sqrt(variances / count))
    spread = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    assert np.all(np.abs(np.cov(x.T) - covariance) < standard_errors * spread)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ancestral", {}),
        ("ancestral", {"gamma": 0.3}),
        ("langevin", {}),
        ("langevin", {"gamma": 0.3, "langevin_step_size": 0.5}),
        ("ddim", {}),
        ("dpmpp_2m", {}),
    ],
)
def test_law_at_few_steps(sampler, options):
    """Eight steps: far enough from the data's law that a wrong coefficient would show."""
    gamma, delta = options.get("gamma", 0.0), options.get("langevin_step_size", 0.1)
    matrix, offset, noise = _exact_law(sampler, 8, gamma, delta)
    _assert_law(_videos(50_000, sampler, 8, **options), offset, matrix @ matrix.T + noise)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_trajectory_of_the_deterministic_samplers(sampler, num_steps):
    z = jax.random.normal(jax.random.key(1), (16, FRAMES, 1, 1, 1))
    log_snr = cosine_log_snr(jnp.linspace(1.0, 0.0, num_steps + 1))
    keys = jax.random.split(jax.random.key(2), 16)
    x = SAMPLERS[sampler](Trajectory(keys, z, log_snr), DATA.denoiser).reshape(16, FRAMES)
    matrix, offset, _ = _exact_law(sampler, num_steps)
    np.testing.assert_allclose(x, z.reshape(16, FRAMES) @ matrix.T + offset, atol=2e-5)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ancestral", {}),
        ("ancestral", {"gamma": 1.0}),
        ("langevin", {}),
        ("ddim", {}),
        ("dpmpp_2m", {}),
    ],
)
def test_law_of_the_data_at_256_steps(sampler, options):
    matrix, offset, noise = _exact_law(sampler, 256, **options)
    np.testing.assert_allclose(matrix @ matrix.T + noise, COVARIANCE, atol=0.03 * COVARIANCE.max())
    np.testing.assert_allclose(offset, MEAN, atol=1e-2)

    x = _videos(20_000, sampler, 256, **options)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.05 * COVARIANCE.max())
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.03)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1.0), ("dpmpp_2m", 2.0)])
def test_order_of_convergence_to_the_probability_flow(sampler, order):
    """The flow keeps (z - alpha m) / (alpha^2 c + sigma^2)^(1/2) in each eigen-direction of C.

    The steps are uniform in log-SNR. Uniform steps of the cosine schedule's t are not: at the ends
    the log-SNR runs off by a step that num_steps does not shrink, and the error of a second-order
    method is log(n) / n^2 there.
    """
    z = jax.random.normal(jax.random.key(3), (32, FRAMES, 1, 1, 1))
    values, vectors = np.linalg.eigh(COVARIANCE)
    (alpha, sigma), (alpha_0, sigma_0) = scales(1)
    stretch = np.sqrt((alpha_0**2 * values + sigma_0**2) / (alpha**2 * values + sigma**2))
    centred = np.asarray(z, np.float64).reshape(32, FRAMES) - alpha * MEAN
    exact = alpha_0 * MEAN + (centred @ vectors * stretch) @ vectors.T

    steps = np.array([32, 64, 128, 256])
    keys = jax.random.split(jax.random.key(4), 32)
    errors = []
    for num_steps in steps:
        log_snr = jnp.linspace(-20.0, 20.0, num_steps + 1)
        x = SAMPLERS[sampler](Trajectory(keys, z, log_snr), DATA.denoiser).reshape(32, FRAMES)
        errors.append(np.sqrt(np.mean((x - exact) ** 2)))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.15, (slope, errors)


def _elementwise_denoiser(z, log_snr):
    log_snr = log_snr.reshape(-1, *(1,) * (z.ndim - 1))
    return jnp.tanh(z * jax.nn.sigmoid(log_snr) + 0.3)


@pytest.mark.usefixtures("quick_compilation_once")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_depends_on_its_key_alone(sampler):
    def run(key, batch):
        shape = (batch, 3, 2, 2, 1)
        return sample(key, _elementwise_denoiser, shape, sampler=sampler, num_steps=5, gamma=0.5)

    key = jax.random.key(5)
    jitted = jax.jit(run, static_argnums=1)
    eight = jitted(key, 8)
    assert len(np.unique(np.asarray(eight))) == eight.size
    np.testing.assert_array_equal(jitted(key, 5), eight[:5])
    np.testing.assert_array_equal(jitted(jax.random.key_data(key), 8), eight)

    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(8))
    np.testing.assert_array_equal(jitted(keys, 8), eight)
    np.testing.assert_array_equal(jitted(keys[::-1], 8), eight[::-1])
    for i in range(8):
        np.testing.assert_array_equal(jitted(keys[i : i + 1], 1)[0], eight[i])
    assert not np.allclose(jitted(jax.random.key(6), 8), eight)

    np.testing.assert_allclose(run(key, 8), eight, atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ends_at_the_last_x_hat(sampler):
    """A denoiser that answers with its log-SNR shows which answer is returned, and untouched."""

    def denoiser(z, log_snr):
        return jnp.broadcast_to(log_snr[:, None], z.shape)

    for num_steps in (1, 10):
        x = sample(jax.random.key(7), denoiser, (2, 3), sampler=sampler, num_steps=num_steps)
        last = cosine_log_snr(jnp.linspace(1.0, 0.0, num_steps + 1))[-2]
        np.testing.assert_allclose(x, last, rtol=1e-6)


@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_is_finite_over_the_whole_range_of_log_snr(sampler, target):
    """A poor network, whose x_hat at log-SNR -20 is thousands of times too large to clip."""

    def network(z, log_snr):
        return (0.5 * z).astype(jnp.bfloat16)

    denoiser = denoiser_of(network, target=target)
    x = sample(jax.random.key(8), denoiser, (4, 2, 3), sampler=sampler, num_steps=100, gamma=1.0)
    assert x.dtype == jnp.float32 and jnp.all(jnp.abs(x) <= 1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sampler": "heun"}, "unknown sampler 'heun': it must be one of " + ", ".join(SAMPLERS)),
        ({"num_steps": 0}, "num_steps must be at least 1, not 0"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1, not 1.5"),
        ({"gamma": float("nan")}, "gamma must be between 0 and 1, not nan"),
        ({"langevin_step_size": -0.1}, "langevin_step_size must be at least 0, not -0.1"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, "key has shape .3,., .* sample, .2,."),
    ],
)
def test_errors(arguments, sentence):
    arguments = {"key": jax.random.key(0), "num_steps": 2} | arguments
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        sample(denoiser=_elementwise_denoiser, shape=(2, 3), **arguments)
