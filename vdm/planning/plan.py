"""--mode=plan: what a configuration needs on given devices, and about how fast it would be."""

import dataclasses
import importlib.metadata
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import ml_collections
from jax.sharding import Mesh

from vdm.build import count_parameters, init_params
from vdm.files import write_text
from vdm.parallel.mesh import make_mesh
from vdm.planning import report
from vdm.planning.compile import Compiled, compile_step
from vdm.planning.hardware.peaks import HARDWARE, Hardware, hardware_of
from vdm.planning.hardware.topology import devices_of, link_share
from vdm.planning.roofline import Efficiencies, assumptions, estimate
from vdm.planning.steps import STEPS, make_step
from vdm.planning.suggest import Changes, as_flags, find_change

UPPER_BOUND = "O0"  # at this level the compiler takes minutes where the others take hours


def plan_file(config: ml_collections.ConfigDict, workdir: Path | None) -> Path | None:
    """The JSON file for the result: config.plan.output, else plan.json of the workdir if any."""
    if config.plan.output:
        return Path(config.plan.output)
    return workdir / "plan.json" if workdir else None


def check_steps(config: ml_collections.ConfigDict) -> None:
    """Checks config.plan.steps and the topology, in seconds.

    Raises:
      ValueError: one sentence with the field, the topology, or the package to install.
    """
    for step in config.plan.steps:
        if step not in STEPS:
            raise ValueError(
                f"config.plan.steps has {step!r}, and may have {', '.join(map(repr, STEPS))}"
            )
    mesh = _mesh(config)
    for step in config.plan.steps:
        make_step(config, mesh, step)


def make_plan(
    config: ml_collections.ConfigDict, output: Path | None, tell: Callable[[str], None]
) -> dict:
    """Compiles the steps of config.plan.steps and says what they need.

    Args:
      config: the configuration, checked by `preflight.check_plan`.
      output: where the result is written as JSON, anew after each step; None for nowhere.
      tell: is given each line of the report as soon as it is known.

    Returns:
      The result, ready for JSON.
    """
    settings = config.plan
    level = _set_optimization_level(config)
    mesh = _mesh(config)
    device = mesh.devices.flat[0]
    hardware = HARDWARE[settings.hardware] if settings.hardware else hardware_of(device)
    efficiencies = efficiencies_of(config)
    share = link_share(settings.topology)
    result = {
        "command": shlex.join(["python", "-m", "vdm.main", *sys.argv[1:]]),
        "versions": _versions(),
        "parameters": count_parameters(jax.eval_shape(partial(init_params, config))),
        "topology": settings.topology or "attached",
        "device_kind": device.device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "hardware": dataclasses.asdict(hardware),
        "optimization_level": level,
        "settings": {
            "remat": config.model.remat,
            "accumulate": config.training.accumulate,
            "dtype": config.model.dtype,
        },
        "assumptions": assumptions(hardware, efficiencies, share),
        "steps": {},
    }
    tell(report.heading(result))

    def described(compiled: Compiled) -> dict:
        time_of = None
        if not compiled.refused:
            time_of = estimate(
                hardware,
                efficiencies,
                flops=compiled.flops or compiled.written_flops,
                memory_bytes=compiled.memory_bytes or 0.0,
                collectives=compiled.collectives,
                link_share=share,
            )
        return report.describe(compiled, hardware, time_of, mesh.size)

    for name in settings.steps:
        compiled = compile_step(make_step(config, mesh, name), mesh.size)
        step = described(compiled)
        result["steps"][name] = step
        tell(report.of_step(name, step))
        if not step["fits"] and settings.max_trials:
            step["suggestion"] = _suggest(config, compiled, mesh, hardware, described, tell)
        _write(output, result)
    tell(report.closing(result))
    return result


def efficiencies_of(config: ml_collections.ConfigDict) -> Efficiencies:
    """What config.plan assumes."""
    settings = config.plan
    return Efficiencies(
        settings.compute_efficiency, settings.memory_efficiency, settings.link_efficiency
    )


def _suggest(
    config: ml_collections.ConfigDict,
    first: Compiled,
    mesh: Mesh,
    hardware: Hardware,
    described: Callable[[Compiled], dict],
    tell: Callable[[str], None],
) -> dict:
    """Tries changes, each compiled, and says which is the first that fits."""

    def compile_with(changes: Changes) -> Compiled:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        return compile_step(make_step(changed, _mesh(changed), first.name), mesh.size)

    trials = find_change(
        config,
        first,
        num_devices=mesh.size,
        room=first.memory.capacity or hardware.memory,
        compile_with=compile_with,
        fits=lambda compiled: described(compiled)["fits"],
        most=config.plan.max_trials,
        tell=lambda flags: tell(f"  trying       {flags}"),
    )
    tried = [{"flags": as_flags(trial.changes), **described(trial.compiled)} for trial in trials]
    for trial in tried:
        tell(report.of_trial(trial))
    found = tried[-1]["flags"] if tried and tried[-1]["fits"] else None
    tell(report.suggested(found, len(tried)))
    return {"flags": found, "tried": tried}


def _mesh(config: ml_collections.ConfigDict) -> Mesh:
    devices: Sequence[jax.Device] = devices_of(config.plan.topology)
    wanted = config.plan.devices
    if wanted > len(devices):
        raise ValueError(
            f"config.plan.devices is {wanted}, and must be at most {len(devices)}, the devices "
            f"{'of ' + config.plan.topology if config.plan.topology else 'that are attached'}"
        )
    return make_mesh(config, devices[: wanted or None])


def _set_optimization_level(config: ml_collections.ConfigDict) -> str:
    level = config.plan.optimization_level
    if not level and config.plan.topology:
        level = UPPER_BOUND
    if level:
        jax.config.update("jax_optimization_level", level)
    level = jax.config.jax_optimization_level
    return "default" if level == "UNKNOWN" else level


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in ("jax", "jaxlib", "libtpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _write(output: Path | None, result: dict) -> None:
    if output is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, json.dumps(result, indent=2) + "\n")
