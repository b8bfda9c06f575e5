"""Conditional sampling of Gaussian 'videos', against each method's own exact law."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from tests.diffusion.gaussian import (
    Gaussian,
    Method,
    assert_law,
    joint_law,
    law_of,
    scales,
    squared_wasserstein,
)
from vdm.diffusion.conditioning import (
    ObservedFrames,
    ObservedLowResolution,
    downsample,
    repaint_steps,
)
from vdm.diffusion.guidance import ReconstructionOptions, reconstruction_guidance
from vdm.diffusion.samplers import SAMPLERS, sample

FRAMES = 4


def _random_gaussian(dimensions, seed=0):
    """Any covariance: a Wishart draw with mean variance 1/2, and any mean."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dimensions, 2 * dimensions))
    return Gaussian(0.5 * rng.normal(size=dimensions), root @ root.T / (4 * dimensions))


def _prefix(mask):
    """Observed frames of one pixel each: the observation, and the same as matrices."""
    mask = np.array(mask)
    values = np.where(mask, np.linspace(-1.0, 1.5, len(mask)), np.nan)
    matrices = {
        "operator": np.eye(len(mask))[mask],
        "spread": np.eye(sum(mask)),
        "value": values[mask],
        "observed": mask,
        "known_values": np.where(mask, values, 0.0),
    }
    return values, mask, matrices


def _sample(data, shape, observation, method, **options):
    def run(key):
        return sample(
            key,
            data.denoiser,
            shape,
            sampler=method.sampler,
            num_steps=method.num_steps,
            gamma=method.gamma,
            langevin_step_size=method.delta,
            observation=observation,
            conditioning=method.conditioning,
            weight=method.weight,
            reconstruction_options=ReconstructionOptions(data_variance=method.data_variance),
            repaint_jump_length=method.jump_length,
            repaint_repeats=method.repeats,
            **options,
        )

    x = jax.jit(run)(jax.random.key(3))
    return np.asarray(x, np.float64).reshape(shape[0], -1)


@pytest.mark.parametrize(
    "options",
    [
        {"conditioning": "replacement"},
        {"conditioning": "replacement", "sampler": "langevin", "delta": 0.4},
        {"conditioning": "replacement", "sampler": "ddim"},
        {"conditioning": "replacement_posterior", "gamma": 0.3},
        {"conditioning": "replacement_posterior", "sampler": "dpmpp_2m"},
        {"conditioning": "repaint", "jump_length": 3, "repeats": 2},
        {"conditioning": "repaint", "jump_length": 1, "repeats": 4, "sampler": "ddim"},
        {"weight": 1.0},
        {"weight": 1.7, "sampler": "langevin", "gamma": 0.2},
        {"weight": 1.0, "sampler": "dpmpp_2m"},
        {"weight": 0.8, "data_variance": 0.5},
    ],
    ids=str,
)
def test_observed_frames_give_the_law_of_the_method(options):
    """Eight steps: far enough from the exact conditional that a wrong coefficient would show."""
    data = _random_gaussian(FRAMES)
    values, mask, matrices = _prefix([True, False, True, False])
    method = Method(**options, **matrices)
    count = 40_000
    observation = ObservedFrames(
        jnp.broadcast_to(values, (count, FRAMES)).reshape(count, FRAMES, 1, 1, 1), jnp.array(mask)
    )
    x = _sample(data, (count, FRAMES, 1, 1, 1), observation, method, return_observed=False)
    assert_law(x, law_of(data, method))


