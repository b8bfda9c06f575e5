"""Formats the JSON result of a plan as text."""

from vdm.planning.hardware.peaks import GIB


def heading(result: dict) -> str:
    """Returns lines with the model, devices and settings of a plan."""
    mesh, settings, level = result["mesh"], result["settings"], result["optimization_level"]
    device = result["device_kind"]
    if result["topology"] != "attached":
        device += f", {result['topology']}, unattached"
    lines = [
        f"{result['parameters']:,} parameters on {result['devices']} device(s): {device}",
        f"mesh data {mesh['data']}, fsdp {mesh['fsdp']}; remat {settings['remat']}, "
        f"{settings['accumulate']} micro-batch(es), {settings['dtype']}",
        f"compiled at JAX's optimization level {level}"
        + (" (memory is an upper bound)" if level == "O0" else ""),
    ]
    hardware = result["hardware"]["name"]
    if result["topology"] == "attached" or hardware not in result["topology"]:
        lines.append(f"compared with {hardware}, {result['hardware']['memory'] / GIB:.1f} GiB")
    return "\n".join(lines)


def step_lines(name: str, step: dict) -> str:
    """Returns lines with the requirements of a step."""
    lines = [
        f"\n{name}: {step['what']}, {step['videos_per_device']:g} per device "
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


def trial_line(trial: dict) -> str:
    """Returns a line with the memory and time of a step compiled with a change."""
    seconds = f", {_range(trial['seconds'])}" if "seconds" in trial else ""
    return f"  with         {trial['flags']}: {_memory(trial)}{seconds}"


def suggestion_line(flags: str | None, num_trials: int) -> str:
    """Returns a line with the result of the search for a change that makes a step fit."""
    if flags:
        return f"  suggestion   {flags}"
    if not num_trials:
        return "  suggestion   none: no change of remat, micro-batches or fsdp is left to try"
    return f"  suggestion   none of {num_trials} compiled changes fits: use more devices"


def closing(result: dict) -> str:
    """Returns lines with the assumptions of a plan and the steps that do not fit."""
    lines = ["\nassumptions:", *(f"  - {line}" for line in result["assumptions"])]
    failing = [name for name, step in result["steps"].items() if not step["fits"]]
    lines.append(f"\n{'does not fit: ' + ', '.join(failing) if failing else 'everything fits'}")
    return "\n".join(lines)


def _flops(step: dict) -> str:
    written = (
        f"{step['flops_as_written'] / 1e12:.3g} TFLOP per device in products and convolutions "
        "before compilation"
    )
    if step["flops"] is None:
        return written
    return f"{step['flops'] / 1e12:.3g} TFLOP per device counted by the compiler; {written}"


def _memory(step: dict) -> str:
    memory = step["memory"]
    line = (
        f"{memory['total_bytes'] / GIB:.2f} of {memory['device_bytes'] / GIB:.2f} GiB: "
        f"{'fits' if step['fits'] else 'does not fit'} (arguments "
        f"{memory['argument_bytes'] / GIB:.2f}, temporaries {memory['temporary_bytes'] / GIB:.2f}"
    )
    if memory["refused"]:
        return line + " including code; out of memory in the compiler)"
    new = memory["output_bytes"] - memory["aliased_bytes"]
    return (
        f"{line}, outputs {new / GIB:.2f} and {memory['aliased_bytes'] / GIB:.2f} in place, "
        f"code {memory['code_bytes'] / GIB:.2f})"
    )


def _sends(step: dict) -> str:
    if not step["collectives"]:
        return "nothing"
    kinds = ", ".join(
        f"{totals['count']:.3g} x {kind} with {totals['payload_bytes'] / 1e9:.3g} GB in total"
        for kind, totals in step["collectives"].items()
    )
    return f"{step['sent_bytes'] / 1e9:.3g} GB per device: {kinds}"


def _range(seconds: dict) -> str:
    return f"{seconds['overlapped']:.3g} to {seconds['in_turn']:.3g} s"


def _time(seconds: dict) -> str:
    return (
        f"{_range(seconds)} (arithmetic {seconds['compute']:.3g}, memory {seconds['memory']:.3g}, "
        f"links {seconds['links']:.3g}); bound by {seconds['bound_by']}"
    )
