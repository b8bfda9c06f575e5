"""Joint denoising of overlapping blocks, against its least-squares definition and exact laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.diffusion.gaussian import Gaussian, Method, assert_law, law_of, squared_wasserstein
from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.joint import block_starts, joint_denoiser
from vdm.diffusion.samplers import sample

FRAMES = 8
LAGS = np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
DATA = Gaussian(np.full(FRAMES, 0.4), 0.25 * 0.9**LAGS)  # of long videos; every block has one law


@dataclasses.dataclass(frozen=True)
class _Joint(Gaussian):
    """The x that is closest to all blocks' estimates, by the pseudo-inverse of their selection."""

    block: int = 4
    overlap: int = 0

    def gain(self, alpha, sigma):
        starts = block_starts(FRAMES, self.block, self.overlap)
        select = np.concatenate([np.eye(FRAMES)[start : start + self.block] for start in starts])
        gains = np.kron(np.eye(len(starts)), self.of_block.gain(alpha, sigma))
        return np.linalg.pinv(select) @ gains @ select

    @property
    def of_block(self):
        part = slice(self.block)
        return Gaussian(self.mean[part], self.covariance[part, part])

    def denoiser(self, z, log_snr):
        return joint_denoiser(self.of_block.denoiser, FRAMES, self.block, self.overlap)(z, log_snr)


def _joint(block, overlap):
    return _Joint(DATA.mean, DATA.covariance, block, overlap)


@pytest.mark.parametrize(
    ("block", "overlap", "sampler", "conditioning"),
    [
        (4, 0, "ancestral", "none"),
        (4, 2, "langevin", "none"),
        (5, 3, "dpmpp_2m", "none"),  # the last block overlaps by 4
        (8, 0, "dpmpp_2m", "none"),
        (4, 2, "ancestral", "replacement"),
        (5, 2, "langevin", "reconstruction"),
    ],
)
def test_the_law_of_long_videos_is_that_of_the_least_squares_estimate(
    block, overlap, sampler, conditioning
):
    count, joint, mask = 20_000, _joint(block, overlap), np.arange(FRAMES) < 2
    values, shape = np.where(mask, 0.9, 0.0), (count, FRAMES, 1, 1, 1)
    options = {"sampler": sampler, "num_steps": 8, "gamma": 0.3}
    method = Method(**options, delta=0.1, conditioning=conditioning)
    observation = None
    if conditioning != "none":
        observed = jnp.broadcast_to(jnp.array(values, jnp.float32)[:, None, None, None], shape)
        observation = ObservedFrames(observed, jnp.array(mask))
        options["conditioning"] = conditioning
        method = dataclasses.replace(
            method,
            operator=np.eye(FRAMES)[mask],
            value=values[mask],
            observed=mask,
            known_values=values,
        )

    def run(key):
        return sample(key, joint.denoiser, shape, observation=observation, **options)

    x = np.asarray(jax.jit(run)(jax.random.key(0)), np.float64).reshape(count, FRAMES)
    law = law_of(joint, method)
    of_missing = slice(2 if conditioning != "none" else 0, None)
    assert_law(
        x[:, of_missing], Gaussian(law.mean[of_missing], law.covariance[of_missing, of_missing])
    )


def test_blocks_agree_where_they_overlap_and_one_block_is_the_exact_model():
    """By exact laws of 128 steps: an overlap joins blocks, which are independent without it."""
    method = Method(conditioning="none", sampler="dpmpp_2m", num_steps=128)
    laws = {overlap: law_of(_joint(4, overlap), method) for overlap in (0, 1, 2, 3)}
    jump = np.array([0, 0, 0, -1.0, 1, 0, 0, 0])  # across the seam of blocks without overlap
    jumps = {overlap: jump @ law.covariance @ jump for overlap, law in laws.items()}
    distances = {overlap: squared_wasserstein(law, DATA) for overlap, law in laws.items()}
    np.testing.assert_allclose(laws[0].covariance[:4, 4:], 0.0, atol=1e-12)
    assert jumps[0] > 8 * jump @ DATA.covariance @ jump > 2 * jumps[3], jumps
    assert distances[2] < 0.5 * distances[0] and distances[3] < 0.5 * distances[0], distances
    whole, exact = law_of(_joint(8, 0), method), law_of(DATA, method)
    np.testing.assert_allclose(whole.covariance, exact.covariance, atol=1e-10)


@pytest.mark.parametrize("multiple", [1, 4])
def test_each_block_gets_its_own_noise_levels_and_its_videos_condition(multiple):
    """Three blocks of two videos, and with `multiple` 4, two rows of padding."""
    rng, seen = np.random.default_rng(0), []
    z, log_snr = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 7))

    def denoiser(z, log_snr, condition):
        seen.append(z.shape)
        return z * log_snr[..., None] + condition[:, None, None] * jnp.arange(4.0)[:, None]

    denoise = joint_denoiser(denoiser, 7, 4, 2, multiple=multiple)
    found = denoise(jnp.array(z), jnp.array(log_snr), jnp.array([10.0, 20.0]))
    assert seen == [(6 if multiple == 1 else 8, 4, 3)]
    for video, condition in enumerate((10.0, 20.0)):
        for frame in range(7):
            positions = [frame - start for start in (0, 2, 3) if 0 <= frame - start < 4]
            expected = z[video, frame] * log_snr[video, frame] + condition * np.mean(positions)
            np.testing.assert_allclose(found[video, frame], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((7, 8, 2), "num_frames must be at least 8, not 7"),
        ((16, 8, 8), "overlap must be from 0 to 7, not 8"),
        ((16, 8, -1), "overlap must be from 0 to 7, not -1"),
    ],
)
def test_invalid_blocks_raise(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        block_starts(*arguments)