@pytest.mark.parametrize(
    "options",
    [
        {"conditioning": "replacement", "sampler": "langevin", "delta": 0.4},
        {"conditioning": "replacement_posterior", "sampler": "dpmpp_2m"},
        {"conditioning": "repaint", "jump_length": 3, "repeats": 2},
        {"weight": 1.7, "sampler": "langevin", "gamma": 0.2},
    ],
    ids=str,
)
def test_context_noise_releases_observed_frames_at_its_noise_level(options):
    """Frames known to the time of step 5 of 8; all levels of data are no context noise at all."""
    data = _random_gaussian(FRAMES)
    values, mask, matrices = _prefix([True, False, True, False])
    method = Method(**options, **matrices, known_to=5)
    count = 40_000
    frames = jnp.broadcast_to(values, (count, FRAMES)).reshape(count, FRAMES, 1, 1, 1)
    alpha, sigma = scales(method.num_steps)[5]
    level = jnp.full(FRAMES, 2 * np.log(alpha / sigma), jnp.float32)
    observation = ObservedFrames(frames, jnp.array(mask), level)
    x = _sample(data, frames.shape, observation, method, return_observed=False)
    assert_law(x, law_of(data, method))

    exact, noiseless = (
        _sample(
            data, frames[:8].shape, ObservedFrames(frames[:8], jnp.array(mask), log_snr), method
        )
        for log_snr in (None, jnp.full(FRAMES, 20.0))
    )
    np.testing.assert_allclose(noiseless, exact, atol=1e-5)


def test_observed_frames_are_returned_as_they_are_and_each_video_may_have_its_own():
    data = _random_gaussian(FRAMES)
    mask = jnp.array([[True, False, False, False], [False, False, True, True]])
    values = jnp.arange(8.0).reshape(2, FRAMES, 1, 1, 1) / 8
    x = sample(
        jax.random.key(0),
        data.denoiser,
        values.shape,
        num_steps=3,
        observation=ObservedFrames(values, mask),
    )
    np.testing.assert_array_equal(x[mask], values[mask])
    assert not np.isin(x[~mask], values).any()


@pytest.mark.parametrize("both", [False, True], ids=["space", "space and time"])
@pytest.mark.parametrize("data_variance", [None, 0.5])
def test_low_resolution_gives_the_law_of_the_method(both, data_variance):
    frames, height, width = 2, 2, 4
    shape = (30_000, frames, height, width, 1)
    dimensions = frames * height * width
    data = _random_gaussian(dimensions, seed=1)
    # The mean of each 2x2 block, written as a matrix by hand.
    blocks = np.zeros((frames * 2, dimensions))
    for frame in range(frames):
        for column in range(width):
            for row in range(height):
                pixel = (frame * height + row) * width + column
                blocks[frame * 2 + column // 2, pixel] = 0.25
    low = np.array([0.4, -0.3, 0.1, 0.6])
    low_given = ObservedLowResolution(
        jnp.broadcast_to(low.reshape(1, frames, 1, 2, 1), (shape[0], frames, 1, 2, 1))
    )
    options = {"data_variance": data_variance, "weight": 0.5, "operator": blocks, "value": low}
    options["spread"] = 0.25 * np.eye(4)  # the mean of four pixels has a quarter of the variance
    if both:
        known = np.where(np.arange(dimensions) < 8, np.linspace(-0.5, 0.5, dimensions), 0.0)
        observed = np.arange(dimensions) < 8
        given = (
            ObservedFrames(
                jnp.broadcast_to(known.reshape(1, *shape[1:]), shape), jnp.array([True, False])
            ),
            low_given,
        )
        operator = np.concatenate([np.eye(dimensions)[observed], blocks])
        # Both parts count in full, as if they were independent.
        options |= {
            "operator": operator,
            "spread": np.diag([1.0] * 8 + [0.25] * 4),
            "value": np.concatenate([known[observed], low]),
            "observed": observed,
            "known_values": known,
        }
    else:
        given = low_given
    method = Method(**options)
    x = _sample(data, shape, given, method, return_observed=False)
    assert_law(x, law_of(data, method), standard_errors=5)


def test_methods_have_the_ranking_of_the_paper():
    """How far (x_a, x_b) is from the data where x_a is the data's and x_b the method's.

    Section 3.1: replacement is the farthest, reconstruction guidance is nearer, and w_r > 1 and the
    Langevin corrector bring it nearer still; each at 128 evaluations of the denoiser. The distance
    of 20,000 samples, less its jackknife bias, agrees with that of the exact law.
    """
    size, count, groups = 16, 20_000, 20
    lags = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    data = Gaussian(np.zeros(size), 0.25 * 0.95**lags)
    mask = np.arange(size) < 4
    x_a = np.random.default_rng(0).multivariate_normal(data.mean, data.covariance, count)
    observation = ObservedFrames(jnp.array(x_a.reshape(count, size, 1, 1, 1)), jnp.array(mask))

    def distance_to_data(x):
        return squared_wasserstein(Gaussian(x.mean(0), np.cov(x.T)), data)

    def distance(sampler="ancestral", **options):
        """Of samples, with its standard error."""
        steps = 64 if sampler == "langevin" else 128
        options |= {"sampler": sampler, "num_steps": steps}
        x = _sample(data, (count, size, 1, 1, 1), observation, Method(**options))
        parts = np.split(x, groups)
        without = [
            distance_to_data(np.concatenate(parts[:g] + parts[g + 1 :])) for g in range(groups)
        ]
        estimate = groups * distance_to_data(x) - (groups - 1) * np.mean(without)
        error = np.sqrt(groups - 1) * np.std(without)
        exact = squared_wasserstein(joint_law(data, mask, **options), data)
        assert abs(estimate - exact) < 4.5 * error
        return estimate, error

    replaced = distance(conditioning="replacement")
    guided = distance()
    guided_more = distance(weight=2.0)
    corrected = distance("langevin")
    both = distance("langevin", weight=2.0)
    for nearer, farther in (
        (guided, replaced),
        (guided_more, guided),
        (corrected, guided),
        (both, guided_more),
        (both, corrected),
    ):
        assert nearer[0] + 3 * np.hypot(nearer[1], farther[1]) < farther[0]


def test_repaint_repeats_each_jump_and_reaches_the_end_once():
    assert repaint_steps(5, 2, 3) == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 4, 4, 4]
    assert repaint_steps(3, 10, 1) == [0, 1, 2]


