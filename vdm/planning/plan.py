"""--mode=plan: compiles the steps of a configuration and reports memory, FLOPs and time."""

import dataclasses
import importlib.metadata
import itertools
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial

import jax
import ml_collections
from jax.sharding import Mesh

from vdm.build import count_parameters, init_params
from vdm.files import AnyPath, as_path, defined, make_folder, write_text
from vdm.parallel.mesh import make_mesh
from vdm.planning import report
from vdm.planning.collectives import by_kind
from vdm.planning.compile import Compiled, compile_step
from vdm.planning.hardware.peaks import HARDWARE, Hardware, hardware_of
from vdm.planning.hardware.topology import devices_of, link_share
from vdm.planning.roofline import Efficiencies, assumptions, estimate
from vdm.planning.steps import STEPS, make_step
from vdm.planning.suggest import Changes, as_flags, find_change

# At this level, TPU compilation takes minutes, not hours; the memory it reports is an upper bound.
UNATTACHED_LEVEL = "O0"


def plan_file(config: ml_collections.ConfigDict, workdir: AnyPath | None) -> AnyPath | None:
    """Returns the path of the JSON file: config.plan.output, else WORKDIR/plan.json, else None."""
    if config.plan.output:
        return as_path(config.plan.output)
    return workdir / "plan.json" if workdir else None


def check_steps(config: ml_collections.ConfigDict) -> None:
    """Checks config.plan.steps, the topology and the batch sizes without compiling.

    Raises:
      ValueError: one sentence with the field, the topology, or the package to install.
    """
    choices = ", ".join(map(repr, STEPS))
    if not config.plan.steps:
        raise ValueError(f"config.plan.steps is (), and must have at least one of {choices}")
    for step in config.plan.steps:
        if step not in STEPS:
            raise ValueError(f"config.plan.steps has {step!r}, and may have {choices}")
    mesh = _mesh(config)
    for step in config.plan.steps:
        make_step(config, mesh, step)


@dataclasses.dataclass(frozen=True)
class Target:
    """The devices of a plan, with the assumed fractions of their peaks and of their links."""

    hardware: Hardware
    num_devices: int
    efficiencies: Efficiencies
    link_share: float


def make_target(config: ml_collections.ConfigDict, mesh: Mesh) -> Target:
    """Returns the target of config.plan; the hardware defaults to the devices of the mesh."""
    settings = config.plan
    return Target(
        HARDWARE[settings.hardware] if settings.hardware else hardware_of(mesh.devices.flat[0]),
        mesh.size,
        Efficiencies(
            settings.compute_efficiency, settings.memory_efficiency, settings.link_efficiency
        ),
        link_share(settings.topology),
    )


def make_plan(
    config: ml_collections.ConfigDict, output: AnyPath | None, log: Callable[[str], object]
) -> dict:
    """Compiles the steps of config.plan.steps and reports their requirements.

    `preflight.check` must have validated the configuration. Returns JSON, which is also written to
    `output`, if any, after each step. `log` receives each part of the report once it is known.
    """
    level = _set_optimization_level(config)
    mesh = _mesh(config)
    target = make_target(config, mesh)
    result = {
        "command": shlex.join(["python", "-m", "vdm.main", *sys.argv[1:]]),
        "versions": _versions(),
        "parameters": count_parameters(jax.eval_shape(partial(init_params, config))),
        "topology": config.plan.topology or "attached",
        "device_kind": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "hardware": dataclasses.asdict(target.hardware),
        "optimization_level": level,
        "settings": {
            "remat": config.model.remat,
            "accumulate": config.training.accumulate,
            "dtype": config.model.dtype,
        },
        "assumptions": assumptions(target.hardware, target.efficiencies, target.link_share),
        "steps": {},
    }
    log(report.heading(result))
    for name in config.plan.steps:
        compiled = compile_step(make_step(config, mesh, name), mesh.size)
        step = describe(compiled, target)
        result["steps"][name] = step
        log(report.step_lines(name, step))
        if not step["fits"] and config.plan.max_trials:
            step["suggestion"] = _suggest(config, compiled, target, log)
        if output:
            make_folder(output.parent)
            write_text(output, json.dumps(defined(result), indent=2) + "\n")
    log(report.closing(result))
    return result


def describe(compiled: Compiled, target: Target) -> dict:
    """Returns the JSON entry of a step, per device except for the batch size."""
    memory, hardware = compiled.memory, target.hardware
    kinds = by_kind(compiled.collectives)
    step = {
        "what": compiled.description,
        "batch_size": compiled.batch_size,
        "videos_per_device": compiled.batch_size / target.num_devices,
        "fits": compiled.fits(hardware.memory),
        "memory": {
            "total_bytes": memory.total,
            "device_bytes": memory.capacity or hardware.memory,
            "refused": compiled.refused,
            "argument_bytes": memory.arguments,
            "temporary_bytes": memory.temporaries,
            "output_bytes": memory.outputs,
            "aliased_bytes": memory.aliased,
            "code_bytes": memory.code,
        },
        "flops": compiled.flops,
        "flops_as_written": compiled.written_flops,
        "memory_traffic_bytes": compiled.memory_bytes,
        "collectives": kinds,
        "sent_bytes": sum(kind["sent_bytes"] for kind in kinds.values()),
        "compile_seconds": round(compiled.compile_seconds, 1),
    }
    seconds = None
    if not compiled.refused:
        seconds = estimate(
            hardware,
            target.efficiencies,
            flops=compiled.flops or compiled.written_flops,
            memory_bytes=compiled.memory_bytes or 0.0,
            collectives=compiled.collectives,
            link_share=target.link_share,
        )
    if seconds:
        step["seconds"] = dataclasses.asdict(seconds) | {
            "overlapped": seconds.overlapped,
            "in_turn": seconds.sequential,
            "bound_by": seconds.bound_by,
        }
    return step


def _suggest(
    config: ml_collections.ConfigDict, first: Compiled, target: Target, log: Callable[[str], object]
) -> dict:
    """Searches for a configuration change that makes the step fit, and reports all trials."""

    def compile_with(changes: Changes) -> Compiled:
        log(f"  trying       {as_flags(changes)}")
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        return compile_step(make_step(changed, _mesh(changed), first.name), target.num_devices)

    trials = find_change(
        config,
        first,
        num_devices=target.num_devices,
        device_memory=target.hardware.memory,
        compile_with=compile_with,
    )
    tried: list[dict] = []
    for changes, compiled in itertools.islice(trials, config.plan.max_trials):
        tried.append({"flags": as_flags(changes), **describe(compiled, target)})
        log(report.trial_line(tried[-1]))
    flags = tried[-1]["flags"] if tried and tried[-1]["fits"] else None
    log(report.suggestion_line(flags, len(tried)))
    return {"flags": flags, "tried": tried}


def _mesh(config: ml_collections.ConfigDict) -> Mesh:
    topology, count = config.plan.topology, config.plan.devices
    devices = devices_of(topology)
    if count > len(devices):
        kind = f"devices of {topology}" if topology else "attached devices"
        raise ValueError(
            f"config.plan.devices is {count}, and must be at most {len(devices)}, the number of "
            f"{kind}"
        )
    return make_mesh(config, devices[: count or None])


def _set_optimization_level(config: ml_collections.ConfigDict) -> str:
    level = config.plan.optimization_level
    if not level and config.plan.topology:
        level = UNATTACHED_LEVEL
    if level:
        jax.config.update("jax_optimization_level", level)
    level = jax.config.values["jax_optimization_level"]
    return "default" if level == "UNKNOWN" else level


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in ("jax", "jaxlib", "libtpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
