"""Gaussian 'videos': their denoiser, and the exact law of each way to sample them given a part.

With a Gaussian's denoiser every sampler, guided or not, is an affine map of Gaussian noise. Its
mean and covariance are propagated here in float64 from the definition of each method, with the
state (z, x_hat of the step before), and without the library's formulas.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def scales(num_steps):
    """(alpha, sigma) at the times 1 to 0 of the cosine schedule, log-SNR -20 to 20."""
    t = np.linspace(1.0, 0.0, num_steps + 1)
    angle = np.arctan(np.exp(-10.0)) * (1 - t) + np.arctan(np.exp(10.0)) * t
    return list(zip(np.cos(angle), np.sin(angle), strict=True))


@dataclasses.dataclass(frozen=True)
class Gaussian:
    mean: np.ndarray
    covariance: np.ndarray

    def gain(self, alpha, sigma):
        """K of E[x given z] = m + K (z - alpha m)."""
        marginal = alpha**2 * self.covariance + sigma**2 * np.eye(len(self.mean))
        return alpha * self.covariance @ np.linalg.inv(marginal)

    def denoiser(self, z, log_snr):
        """E[x given z] for z [batch, ...], in the covariance's eigenbasis, in JAX."""
        values, vectors = (jnp.asarray(a, z.dtype) for a in np.linalg.eigh(self.covariance))
        alpha = (jax.nn.sigmoid(log_snr) ** 0.5)[:, None]
        gain = alpha * values / (alpha**2 * values + jax.nn.sigmoid(-log_snr)[:, None])
        mean = jnp.asarray(self.mean, z.dtype)
        exact = jax.lax.Precision.HIGHEST
        centred = jnp.matmul(z.reshape(len(z), -1) - alpha * mean, vectors, precision=exact)
        return (mean + jnp.matmul(gain * centred, vectors.T, precision=exact)).reshape(z.shape)

    def frame_denoiser(self, z, log_snr):
        """E[x given z] for frames of one pixel and a log-SNR of each, [batch, frames], in JAX."""
        covariance, mean = (jnp.asarray(a, z.dtype) for a in (self.covariance, self.mean))
        alpha = jax.nn.sigmoid(log_snr) ** 0.5
        scaled = alpha[:, :, None] * covariance  # A C, which is the transpose of C A
        noise = jax.nn.sigmoid(-log_snr)[:, :, None] * jnp.eye(len(mean))
        centred = z.reshape(len(z), -1) - alpha * mean
        solved = _solved(scaled * alpha[:, None] + noise, centred)
        x = mean + jnp.einsum("bij,bi->bj", scaled, solved, precision="highest")
        return x.reshape(z.shape)

    def given(self, operator, value):
        """The exact conditional law of x given operator x = value."""
        gain = np.linalg.solve(
            operator @ self.covariance @ operator.T, operator @ self.covariance
        ).T
        return Gaussian(
            self.mean + gain @ (value - operator @ self.mean),
            self.covariance - gain @ operator @ self.covariance,
        )


def _solved(matrices, vectors):
    """Solves [batch, n, n] x = [batch, n], positive definite, by Gauss-Jordan elimination.

    Without LAPACK: its calls in a compiled loop can wait for each other for ever on two cores.
    """
    rows = jnp.concatenate([matrices, vectors[..., None]], axis=-1)
    for i in range(vectors.shape[1]):
        pivot = rows[:, i] / rows[:, i, i, None]
        rows = (rows - rows[:, :, i, None] * pivot[:, None]).at[:, i].set(pivot)
    return rows[..., -1]


@dataclasses.dataclass(frozen=True)
class Method:
    """How to sample: the options of `sample`, and what is observed as matrices.

    operator x = value is the observation that guides, and spread is the covariance of operator x
    given z in units of that of a pixel, for pseudo-inverse guidance; `observed` marks the elements
    of x that are known, whose values are known_values: latents up to the time of step known_to.
    """

    sampler: str = "ancestral"
    conditioning: str = "reconstruction"
    num_steps: int = 8
    gamma: float = 0.0
    delta: float = 0.1
    weight: float = 1.0
    jump_length: int = 1
    repeats: int = 1
    data_variance: float | None = None
    spread: np.ndarray | None = None
    operator: np.ndarray | None = None
    value: np.ndarray | None = None
    observed: np.ndarray | None = None
    known_values: np.ndarray | None = None
    known_to: float = np.inf


