"""Time of a training step by kind of layer, compared with the same network in PyTorch.

    pip install -e . torch
    python benchmarks/speed_by_layer.py [--resolution=32] [--batch=4]

Profiles three training steps of each network of benchmarks/own_speed.py, with all cores:

- Ours with jax.profiler. A fused operation counts for the layer of its last part. The times are
  means over the devices.
- PyTorch's with torch.profiler. A backward operation counts for the layer of its forward operation.

'rest' is the time of the step that no layer accounts for: the loss, the optimizer and the EMA, skip
connections, and waiting for other devices. Profiling slows both networks.

Prints and writes benchmarks/results/speed_by_layer_LAYOUT.json. Takes three minutes on two
cores, and five with --resolution=64 --batch=2.
"""

import argparse
import collections

import jax
import measuring
import torch
from flax.traverse_util import flatten_dict
from own_speed import make_inputs, small_config, torch_steps, use_all_cores
from torch_unet import TorchSpaceTimeUNet
from where_time_goes import STEPS, kind_of, profile

_KINDS = {
    "convolutions": r"conv(?:_\w+)?",
    "spatial attention": r"spatial_attention",
    "temporal attention": r"temporal_attention",
    "norms, with swish and dropout": r"norm\w*|residual",
    "dense layers": r"skip|embedding|conditioning",
}
_LAYER = "layer: "
_BACKWARD = "autograd::engine::evaluate_function"


class _NamedLayers(TorchSpaceTimeUNet):
    """The PyTorch network, with the names of its layers in the profile."""


def _named(method: str):
    run = getattr(TorchSpaceTimeUNet, method)

    def named(self, *args):
        name = next(argument for argument in args if isinstance(argument, str))
        with torch.profiler.record_function(_LAYER + name):
            return run(self, *args)

    return named


for _method in ("_residual", "_spatial", "_temporal", "_norm", "_conv", "_dense"):
    setattr(_NamedLayers, _method, _named(_method))


def torch_profile(run) -> collections.Counter:
    """Returns the nanoseconds of STEPS calls by kind of layer."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        for _ in range(STEPS):
            run()
    events = sorted(recorded.events(), key=lambda event: event.time_range.start)
    # A node of the backward pass has the sequence number of the last forward operation with it.
    layers = {}
    for event in events:
        layer = _enclosing(event, _LAYER)
        if layer and event.sequence_nr >= 0:
            layers[event.sequence_nr] = layer.name
    totals = collections.Counter()
    for event in events:
        layer, backward = _enclosing(event, _LAYER), _enclosing(event, _BACKWARD)
        name = layer.name if layer else layers.get(backward.sequence_nr, "") if backward else ""
        totals[kind_of(name.removeprefix(_LAYER), _KINDS)] += 1e3 * event.self_cpu_time_total
    return totals


def _enclosing(event, prefix: str):
    """Returns the event, or the innermost one around it, whose name has the prefix, or None."""
    while event is not None and not event.name.startswith(prefix):
        event = event.cpu_parent
    return event


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    flags = parser.parse_args()
    use_all_cores(flags.batch)
    config = small_config(flags.resolution, flags.batch)

    params = flatten_dict(jax.device_get(measuring.nonzero_params(config)), sep="/")
    inputs = map(torch.tensor, make_inputs(config, flags.batch))
    theirs = torch_steps(config, _NamedLayers(config.model, params), *inputs).training_step
    ours = measuring.measured_step(config, "train")
    profiles = {
        "vdm": (ours.run, lambda run: profile(run, ours.executable, _KINDS), jax.device_count()),
        "pytorch": (theirs, torch_profile, 1),
    }
    seconds = {}
    for name, (run, profile_of, devices) in profiles.items():
        run()
        times = []
        totals = profile_of(lambda run=run, times=times: times.append(measuring.seconds(run)))
        seconds[name] = {kind: totals[kind] * 1e-9 / STEPS / devices for kind in _KINDS}
        seconds[name]["rest"] = sum(times) / STEPS - sum(seconds[name].values())
    layers = {kind: {name: seconds[name][kind] for name in profiles} for kind in (*_KINDS, "rest")}
    result = {"videos": flags.batch, "layers": layers}
    layout = f"{flags.resolution}x{flags.resolution}"
    measuring.write_result(f"speed_by_layer_{layout}", result, "flax", "torch")


if __name__ == "__main__":
    main()
