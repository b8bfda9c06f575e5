"""Profile of a training step by kind of layer: convolution, norm, attention and other layers.

    python benchmarks/where_time_goes.py [--config=FILE] [--batch=N]

Profiles three steps, and sums the time of the compiled operations by layer. The compiler keeps the
name of the layer in the name of an operation. A fused operation counts for the layer of its last
part.

Prints and writes benchmarks/results/where_time_goes_CONFIG.json. Takes a minute on one core for
configs/moving_digits.py.
"""

import argparse
import collections
import glob
import pathlib
import re
import tempfile

import jax
from measuring import ROOT, load_config, measured_step, write_result

STEPS = 3
# An operation of a compiled program and its path of modules.
_NAME = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\"", re.M)
# The time of these operations includes that of the operations in their bodies.
_CONTROL_FLOW = ("while", "conditional", "call")
# The last match in an operation's name counts: an attention layer contains a norm.
_KINDS = {
    "norm": r"norm\w*",
    "convolution": r"conv(?:_\w+)?|downsample_\d|upsample_\d",
    "attention": r"(?:spatial|temporal)_attention|qkv|out",
    "skip and embedding": r"skip|embedding|conditioning",
}


def kind_of(name: str) -> str:
    """Returns the kind of layer from an operation's name, a path of modules."""
    for part in reversed(name.split("/")):
        part = re.sub(r"^(?:\w+\()*|\)*$", "", part)
        for kind, pattern in _KINDS.items():
            if re.fullmatch(pattern, part):
                return kind
    return "rest"


def profile(run, names) -> collections.Counter:
    """Returns the nanoseconds by kind of layer."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                run()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = jax.profiler.ProfileData.from_file(path).planes
    totals = collections.Counter()
    for event in (event for plane in planes for line in plane.lines for event in line.events):
        if event.name in names and not event.name.startswith(_CONTROL_FLOW):
            totals[kind_of(names[event.name])] += event.duration_ns
    return totals


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    parser.add_argument("--batch", type=int, default=0, help="0: the configuration's")
    flags = parser.parse_args()
    config = load_config(flags.config)
    config.training.batch_size = flags.batch or config.training.batch_size
    step = measured_step(config, "train")
    step.run()
    totals = profile(step.run, dict(_NAME.findall(step.executable.as_text())))
    share = {kind: total / sum(totals.values()) for kind, total in totals.most_common()}
    stem = pathlib.Path(flags.config).stem
    result = {"batch": config.training.batch_size, "share": share}
    write_result(f"where_time_goes_{stem}", result, "flax")


if __name__ == "__main__":
    main()