def law_of(data: Gaussian, method: Method) -> Gaussian:
    """The law of the x_hat of the last step."""
    n = len(data.mean)
    eye, zero = np.eye(n), np.zeros((n, n))
    observed = np.zeros(n, bool) if method.observed is None else method.observed
    known = np.zeros(n) if method.known_values is None else method.known_values

    def split(k):
        is_known = observed & (k <= method.known_to)
        return np.diag(is_known.astype(float)), np.diag((~is_known).astype(float))

    def guided(alpha, sigma, k):
        """The guided x_hat of step k as (matrix, offset) on z."""
        _, free = split(k)
        gain = data.gain(alpha, sigma)
        offset = data.mean - alpha * gain @ data.mean
        if method.conditioning != "reconstruction" or method.operator is None:
            return gain, offset
        if k > method.known_to:
            return gain, offset
        a = method.operator
        if method.data_variance is None:
            spread, factor = np.eye(len(a)), sigma**2 / alpha**2
        else:
            s2 = method.data_variance
            spread, factor = method.spread, 1 / (1 / s2 + alpha**2 / sigma**2)
        # Tweedie: x_hat + (sigma^2 / alpha) grad log N(value; A x_hat, factor spread).
        to_x = sigma**2 / alpha * method.weight * gain.T @ a.T @ np.linalg.inv(spread) / factor
        return (
            gain - free @ to_x @ a @ gain,
            offset + free @ to_x @ (method.value - a @ offset),
        )

    def affine(state, matrix, offset, noise):
        mean, covariance = state
        return matrix @ mean + offset, matrix @ covariance @ matrix.T + noise

    def on_z(matrix, offset, noise, x_matrix=None, x_offset=None):
        """An update of (z, x) by matrices on z alone; without x_matrix, x stays."""
        keep = x_matrix is None
        lower = [zero, eye] if keep else [x_matrix, zero]
        return (
            np.block([[matrix, zero], lower]),
            np.concatenate([offset, np.zeros(n) if keep else x_offset]),
            np.block([[noise, zero], [zero, zero]]),
        )

    levels = scales(method.num_steps)
    alpha, sigma = levels[0]
    pick, free = split(0)
    start = np.concatenate([alpha * pick @ known, np.zeros(n)])
    state = start, np.block([[free + sigma**2 * pick, zero], [zero, zero]])

    jumps = range(0, method.num_steps, method.jump_length)
    order = []
    for first in jumps:
        last = min(first + method.jump_length, method.num_steps)
        order += list(range(first, last)) * method.repeats
    for i, k in enumerate(order):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels[k], levels[k + 1]
        x_matrix, x_offset = guided(alpha_t, sigma_t, k)
        pick, free = split(k + 1)
        a = alpha_t / alpha_s
        b = sigma_t**2 - a**2 * sigma_s**2
        # Bayes' rule in precisions: prior N(alpha_s x, sigma_s^2), likelihood N(z_t; a z_s, b).
        variance = 1 / (1 / sigma_s**2 + a**2 / b)
        posterior_z, posterior_x = variance * a / b, variance * alpha_s / sigma_s**2

        if method.sampler in ("ancestral", "langevin"):
            of_z, of_x, spread = (
                posterior_z,
                posterior_x,
                variance ** (1 - method.gamma) * (b**method.gamma),
            )
        else:
            of_z, of_x, spread = sigma_s / sigma_t, alpha_s - alpha_t * sigma_s / sigma_t, 0.0
        extra = 0.0
        if method.sampler == "dpmpp_2m" and k:
            half = [np.log(alpha / sigma) for alpha, sigma in levels[k - 1 : k + 2]]
            extra = 0.5 * (half[2] - half[1]) / (half[1] - half[0])
        matrix = of_z * eye + of_x * (1 + extra) * x_matrix
        full, offset, noise = on_z(
            matrix, of_x * (1 + extra) * x_offset, spread * eye, x_matrix, x_offset
        )
        full[:n, n:] -= of_x * extra * eye

        if observed.any():
            if method.conditioning == "replacement_posterior":
                own, own_offset, own_noise = posterior_z, posterior_x * known, variance
            else:
                own, own_offset, own_noise = 0.0, alpha_s * known, sigma_s**2
            full[:n] = free @ full[:n] + np.hstack([own * pick, zero])
            offset[:n] = free @ offset[:n] + pick @ own_offset
            noise[:n, :n] = free @ noise[:n, :n] @ free + own_noise * pick
        state = affine(state, full, offset, noise)

        if i == len(order) - 1:
            return Gaussian(state[0][n:], state[1][n:, n:])
        if method.sampler == "langevin":
            # eps_hat = (z - alpha x~) / sigma, so z - (delta / 2) (z - alpha x~) + noise.
            x_matrix, x_offset = guided(alpha_s, sigma_s, k + 1)
            move = -0.5 * method.delta * (eye - alpha_s * x_matrix)
            state = affine(
                state,
                *on_z(
                    eye + free @ move,
                    0.5 * method.delta * alpha_s * free @ x_offset,
                    method.delta * sigma_s**2 * free,
                ),
            )
        if order[i + 1] <= k:
            alpha_back, sigma_back = levels[order[i + 1]]
            ratio = alpha_back / alpha_s
            spread = sigma_back**2 - ratio**2 * sigma_s**2
            state = affine(state, *on_z(ratio * eye, np.zeros(n), spread * eye))
    raise AssertionError("no steps")


