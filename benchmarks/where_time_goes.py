"""Where the time of a training step goes: convolution, norm, attention and the rest.

    python benchmarks/where_time_goes.py [--config=FILE] [--batch=N]

Profiles three steps and sums the time of the compiled operations by the layer that each came from,
which the compiler keeps in their names. A fused operation counts for the layer of its last part.

Prints and writes benchmarks/results/where_time_goes_CONFIG.json. A minute on one core for
configs/moving_digits.py.
"""

import argparse
import collections
import glob
import pathlib
import re
import tempfile

import jax
from measuring import ROOT, load_config, training_step, write_result

STEPS = 3
# The layer of an operation is the last of these in its name: an attention has a norm of its own.
_KINDS = {
    "norm": r"norm\w*",
    "convolution": r"conv(?:_\w+)?|downsample_\d|upsample_\d",
    "attention": r"(?:spatial|temporal)_attention|qkv|out",
    "skip and embedding": r"skip|embedding|conditioning",
}


def kind_of(name: str) -> str:
    """The kind of layer that an operation's name, a path of modules, ends in."""
    for part in reversed(name.split("/")):
        part = re.sub(r"^(?:\w+\()*|\)*$", "", part)
        for kind, pattern in _KINDS.items():
            if re.fullmatch(pattern, part):
                return kind
    return "rest"


def names_of(compiled_text: str) -> dict[str, str]:
    """{operation: path of modules} of a compiled program."""
    pattern = r"^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\""
    return dict(re.findall(pattern, compiled_text, re.MULTILINE))


def profile(run, names) -> dict[str, float]:
    """Seconds by kind of layer of some calls."""
    totals = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                run()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        for plane in jax.profiler.ProfileData.from_file(path).planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in names:
                        totals[kind_of(names[event.name])] += event.duration_ns / 1e9
    return totals


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/moving_digits.py"))
    parser.add_argument("--batch", type=int, default=0, help="0: that of the configuration")
    flags = parser.parse_args()
    config = load_config(flags.config)
    config.training.batch_size = flags.batch or config.training.batch_size
    run, _, _, executable = training_step(config)
    run()
    totals = profile(run, names_of(executable.as_text()))
    share = {kind: total / sum(totals.values()) for kind, total in totals.most_common()}
    stem = pathlib.Path(flags.config).stem
    write_result(
        f"where_time_goes_{stem}",
        {"batch": config.training.batch_size, "share": share},
        "flax",
    )


if __name__ == "__main__":
    main()
