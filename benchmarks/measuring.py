"""Shared code of the benchmarks: configurations, training steps, interleaved timing and results."""

import dataclasses
import json
import os
import pathlib
import platform
import re
import runpy
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdm.build import init_params
from vdm.metrics.frechet import frechet_distance
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.planning.compile import Compiled, analyze
from vdm.planning.steps import make_step
from vdm.sampling.generate import make_generator
from vdm.training.state import init_state
from vdm.video.display import captioned_grids, gif_bytes

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
IMAGES = ROOT / "docs/images"
_BOOTSTRAP = 200  # samples


def load_config(path):
    """Returns the configuration of a file in configs/."""
    return runpy.run_path(str(path))["get_config"]()


def seconds(step: Callable[[], object]) -> float:
    """Times one call, which must block until its result is ready."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, untimed: int = 0
) -> dict[str, list[float]]:
    """Returns the seconds of each step in each round.

    A round runs every step `untimed` times, and then once more with timing. Two untimed rounds come
    first: the second call may compile again, for the output's sharding.
    """
    for step in (*steps.values(), *steps.values()):
        step()
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            for _ in range(untimed):
                step()
            times[name].append(seconds(step))
    return times


def timed_samples(config, params, count: int) -> tuple[np.ndarray, float]:
    """Returns samples 0 to count - 1, uint8 [count, ...], and seconds per video.

    The seconds are those of the fastest batch, without the first one, which compiles.
    """
    mesh, size = make_mesh(config), config.sample.batch_size
    generate, params = make_generator(config, mesh), sharded_params(mesh, params)
    videos, times = [], []
    for first in range(0, count, size):
        start = time.perf_counter()
        videos.append(generate(params, range(first, first + size)))
        times.append(time.perf_counter() - start)
    return np.concatenate(videos), min(times[1:]) / size


def distance_and_error(features: np.ndarray, references: np.ndarray) -> tuple[float, float]:
    """Returns the Frechet distance of features [n, features] to references, and its error.

    The error is the standard deviation over bootstrap samples of the features.
    """
    of_references = references.mean(0), np.cov(references.T)

    def distance(rows):
        return frechet_distance(rows.mean(0), np.cov(rows.T), *of_references)

    draws = np.random.default_rng(0).integers(len(features), size=(_BOOTSTRAP, len(features)))
    return distance(features), float(np.std([distance(features[draw]) for draw in draws], ddof=1))


class MeasuredStep(NamedTuple):
    """A step of `vdm.planning.steps` on random arrays.

    Attributes:
      run: runs the compiled function once and returns its result: a training step and its state,
        or samples of `steps` steps.
      steps: steps per call of `run`.
      compiled: the plan and the FLOPs of one step, per device.
      executable: the compiled function.
    """

    run: Callable
    steps: int
    compiled: Compiled
    executable: jax.stages.Compiled


def measured_step(config, name: str) -> MeasuredStep:
    """Compiles 'train', 'sample' or 'guided' for the attached devices."""
    mesh = make_mesh(config)
    step = make_step(config, mesh, name)
    start = time.perf_counter()
    traced = step.function.trace(*step.arguments)
    executable = traced.lower().compile()
    compiled = analyze(step, traced, executable, mesh.size)
    compiled = dataclasses.replace(compiled, compile_seconds=time.perf_counter() - start)
    first, *others = step.arguments
    make_first = partial(init_state if name == "train" else nonzero_params, config)
    first = jax.jit(make_first, out_shardings=_shardings(first))()
    others = _random_arrays(others)

    def train():
        nonlocal first
        first = jax.block_until_ready(executable(first, *others))
        return first

    def draw():
        return jax.block_until_ready(executable(first, *others))

    return MeasuredStep(train if name == "train" else draw, step.steps, compiled, executable)


def _random_arrays(shapes):
    """Returns floats uniform in [-1, 1], zeros for integers, and masks that are true."""

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.random.uniform(jax.random.key(1), leaf.shape, leaf.dtype, -1, 1)
        return jnp.full(leaf.shape, leaf.dtype == jnp.bool_, leaf.dtype)

    return jax.jit(lambda: jax.tree.map(fill, shapes), out_shardings=_shardings(shapes))()


def _shardings(shapes):
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def nonzero_params(config):
    """Returns initial parameters plus noise: zero layers would block gradients."""
    noise = partial(jax.random.normal, jax.random.key(1))
    return jax.tree.map(lambda p: p + 0.02 * noise(p.shape, p.dtype), init_params(config))


def median_and_quartiles(values) -> dict:
    """Returns the median, and the first and third quartile."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "quartiles": [low, high]}


def compared(times: Mapping[str, list[float]], reference: str) -> dict[str, dict]:
    """Returns the seconds of each step, and their ratio to the reference in the same round."""
    result = {name: {"seconds": median_and_quartiles(values)} for name, values in times.items()}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[reference], strict=True)]
        result[name]["time_over_reference"] = median_and_quartiles(ratios)
    return result


def write_gif(name: str, groups: Mapping[str, np.ndarray], scale: int) -> pathlib.Path:
    """Writes docs/images/NAME.gif: the groups side by side, each a grid of videos and its caption.

    The groups, {caption: uint8 [n, frames, height, width, channels]}, have equal numbers of videos.
    """
    grids = [captioned_grids({caption: videos}, scale=scale) for caption, videos in groups.items()]
    path = IMAGES / f"{name}.gif"
    path.write_bytes(gif_bytes(np.concatenate(grids, axis=2), scale=1))
    return path


def stored_rows(name: str) -> list[dict]:
    """Returns the rows of benchmarks/results/NAME.json; none if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def with_row(rows: list[dict], row: dict, keys: tuple[str, ...]) -> list[dict]:
    """Returns rows with a row that replaces the one with the same values of `keys`, if any."""

    def identity(other):
        return [other.get(key) for key in keys]

    return [other for other in rows if identity(other) != identity(row)] + [row]


def write_result(name: str, result: Mapping, *packages: str) -> None:
    """Prints a result and writes benchmarks/results/NAME.json, with the versions of packages."""
    script = f"benchmarks/{pathlib.Path(sys.argv[0]).name}"
    record = {
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "hardware": hardware(),
        "huge_pages": has_huge_pages(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in ("jax", *packages)},
        **result,
    }
    text = json.dumps(record, indent=2) + "\n"
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)


def hardware() -> str:
    """Returns the accelerators, or the processor and the number of usable cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{model[1] if model else 'CPU'}, {len(os.sched_getaffinity(0))} core(s)"


def has_huge_pages() -> bool:
    """Whether malloc requests huge pages, which avoid a page fault every 4 kB."""
    return "glibc.malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
