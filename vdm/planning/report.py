"""A plan in words, and what JSON holds of a compiled step."""

import dataclasses

from vdm.planning.collectives import by_kind
from vdm.planning.compile import Compiled
from vdm.planning.hardware.peaks import GIB, Hardware
from vdm.planning.roofline import Estimate


def describe(
    compiled: Compiled, hardware: Hardware, time_of: Estimate | None, num_devices: int
) -> dict:
    """What JSON holds of a step: all of one device, but for the batch."""
    memory = compiled.memory
    kinds = by_kind(list(compiled.collectives))
    step = {
        "what": compiled.what,
        "batch_size": compiled.batch_size,
        "videos_per_device": compiled.batch_size / num_devices,
        "fits": not compiled.refused and memory.total <= hardware.memory,
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
        "compile_seconds": round(compiled.seconds, 1),
    }
    if time_of is not None:
        step["seconds"] = dataclasses.asdict(time_of) | {
            "overlapped": time_of.overlapped,
            "in_turn": time_of.in_turn,
            "bound_by": time_of.bound_by,
        }
    return step


def heading(result: dict) -> str:
    """What is planned, on what."""
    mesh, level = result["mesh"], result["optimization_level"]
    where = result["device_kind"]
    if result["topology"] != "attached":
        where += f", {result['topology']}, not attached"
    settings = result["settings"]
    lines = [
        f"{result['parameters']:,} parameters on {result['devices']} device(s): {where}",
        f"mesh data {mesh['data']}, fsdp {mesh['fsdp']}; remat {settings['remat']}, "
        f"{settings['accumulate']} micro-batch(es), {settings['dtype']}",
        f"compiled at JAX's optimization level {level}"
        + (", where the memory is an upper bound" if level == "O0" else ""),
    ]
    hardware = result["hardware"]["name"]
    if result["topology"] == "attached" or hardware not in result["topology"]:
        lines.append(f"compared with {hardware}, {result['hardware']['memory'] / GIB:.1f} GiB")
    return "\n".join(lines)


def of_step(name: str, step: dict) -> str:
    """A step's lines."""
    per_device = step["videos_per_device"]
    lines = [
        f"\n{name}: {step['what']}, {per_device:g} a device "
        f"(compiled in {step['compile_seconds']:.0f} s)",
        f"  arithmetic   {_flops(step)}",
        f"  memory       {_memory(step)}",
    ]
    if step["memory"]["refused"]:
        return "\n".join(lines)
    lines.append(f"  sends        {_sends(step)}")
    if "seconds" in step:
        lines.append(f"  time         {_time(step['seconds'])}")
    return "\n".join(lines)


def of_trial(trial: dict) -> str:
    """One line on a change that was compiled."""
    seconds = f", {_range(trial['seconds'])}" if "seconds" in trial else ""
    return f"  with         {trial['flags']}: {_memory(trial)}{seconds}"


def suggested(flags: str | None, tried: int) -> str:
    """The end of a search."""
    if flags:
        return f"  suggestion   {flags}"
    if not tried:
        return "  suggestion   none: no change of remat, micro-batches or fsdp is left to try"
    return f"  suggestion   none of {tried} that were compiled fits: more devices are needed"


def closing(result: dict) -> str:
    """What the numbers take for granted."""
    lines = ["\nassumptions:", *(f"  - {line}" for line in result["assumptions"])]
    failing = [name for name, step in result["steps"].items() if not step["fits"]]
    lines.append(f"\n{'does not fit: ' + ', '.join(failing) if failing else 'everything fits'}")
    return "\n".join(lines)


def _flops(step: dict) -> str:
    written = f"{step['flops_as_written'] / 1e12:.3g} TFLOP a device in products and convolutions"
    if step["flops"] is None:
        return f"{written}, as written"
    return f"{step['flops'] / 1e12:.3g} TFLOP a device by the compiler; {written}, as written"


def _memory(step: dict) -> str:
    memory = step["memory"]
    line = (
        f"{memory['total_bytes'] / GIB:.2f} of {memory['device_bytes'] / GIB:.2f} GiB: "
        f"{'fits' if step['fits'] else 'does not fit'} (arguments "
        f"{memory['argument_bytes'] / GIB:.2f}, temporaries {memory['temporary_bytes'] / GIB:.2f}"
    )
    if memory["refused"]:
        return line + " and code; the compiler refuses)"
    new = memory["output_bytes"] - memory["aliased_bytes"]
    return (
        f"{line}, outputs {new / GIB:.2f} and {memory['aliased_bytes'] / GIB:.2f} in place, "
        f"code {memory['code_bytes'] / GIB:.2f})"
    )


def _sends(step: dict) -> str:
    if not step["collectives"]:
        return "nothing"
    kinds = ", ".join(
        f"{kind} {of_kind['count']:.3g} x, {of_kind['payload_bytes'] / 1e9:.3g} GB in all"
        for kind, of_kind in step["collectives"].items()
    )
    return f"{step['sent_bytes'] / 1e9:.3g} GB a device: {kinds}"


def _range(seconds: dict) -> str:
    return f"{seconds['overlapped']:.3g} to {seconds['in_turn']:.3g} s"


def _time(seconds: dict) -> str:
    return (
        f"{_range(seconds)} (arithmetic {seconds['compute']:.3g}, memory {seconds['memory']:.3g}, "
        f"links {seconds['links']:.3g}); bound by {seconds['bound_by']}"
    )
