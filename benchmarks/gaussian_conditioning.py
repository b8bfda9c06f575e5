"""How near each conditional sampling method comes to the exact conditional, on Gaussian 'videos'.

    pip install -e ".[docs]"
    python benchmarks/gaussian_conditioning.py

The data are stationary AR(1) videos of 16 frames of one pixel, for which the denoiser and every
conditional law are known exactly. The first four frames x_a are given, and are drawn from the
data; each method draws the other frames x_b, at 128 evaluations of the denoiser. Measured is the
squared 2-Wasserstein distance of the joint law of (x_a, x_b) from the data's: 0 for an exact
method. All these laws are Gaussian, so that mean and covariance give it. A jackknife over 20 groups
of samples takes its bias off, and gives its standard error.

Writes benchmarks/results/gaussian_conditioning.json and docs/images/gaussian_conditioning.png.
Takes about a minute on one core.
"""

import functools
import json
import os
import pathlib
import platform
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vdm.diffusion.conditioning import ObservedFrames
from vdm.diffusion.guidance import ReconstructionOptions
from vdm.diffusion.samplers import sample
from vdm.diffusion.schedule import alpha_sigma

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/gaussian_conditioning.json"
FIGURE = ROOT / "docs/images/gaussian_conditioning.png"

FRAMES, OBSERVED = 16, 4
VARIANCE = 0.25
COVARIANCE = VARIANCE * 0.95 ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
EVALUATIONS = 128
COUNT, GROUPS, SEED = 20_000, 20, 0

PSEUDO_INVERSE = {"reconstruction_options": {"data_variance": VARIANCE}}
# 32 steps, each taken four times: the same number of evaluations.
REPAINT = {"num_steps": 32, "repaint_jump_length": 8, "repaint_repeats": 4}

# Rows of the figure: the label, and the options of `sample`. None: nothing is given, which shows
# what the sampler's steps alone cost.
METHODS = {
    "replacement": {"conditioning": "replacement"},
    "replacement_posterior": {"conditioning": "replacement_posterior"},
    "repaint": {"conditioning": "repaint", **REPAINT},
    **{
        f"reconstruction, weight {weight}": {"conditioning": "reconstruction", "weight": weight}
        for weight in (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
    },
    **{
        f"pseudo-inverse, weight {weight}": {
            "conditioning": "reconstruction",
            "weight": weight,
            **PSEUDO_INVERSE,
        }
        for weight in (1.0, 0.5)
    },
    "nothing given": None,
}
# Shown for one x_a in the right panel of the figure.
SHOWN_X_A = (0.35, 0.5, 0.7, 0.8)
SHOWN = {
    "replacement": ("ancestral", METHODS["replacement"]),
    "reconstruction, weight 2, Langevin": ("langevin", METHODS["reconstruction, weight 2.0"]),
}

# Of Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
LEGEND = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "frameon": False}


def denoiser(z, log_snr):
    """E[x given z] of the data, in the eigenbasis of their covariance."""
    variances, basis = (jnp.asarray(a, jnp.float32) for a in np.linalg.eigh(COVARIANCE))
    alpha, sigma = (scale[:, None] for scale in alpha_sigma(log_snr))
    gain = alpha * variances / (alpha**2 * variances + sigma**2)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return product(gain * product(z.reshape(len(z), FRAMES), basis), basis.T).reshape(z.shape)


def options_of(sampler, options):
    """The arguments of `sample`: as many steps as make up the number of evaluations."""
    steps = EVALUATIONS // 2 if sampler == "langevin" else EVALUATIONS
    return {"sampler": sampler, "num_steps": steps, **(options or {})}


def draw(x_a, given, options):
    """Videos (x_a, x_b) [count, frames], the x_b given x_a [count, observed] unless not `given`."""
    shape = (len(x_a), FRAMES, 1, 1, 1)
    values = np.zeros(shape, np.float32)
    values[:, :OBSERVED, 0, 0, 0] = x_a
    guidance = ReconstructionOptions(**options.get("reconstruction_options", {}))
    options = options | {"reconstruction_options": guidance}

    @jax.jit
    def run(key, values):
        observation = ObservedFrames(values, jnp.arange(FRAMES) < OBSERVED) if given else None
        return sample(key, denoiser, shape, observation=observation, **options)

    x = run(jax.random.key(SEED), values)
    return np.asarray(x, np.float64).reshape(len(x_a), FRAMES)


def distance_to_data(x):
    """The squared 2-Wasserstein distance of the Gaussian of x's mean and covariance to the data."""
    values, vectors = np.linalg.eigh(COVARIANCE)
    root = vectors * np.sqrt(values) @ vectors.T
    own = np.cov(x.T)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ own @ root), 0)).sum()
    return np.sum(x.mean(0) ** 2) + np.trace(own) + np.trace(COVARIANCE) - 2 * cross


def jackknife(statistic, x):
    """A statistic of samples x less its bias of order 1 / len(x), and its standard error."""
    parts = np.split(x, GROUPS)
    without = [
        statistic(np.concatenate(parts[:group] + parts[group + 1 :])) for group in range(GROUPS)
    ]
    estimate = GROUPS * statistic(x) - (GROUPS - 1) * np.mean(without)
    return float(estimate), float(np.sqrt(GROUPS - 1) * np.std(without))