def joint_law(data: Gaussian, mask: np.ndarray, **options) -> Gaussian:
    """The law of (x_a, x_b): x_a, at the mask, drawn from the data, and x_b by the method."""

    def law_given(x_a):
        if options.get("conditioning") == "diffusion_forcing":
            # The missing frames are sampled unconditionally from their exact conditional.
            exact = data.given(np.eye(len(mask))[mask], x_a)
            missing = Gaussian(exact.mean[~mask], exact.covariance[np.ix_(~mask, ~mask)])
            law = law_of(missing, Method(**options | {"conditioning": "none"}))
            mean, covariance = np.zeros(len(mask)), np.zeros((len(mask), len(mask)))
            mean[mask], mean[~mask] = x_a, law.mean
            covariance[np.ix_(~mask, ~mask)] = law.covariance
            return Gaussian(mean, covariance)
        known = np.zeros(len(mask))
        known[mask] = x_a
        given = {"operator": np.eye(len(mask))[mask], "value": x_a}
        return law_of(data, Method(**options, **given, observed=mask, known_values=known))

    # The mean is affine in x_a, and the covariance does not depend on it.
    at_zero = law_given(np.zeros(mask.sum()))
    columns = [(law_given(unit).mean - at_zero.mean)[~mask] for unit in np.eye(mask.sum())]
    of_x_a, given_x_a = np.stack(columns, axis=1), at_zero.covariance[np.ix_(~mask, ~mask)]
    own = data.covariance[np.ix_(mask, mask)]
    covariance = np.zeros_like(data.covariance)
    covariance[np.ix_(mask, mask)] = own
    covariance[np.ix_(~mask, mask)] = of_x_a @ own
    covariance[np.ix_(mask, ~mask)] = (of_x_a @ own).T
    covariance[np.ix_(~mask, ~mask)] = of_x_a @ own @ of_x_a.T + given_x_a
    mean = np.where(mask, data.mean, 0.0)
    mean[~mask] = at_zero.mean[~mask] + of_x_a @ data.mean[mask]
    return Gaussian(mean, covariance)


def assert_law(x, law: Gaussian, standard_errors=4.5):
    """The samples x [n, dimensions] agree with the law in mean and covariance."""
    count, variances = len(x), np.diag(law.covariance)
    slack = 1e-5
    mean_error = np.abs(x.mean(0) - law.mean)
    assert np.all(mean_error < standard_errors * np.sqrt(variances / count) + slack), mean_error
    spread = np.sqrt((np.outer(variances, variances) + law.covariance**2) / count)
    error = np.abs(np.cov(x.T) - law.covariance)
    assert np.all(error < standard_errors * spread + slack), error


def squared_wasserstein(a: Gaussian, b: Gaussian) -> float:
    """The squared 2-Wasserstein distance of two Gaussian laws."""
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    return float(
        np.sum((a.mean - b.mean) ** 2)
        + np.trace(a.covariance + b.covariance)
        - 2 * np.sqrt(np.maximum(cross, 0)).sum()
    )
