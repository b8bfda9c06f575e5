"""Profile of a training step by kind of layer: convolution, norm, attention and other layers.

    python benchmarks/where_time_goes.py [--config=FILE] [--batch=N]

Profiles three steps, and sums the time of the compiled operations by layer. The compiler keeps the
name of the layer in the name of an operation. A fused operation counts for the layer of its last
part. An operation that lost its name counts for the layer that uses its result.

Prints and writes benchmarks/results/where_time_goes_CONFIG.json. Takes a minute on one core for
configs/moving_digits.py.
"""

import argparse
import collections
import glob
import pathlib
import re
import tempfile
from collections.abc import Mapping

import jax
from measuring import ROOT, load_config, measured_step, write_result

STEPS = 3
# An operation of a compiled program: its name, and its type, operands and attributes.
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*)$", re.M)
_PATH = re.compile(r'op_name="([^"]*)"')
# The time of these operations includes that of the operations in their bodies.
_CONTROL_FLOW = ("while", "conditional", "call")
# The last match in an operation's name counts: an attention layer contains a norm.
_KINDS = {
    "norm": r"norm\w*",
    "convolution": r"conv(?:_\w+)?|downsample_\d|upsample_\d",
    "attention": r"(?:spatial|temporal)_attention|qkv|out",
    "skip and embedding": r"skip|embedding|conditioning",
}


def kind_of(name: str, kinds: Mapping[str, str] = _KINDS) -> str:
    """Returns the kind of layer from an operation's name, a path of modules.

    Args:
      name: the path, with the outermost module first.
      kinds: for each kind, a pattern of the names of its modules. The innermost module with a kind
        counts. Without one, the kind is 'rest'.
    """
    for part in reversed(name.split("/")):
        part = re.sub(r"^(?:\w+\()*|\)*$", "", part)
        for kind, pattern in kinds.items():
            if re.fullmatch(pattern, part):
                return kind
    return "rest"


def paths_of(text: str) -> dict[str, str]:
    """Returns the path of modules of each operation of a compiled program.

    An operation without a path has that of the nearest operation that uses its result.
    """
    operations = dict(_OPERATION.findall(text))
    paths = {name: path[1] for name, rest in operations.items() if (path := _PATH.search(rest))}
    users = collections.defaultdict(list)
    for name, rest in operations.items():
        for operand in re.findall(r"%([\w.-]+)", rest):
            users[operand].append(name)
    nearest = dict(paths)
    for name in operations.keys() - paths.keys():
        seen, queue = {name}, collections.deque([name])
        while queue and name not in nearest:
            for user in users[queue.popleft()]:
                if user in paths:
                    nearest.setdefault(name, paths[user])
                elif user not in seen:
                    seen.add(user)
                    queue.append(user)
    return nearest


def profile(run, executable, kinds: Mapping[str, str] = _KINDS) -> collections.Counter:
    """Returns the nanoseconds of STEPS calls by kind of layer, summed over the devices."""
    paths = paths_of(executable.as_text())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                run()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = jax.profiler.ProfileData.from_file(path).planes
    totals = collections.Counter()
    for event in (event for plane in planes for line in plane.lines for event in line.events):
        if event.name in paths and not event.name.startswith(_CONTROL_FLOW):
            totals[kind_of(paths[event.name], kinds)] += event.duration_ns
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
    totals = profile(step.run, step.executable)
    share = {kind: total / sum(totals.values()) for kind, total in totals.most_common()}
    stem = pathlib.Path(flags.config).stem
    result = {"batch": config.training.batch_size, "share": share}
    write_result(f"where_time_goes_{stem}", result, "flax")


if __name__ == "__main__":
    main()