def given_x_a(covariance):
    """The regression of x_b on x_a, and the covariance of x_b given x_a."""
    a, b = slice(None, OBSERVED), slice(OBSERVED, None)
    regression = np.linalg.solve(covariance[a, a], covariance[a, b]).T
    return regression, covariance[b, b] - regression @ covariance[a, b]


def spread(x):
    """The total variance of x_b given x_a, relative to the exact one."""
    return float(np.trace(given_x_a(np.cov(x.T))[1]) / np.trace(given_x_a(COVARIANCE)[1]))


def measure():
    """The distance of each method, one dictionary each."""
    rng = np.random.default_rng(SEED)
    x = rng.multivariate_normal(np.zeros(FRAMES), COVARIANCE, COUNT)
    rows = [{"method": "exact", "options": None, "samples": x}]
    for name, method in METHODS.items():
        # RePaint has its corrector already: the steps that it takes again.
        for sampler in ("ancestral",) if name == "repaint" else ("ancestral", "langevin"):
            options = options_of(sampler, method)
            samples = draw(x[:, :OBSERVED], method is not None, options)
            rows.append({"method": name, "options": options, "samples": samples})
    for row in rows:
        samples = row.pop("samples")
        row["distance"], row["standard_error"] = jackknife(distance_to_data, samples)
        row["spread"] = spread(samples)
    return rows


def plot(rows, bands):
    """The figure: distances on the left, the law of x_b for one x_a on the right."""
    with matplotlib.rc_context({"font.size": 10.5, "axes.spines.top": False}):
        figure = Figure(figsize=(12, 4.8), dpi=100, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        left, right = figure.subplots(1, 2)
        plot_distances(left, rows)
        plot_bands(right, bands)
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(FIGURE)


def plot_distances(axes, rows):
    places = {name: -place for place, name in enumerate(METHODS)}
    for sampler, color, marker, label in (
        ("ancestral", BLUE, "o", "128 ancestral steps (repaint: 32, four times)"),
        ("langevin", ORANGE, "D", "64 steps with the Langevin corrector"),
    ):
        shown = [row for row in rows if row["options"] and row["options"]["sampler"] == sampler]
        axes.errorbar(
            [row["distance"] for row in shown],
            [places[row["method"]] for row in shown],
            xerr=[2 * row["standard_error"] for row in shown],
            fmt=marker,
            color=color,
            markersize=6,
            label=label,
        )
    axes.set_yticks(list(places.values()), [name.replace(".0", "") for name in places])
    axes.set_xlim(left=0)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["left", "right"]].set_visible(False)
    axes.set_xlabel("squared 2-Wasserstein distance to the data (0 is exact)")
    axes.set_xticks(np.arange(0, 0.21, 0.05))
    axes.legend(**LEGEND)


def plot_bands(axes, bands):
    styles = {
        "exact": ("0.35", "-"),
        "replacement": (PURPLE, "--"),
        "reconstruction, weight 2, Langevin": (GREEN, "-"),
    }
    frames = np.arange(OBSERVED, FRAMES)
    for name, band in bands.items():
        color, line = styles[name]
        mean, deviation = np.array(band["mean"]), np.array(band["deviation"])
        low, high = mean - 2 * deviation, mean + 2 * deviation
        if name == "exact":
            axes.fill_between(frames, low, high, color="0.87", linewidth=0)
        else:
            axes.plot(frames, low, color=color, linestyle=line, linewidth=1)
            axes.plot(frames, high, color=color, linestyle=line, linewidth=1)
        axes.plot(frames, mean, color=color, linestyle=line, linewidth=2.2, label=name)
    axes.plot(range(OBSERVED), SHOWN_X_A, "ks", markersize=5, label="given")
    axes.spines["right"].set_visible(False)
    axes.set_xlabel("frame")
    axes.set_ylabel("pixel: mean, and 2 standard deviations")
    axes.set_xticks(range(0, FRAMES, 5))
    axes.legend(**LEGEND, ncols=2, columnspacing=1, handlelength=1.6)


def main():
    start = time.time()
    rows = measure()
    shown = np.broadcast_to(SHOWN_X_A, (COUNT, OBSERVED))
    regression, covariance = given_x_a(COVARIANCE)
    bands = {"exact": (regression @ SHOWN_X_A, np.sqrt(np.diag(covariance)))}
    for name, (sampler, method) in SHOWN.items():
        x_b = draw(shown, True, options_of(sampler, method))[:, OBSERVED:]
        bands[name] = x_b.mean(0), x_b.std(0)
    bands = {
        name: {"mean": np.round(mean, 4).tolist(), "deviation": np.round(deviation, 4).tolist()}
        for name, (mean, deviation) in bands.items()
    }
    plot(rows, bands)
    results = {
        "command": "python benchmarks/gaussian_conditioning.py",
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "cpu_count": os.cpu_count(),
            "jax_backend": jax.default_backend(),
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
        "seconds": round(time.time() - start),
        "samples": COUNT,
        "seed": SEED,
        "evaluations": EVALUATIONS,
        "rows": rows,
        "given": {"x_a": SHOWN_X_A, "x_b": bands},
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    for row in rows:
        sampler = row["options"]["sampler"] if row["options"] else ""
        sys.stdout.write(
            f"{row['method']:27} {sampler:10} {row['distance']:.4f} +- "
            f"{row['standard_error']:.4f}  spread {row['spread']:.3f}\n"
        )


if __name__ == "__main__":
    main()