@pytest.mark.parametrize("downsampling, resample", [("area", Image.BOX), ("bilinear", 2)])
def test_downsampling_agrees_with_pillow(downsampling, resample):
    x = np.random.default_rng(0).random((1, 1, 16, 24, 1), np.float32)
    expected = Image.fromarray(x[0, 0, ..., 0]).resize((6, 4), resample)
    small = downsample(jnp.asarray(x), (4, 6), downsampling)
    np.testing.assert_allclose(small[0, 0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "downsampling", "sentence"),
    [
        ((4, 6), "nearest", "unknown downsampling 'nearest': it must be one of area, bilinear"),
        ((3, 6), "area", r"size is \(3, 6\), and must divide .* of the videos, \(16, 24\)"),
        ((4, 7), "bilinear", r"size is \(4, 7\), and must divide .* of the videos, \(16, 24\)"),
        ((32, 24), "bilinear", r"size is \(32, 24\), and must divide .*, \(16, 24\)"),
        ((0, 6), "area", r"size is \(0, 6\), and must divide .* of the videos, \(16, 24\)"),
    ],
)
def test_downsampling_that_is_undefined_raises(size, downsampling, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        downsample(jnp.zeros((1, 1, 16, 24, 1)), size, downsampling)


def test_parameters_are_not_differentiated():
    """A network whose parameters have no derivative can be guided."""

    @jax.custom_vjp
    def constant(parameter):
        return parameter

    constant.defvjp(lambda parameter: (parameter, None), lambda _, cotangent: 1 / 0)
    parameter = jnp.float32(0.5)
    observation = ObservedFrames(jnp.ones((2, 3, 1)), jnp.array([True, False, False]))
    guided = reconstruction_guidance(
        lambda z, log_snr: z * constant(parameter), observation, weight=1.0
    )
    assert guided(jnp.zeros((2, 3, 1)), jnp.zeros(2)).shape == (2, 3, 1)


def _guided_sampler(micro_batches, sampler="ddim"):
    """Of four videos with a condition each, and its arguments: all that is of single videos."""
    shape = (4, FRAMES, 4, 4, 1)  # as many videos as frames: they must not be mistaken
    values, gain = (jax.random.normal(jax.random.key(seed), shape) for seed in (1, 2))
    low, its_mask = downsample(values, (2, 2)), jnp.tri(4, k=1, dtype=bool)
    shift = jnp.arange(4.0).reshape(-1, 1, 1, 1, 1)

    def draw(keys, values, low, its_mask, condition):
        return sample(
            keys,
            lambda z, log_snr, c: jnp.tanh(z * c["gain"] + z.mean(1, keepdims=True) + c["shift"]),
            shape,
            condition=condition,
            sampler=sampler,
            num_steps=3,
            observation=(
                ObservedFrames(values, jnp.array([True, False, False, False])),
                ObservedLowResolution(low, its_mask),
            ),
            reconstruction_options=ReconstructionOptions(
                normalization="residual", micro_batches=micro_batches
            ),
        )

    keys = jax.random.split(jax.random.key(0), 4)
    return draw, (keys, values, low, its_mask, {"gain": gain, "shift": shift})


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_micro_batches_change_no_sample(sampler):
    def samples(micro_batches):
        draw, arguments = _guided_sampler(micro_batches, sampler)
        return jax.jit(draw)(*arguments)

    whole = samples(1)
    for micro_batches in (2, 4):
        np.testing.assert_allclose(samples(micro_batches), whole, atol=2e-6)
    with pytest.raises(ValueError, match="batch of 4 cannot be divided into 3 micro-batches"):
        samples(3)


def test_micro_batches_move_nothing_between_devices():
    draw, arguments = _guided_sampler(2)
    split = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    compiled = jax.jit(draw, in_shardings=split, out_shardings=split).lower(*arguments).compile()
    assert not re.search("all-|collective-|reduce-scatter", compiled.as_text())
    np.testing.assert_allclose(
        compiled(*jax.device_put(arguments, split)), draw(*arguments), atol=2e-6
    )


@pytest.mark.parametrize(
    ("observation", "options", "sentence"),
    [
        (ObservedFrames(jnp.zeros((2, 5, 4, 4, 1)), jnp.ones(5, bool)), {}, r"\(2, 5, 4, 4, 1\)"),
        (ObservedFrames(jnp.zeros((2, 3, 4, 4, 1)), jnp.ones(4, bool)), {}, "must be bool .3."),
        (ObservedFrames(jnp.zeros((2, 3, 4, 4, 1)), jnp.ones(3)), {}, "not float32 .3."),
        (ObservedLowResolution(jnp.zeros((2, 3, 3, 2, 1))), {}, "height and width must divide"),
        (
            ObservedLowResolution(jnp.zeros((2, 3, 2, 2, 1)), downsampling="nearest"),
            {},
            "not 'nearest'",
        ),
        (
            ObservedLowResolution(jnp.zeros((2, 3, 2, 2, 1))),
            {"conditioning": "replacement"},
            "'replacement' takes observed frames and nothing else",
        ),
        (
            ObservedFrames(jnp.zeros((2, 3, 4, 4, 1)), jnp.ones(3, bool)),
            {"conditioning": "repaint", "sampler": "dpmpp_2m"},
            "needs the estimate of the previous step",
        ),
        (None, {"conditioning": "inpainting"}, "unknown conditioning 'inpainting'"),
    ],
)
def test_invalid_observations_raise(observation, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(
            jax.random.key(0),
            lambda z, log_snr: z,
            (2, 3, 4, 4, 1),
            num_steps=2,
            observation=observation,
            **options,
        )
