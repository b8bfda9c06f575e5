"""Distance of each conditional sampling method from the exact conditional of Gaussian videos.

    pip install -e ".[docs]"
    python benchmarks/gaussian_conditioning.py

The data are stationary AR(1) videos of 16 frames of one pixel. Their denoiser and conditional
distributions are known exactly. The first four frames, x_a, are drawn from the data and observed.
Each method draws the other frames, x_b, with 128 evaluations of the denoiser.

The distance is the squared 2-Wasserstein distance between the joint distribution of (x_a, x_b) and
the data. All distributions are Gaussian, so it follows from means and covariances. An exact method
has a distance of 0. A jackknife over 20 groups of samples removes the bias of the distance, and
gives its standard error.

Writes benchmarks/results/gaussian_conditioning.json and docs/images/gaussian_conditioning.png.
Takes a minute on one core.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from measuring import IMAGES, write_result

from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.guidance import ReconstructionOptions
from vdm.diffusion.samplers import sample
from vdm.diffusion.schedule import alpha_sigma

FRAMES, OBSERVED = 16, 4
VARIANCE = 0.25
COVARIANCE = VARIANCE * 0.95 ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
EVALUATIONS = 128
COUNT, GROUPS, SEED = 20_000, 20, 0

RECONSTRUCTION = {"conditioning": "reconstruction"}
PSEUDO_INVERSE = RECONSTRUCTION | {"reconstruction_options": {"data_variance": VARIANCE}}
REPAINT = {"conditioning": "repaint", "repaint_jump_length": 8, "repaint_repeats": 4}
# Options of `sample`. None: no observation; the distance is then the discretisation error alone.
METHODS = {
    "replacement": {"conditioning": "replacement"},
    "replacement_posterior": {"conditioning": "replacement_posterior"},
    "repaint": REPAINT | {"num_steps": EVALUATIONS // REPAINT["repaint_repeats"]},
}
for weight in (1.0, 2.0, 3.0, 5.0, 10.0, 20.0):
    METHODS[f"reconstruction, weight {weight}"] = RECONSTRUCTION | {"weight": weight}
for weight in (1.0, 0.5):
    METHODS[f"pseudo-inverse, weight {weight}"] = PSEUDO_INVERSE | {"weight": weight}
METHODS["no observation"] = None
# The x_a, methods and samplers in the right panel of the figure.
SHOWN_X_A = (0.35, 0.5, 0.7, 0.8)
SHOWN = {
    "replacement": ("ancestral", METHODS["replacement"]),
    "reconstruction, weight 2, Langevin": ("langevin", METHODS["reconstruction, weight 2.0"]),
}


def denoiser(z, log_snr):
    """E[x given z] of the data, in the eigenbasis of their covariance."""
    variances, basis = (jnp.asarray(a, jnp.float32) for a in np.linalg.eigh(COVARIANCE))
    alpha, sigma = (scale[:, None] for scale in alpha_sigma(log_snr))
    gain = alpha * variances / (alpha**2 * variances + sigma**2)
    with jax.default_matmul_precision("highest"):
        return ((gain * (z.reshape(len(z), FRAMES) @ basis)) @ basis.T).reshape(z.shape)


def sampling_options(sampler, method):
    """Returns the arguments of `sample` for 128 evaluations; a Langevin step takes two."""
    steps = EVALUATIONS // 2 if sampler == "langevin" else EVALUATIONS
    return {"sampler": sampler, "num_steps": steps, **(method or {})}


def draw(x_a, is_observed, options):
    """Draws videos (x_a, x_b) [count, frames], given x_a [count, observed] if `is_observed`."""
    shape = (len(x_a), FRAMES, 1, 1, 1)
    values = np.zeros(shape, np.float32)
    values[:, :OBSERVED, 0, 0, 0] = x_a
    guidance = ReconstructionOptions(**options.get("reconstruction_options", {}))
    options = options | {"reconstruction_options": guidance}

    @jax.jit
    def run(key, values):
        mask = jnp.arange(FRAMES) < OBSERVED
        observation = ObservedFrames(values, mask) if is_observed else None
        return sample(key, denoiser, shape, observation=observation, **options)

    x = run(jax.random.key(SEED), values)
    return np.asarray(x, np.float64).reshape(len(x_a), FRAMES)


def distance_to_data(x):
    """Returns the squared 2-Wasserstein distance between a Gaussian fit of x and the data."""
    values, vectors = np.linalg.eigh(COVARIANCE)
    root = vectors * np.sqrt(values) @ vectors.T
    covariance = np.cov(x.T)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance @ root), 0)).sum()
    return np.sum(x.mean(0) ** 2) + np.trace(covariance) + np.trace(COVARIANCE) - 2 * cross


def jackknife(statistic, x):
    """Returns a statistic of x without its bias of order 1 / len(x), and its standard error."""
    parts = np.split(x, GROUPS)
    without = [statistic(np.concatenate(parts[:i] + parts[i + 1 :])) for i in range(GROUPS)]
    estimate = GROUPS * statistic(x) - (GROUPS - 1) * np.mean(without)
    return float(estimate), float(np.sqrt(GROUPS - 1) * np.std(without))


def conditional(covariance):
    """Returns the regression of x_b on x_a, and the covariance of x_b given x_a."""
    a, b = slice(None, OBSERVED), slice(OBSERVED, None)
    regression = np.linalg.solve(covariance[a, a], covariance[a, b]).T
    return regression, covariance[b, b] - regression @ covariance[a, b]


def measure():
    """Returns the distance and the relative conditional variance of each method, as rows."""
    x = np.random.default_rng(SEED).multivariate_normal(np.zeros(FRAMES), COVARIANCE, COUNT)
    samples = [("exact", None, x)]
    for name, method in METHODS.items():
        # RePaint's repeated steps already act as a corrector.
        for sampler in ("ancestral",) if name == "repaint" else ("ancestral", "langevin"):
            options = sampling_options(sampler, method)
            samples.append((name, options, draw(x[:, :OBSERVED], method is not None, options)))
    rows = []
    for name, options, x in samples:
        distance, error = jackknife(distance_to_data, x)
        spread = np.trace(conditional(np.cov(x.T))[1]) / np.trace(conditional(COVARIANCE)[1])
        row = {"method": name, "options": options, "distance": distance}
        rows.append(row | {"standard_error": error, "spread": float(spread)})
    return rows


def conditional_bands():
    """Returns mean and deviation of x_b given SHOWN_X_A, exact and by the methods in SHOWN."""
    regression, covariance = conditional(COVARIANCE)
    bands = {"exact": (regression @ SHOWN_X_A, np.sqrt(np.diag(covariance)))}
    x_a = np.broadcast_to(SHOWN_X_A, (COUNT, OBSERVED))
    for name, (sampler, method) in SHOWN.items():
        x_b = draw(x_a, True, sampling_options(sampler, method))[:, OBSERVED:]
        bands[name] = x_b.mean(0), x_b.std(0)
    return {
        name: {"mean": np.round(mean, 4).tolist(), "deviation": np.round(deviation, 4).tolist()}
        for name, (mean, deviation) in bands.items()
    }


def plot(rows, bands):
    """Draws the distances on the left, and x_b for one x_a on the right."""
    figure = Figure(figsize=(12, 4.8), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_distances(left, rows)
    plot_bands(right, bands)
    for axes in (left, right):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    figure.savefig(IMAGES / "gaussian_conditioning.png")


def plot_distances(axes, rows):
    positions = {name: -index for index, name in enumerate(METHODS)}
    for sampler, color, marker, label in (  # distinguishable for colour-blind readers
        ("ancestral", "#0072B2", "o", "128 ancestral steps (RePaint: 32, four times)"),
        ("langevin", "#D55E00", "D", "64 steps with the Langevin corrector"),
    ):
        shown = [row for row in rows if row["options"] and row["options"]["sampler"] == sampler]
        distances, errors = ([r[k] for r in shown] for k in ("distance", "standard_error"))
        y, xerr = [positions[row["method"]] for row in shown], 2 * np.array(errors)
        axes.errorbar(distances, y, xerr=xerr, fmt=marker, color=color, markersize=6, label=label)
    axes.set_yticks(list(positions.values()), [name.replace(".0", "") for name in positions])
    axes.set(xlim=(0, None), xlabel="squared 2-Wasserstein distance to the data (0 is exact)")
    axes.grid(color="0.9")


def plot_bands(axes, bands):
    frames = np.arange(OBSERVED, FRAMES)
    for (name, band), color in zip(bands.items(), ("0.35", "#CC79A7", "#009E73"), strict=True):
        mean, deviation = np.array(band["mean"]), np.array(band["deviation"])
        edges = mean - 2 * deviation, mean + 2 * deviation
        if name == "exact":
            axes.fill_between(frames, *edges, color="0.87", linewidth=0)
        else:
            axes.plot(frames, np.transpose(edges), color=color, linewidth=1)
        axes.plot(frames, mean, color=color, linewidth=2.2, label=name)
    axes.plot(range(OBSERVED), SHOWN_X_A, "ks", markersize=5, label="observed")
    axes.set(xlabel="frame", ylabel="pixel: mean and 2 standard deviations")


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows, bands = measure(), conditional_bands()
    plot(rows, bands)
    result = {"samples": COUNT, "seed": SEED, "evaluations": EVALUATIONS, "rows": rows}
    result["given"] = {"x_a": SHOWN_X_A, "x_b": bands}
    write_result("gaussian_conditioning", result, "numpy")


if __name__ == "__main__":
    main()
