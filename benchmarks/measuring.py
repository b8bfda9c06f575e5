"""What benchmarks have in common: configurations, turns at the clock, and the record of a run."""

import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def load_config(path):
    """The configuration of a file in configs/."""
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def seconds(step: Callable[[], object]) -> float:
    """How long one call takes; the call waits for its own result."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def interleaved(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round, in which they take turns, after two calls of each.

    The second call may still compile, for what the first one left behind.
    """
    for step in (*steps.values(), *steps.values()):
        step()
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def training_step(config):
    """Training steps of a configuration on videos of zeros.

    Returns:
      A function that makes one, the bytes that the compiler plans for it, the products and
      convolutions of one in floating-point operations, and the compiled program.
    """
    import jax
    import numpy as np

    from vdm.parallel.mesh import make_mesh
    from vdm.planning.flops import count_flops
    from vdm.planning.steps import make_step
    from vdm.training.state import init_state

    mesh = make_mesh(config)
    step = make_step(config, mesh, "train")
    traced = step.function.trace(*step.arguments)
    executable = traced.lower().compile()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, step.arguments[0])
    state = [jax.jit(partial(init_state, config), out_shardings=shardings)()]
    batch = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
        step.arguments[1],
    )

    def run():
        state[0] = jax.block_until_ready(executable(state[0], batch))

    plan = executable.memory_analysis()
    planned = plan.temp_size_in_bytes + plan.argument_size_in_bytes
    return run, planned, count_flops(traced.jaxpr) * step.repeats, executable


def median_and_quartiles(values) -> dict:
    """The median, and the first and the third quartile."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "quartiles": [low, high]}


def compared(times: Mapping[str, list[float]], reference: str) -> dict[str, dict]:
    """Seconds of each step, and its time over the reference's in the same round."""
    return {
        name: {
            "seconds": median_and_quartiles(values),
            "time_over_reference": median_and_quartiles(
                [a / b for a, b in zip(values, times[reference], strict=True)]
            ),
        }
        for name, values in times.items()
    }


def write_result(name: str, result: Mapping, *packages: str) -> None:
    """Prints a result and writes it to benchmarks/results/NAME.json, with how it came about."""
    script = pathlib.Path(sys.argv[0])
    record = {
        "command": " ".join(["python", f"benchmarks/{script.name}", *sys.argv[1:]]),
        "hardware": hardware(),
        "huge_pages": has_huge_pages(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in ("jax", *packages)},
        **result,
    }
    text = json.dumps(record, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text)
    print(text)


def hardware() -> str:
    """The accelerator, or the processor and the cores that this process may use."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    models = [
        line.partition(":")[2].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else 'CPU'}, {len(os.sched_getaffinity(0))} core(s)"


def has_huge_pages() -> bool:
    """Whether malloc asks for huge pages, which spare a page fault for every 4 kB."""
    return _HUGE_PAGES in os.environ.get("GLIBC_TUNABLES", "")


def restart_with_huge_pages() -> None:
    """Runs the same command again with huge pages, for malloc reads its settings at the start."""
    if not has_huge_pages():
        os.environ["GLIBC_TUNABLES"] = _HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.argv])
