"""Writes docs/speed.md and its plots from the results in benchmarks/results.

    pip install -e ".[docs]"
    python benchmarks/speed_page.py

Every number of the page comes from a JSON file; tests/test_benchmarks.py renders it again and
compares. What has no file yet is 'not measured'.
"""

import json
import math

from measuring import RESULTS, ROOT

PAGE = ROOT / "docs/speed.md"
IMAGES = ROOT / "docs/images"
NOT_MEASURED = "Not measured: no such device was at hand. The command is ready:"


def load(name):
    """A result, or None where there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(header, rows):
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def spread(values, digits=2):
    """A median and its quartiles."""
    low, high = values["quartiles"]
    return f"{values['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def source(name, result):
    """The line under a table: where its numbers are from."""
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    return [
        f"`{result['command']}`; {result['hardware']}; {versions}; "
        f"[{name}.json](../benchmarks/results/{name}.json)",
        "",
    ]


def peer():
    """Beside the PyTorch peer."""
    lines = ["## Beside the PyTorch peer", "", *PEER_TEXT]
    rows, sources, differences = [], [], []
    for layout in ("small", "large"):
        for suffix, pages in (("", "no"), ("_compiled", "no"), ("_huge_pages", "yes")):
            name = f"peer_speed_{layout}{suffix}"
            result = load(name)
            if result is None:
                continue
            differences.append(result["largest_difference"])
            for step in ("training_step", "sampling_step"):
                of_step = result[step]
                rows += [
                    [
                        layout,
                        step.replace("_", " "),
                        pages,
                        other,
                        spread(of_step["vdm"]["seconds"]),
                        spread(of_step[other]["seconds"]),
                        ratio(of_step, other),
                    ]
                    for other in of_step
                    if other != "vdm"
                ]
            sources += source(name, result)
    header = ["layout", "step", "huge pages", "beside", "ours, s", "theirs, s", "ours over theirs"]
    lines += table(header, rows)
    if differences:
        lines += [
            f"Largest difference of the outputs, relative to their size: {max(differences):.1e}.",
            "",
        ]
    lines += sources
    if load("peer_speed_large_compiled_gpu") is None:
        lines += gpu_command("python benchmarks/peer_speed.py --layout=large --compile")
    return lines


def ratio(of_step, other):
    """Our time over another's: measured in turns where the other is the reference."""
    if other == "peer":
        return spread(of_step["vdm"]["time_over_reference"])
    ours, theirs = (of_step[name]["seconds"]["median"] for name in ("vdm", other))
    return f"{ours / theirs:.2f}"


def gpu_command(command):
    return [f"On a GPU. {NOT_MEASURED}", "", f"    {command}", ""]


def command_alone(command):
    """Instead of a table."""
    return ["Not measured yet:", "", f"    {command}", ""]


def network():
    """What folding of tokens gives our own network."""
    lines = ["## What it taught our own network", "", *FOLD_TEXT]
    rows, sources = [], []
    for devices in (1, 2):
        name = f"folded_dense_x{devices}"
        result = load(name)
        if result is None:
            return [*lines, *command_alone("python benchmarks/folded_dense.py")]
        *shape, features = result["layer_shape"]
        layer = f"gradients of a layer, {'x'.join(map(str, shape))} to {features}"
        for what, key in ((layer, "layer"), ("training step", "training_step")):
            of_what = result[key]
            milliseconds = [
                f"{1e3 * of_what[kind]['seconds']['median']:.1f}" for kind in ("unfolded", "folded")
            ]
            change = spread(of_what["folded"]["time_over_reference"])
            rows.append([what, devices, *milliseconds, change])
        sources += source(name, result)
    header = ["what", "devices", "unfolded, ms", "folded, ms", "folded over unfolded"]
    return [*lines, *table(header, rows), *FOLDED_TEXT, *sources]


def utilisation():
    lines = ["## Utilisation", ""]
    result = load("utilisation_gpu")
    if result is None:
        command = "python benchmarks/utilisation.py --torch"
        lines += [*gpu_command(command), *UTILISATION_TEXT]
        tried = load("utilisation_cpu")
        if tried:
            lines += ["It was tried on a CPU, at small size:", "", f"    {tried['command']}", ""]
        return lines
    rows = [
        [
            name,
            row["batch"],
            f"{row['times']['vdm']['seconds']['median']:.3f}",
            f"{row['utilisation']:.1%}",
            f"{row['times']['vdm']['time_over_reference']['median']:.2f}"
            if "torch.compile" in row["times"]
            else "",
        ]
        for name, of_config in result["rows"].items()
        for row in of_config
    ]
    header = ["configuration", "videos", "s", "utilisation", "over torch.compile"]
    return lines + table(header, rows) + source("utilisation_gpu", result)


def where_time_goes():
    name = "where_time_goes_moving_digits"
    result = load(name)
    lines = ["## Where the time of a training step goes", ""]
    if result is None:
        return [*lines, *command_alone("python benchmarks/where_time_goes.py")]
    rows = [[kind, f"{share:.0%}"] for kind, share in result["share"].items()]
    return [
        *lines,
        f"`configs/moving_digits.py`, {result['batch']} videos.",
        "",
        *table(["layers", "share"], rows),
        *source(name, result),
        *LARGEST_TEXT,
    ]


def first_step():
    result = load("first_step")
    if result is None:
        return ["## Time to the first step", "", *command_alone("python benchmarks/first_step.py")]
    kinds = list(result["seconds"]["train"])
    rows = [
        [{"train": "first training step", "sample": "first 16 samples"}[mode]]
        + [spread(of_mode[kind], 1) for kind in kinds]
        for mode, of_mode in result["seconds"].items()
    ]
    return [
        "## Time to the first step",
        "",
        *FIRST_STEP_TEXT,
        *table(["seconds to", *kinds], rows),
        *source("first_step", result),
    ]


def quality():
    result = load("quality_by_steps")
    if result is None:
        return [
            "## Videos a minute against quality",
            "",
            *command_alone("python benchmarks/quality_by_steps.py"),
        ]
    rows = [
        [
            row["sampler"],
            row["steps"],
            f"{row['videos_per_minute']:.0f}",
            f"{row['persistence']:.3f} +- {row['persistence_standard_error']:.3f}",
            f"{row['as_asked']:.3f}",
        ]
        for row in result["rows"]
    ]
    real = result["rows"][0]["persistence_of_real_videos"]
    return [
        "## Videos a minute against quality",
        "",
        *QUALITY_TEXT,
        f"{result['rows'][0]['videos']} videos a row; real videos have {real:.3f}.",
        "",
        "![Persistence against videos a minute](images/quality_by_steps.png)",
        "",
        *table(["sampler", "steps", "videos a minute", "persistence", "as asked"], rows),
        *source("quality_by_steps", result),
    ]


def scaling():
    result = load("scaling")
    if result is None:
        return ["## How cost grows", "", *command_alone("python benchmarks/scaling.py")]
    lines = [
        "## How cost grows",
        "",
        f"A training step of the paper's shape with {result['base_channels']} channels at first, "
        f"{result['dtype']}; one size is varied at a time.",
        "",
        "![Seconds against size](images/scaling.png)",
        "",
    ]
    sizes = ("frames", "resolution", "batch")
    measured = {  # the smallest size once
        tuple(row[size] for size in sizes): row for name in sizes for row in result[name]["rows"]
    }
    rows = [
        [*size, spread(row["seconds"]), f"{row['planned_bytes'] / 1e6:.0f}"]
        for size, row in measured.items()
    ]
    lines += table(["frames", "resolution", "videos", "s", "planned memory, MB"], rows)
    exponents = "; ".join(f"{name} {result[name]['exponent']:.2f}" for name in sizes)
    return [
        *lines,
        f"Fitted exponents: {exponents}.",
        "",
        *SCALING_TEXT,
        *source("scaling", result),
    ]


def guidance():
    return [
        "## Guided over unguided",
        "",
        "`python benchmarks/guidance_cost.py` measures it, with each form of rematerialisation; "
        "[guidance_cost.json](../benchmarks/results/guidance_cost.json), and "
        "[conditional_sampling.md](conditional_sampling.md) has the table.",
        "",
    ]


PEER_TEXT = [
    "[lucidrains' video-diffusion-pytorch](https://github.com/lucidrains/video-diffusion-pytorch)",
    "0.7.0 is what most people use. `benchmarks/peer` has its layers in Flax, with the same",
    "parameters, and loads its weights; each run compares the outputs before it times anything.",
    "Small: 32 channels at first, multipliers 1, 2, 4, four videos of 16x32x32. Large: 64",
    "channels, multipliers 1, 2, 4, 8, one video of 16x64x64. The training step has its loss,",
    "gradients and Adam; the sampling step is its `p_sample`. Both have all cores: PyTorch as",
    "threads, JAX as devices, over which the videos are split or, of one video, the frames. All is",
    "float32. Medians, with quartiles in brackets; the last column is the median of the ratios of",
    "neighbours, but beside the compiled peer the ratio of medians. The peer through torch.compile",
    "is a run of its own, in which all three take turns.",
    "",
    "Huge pages are `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, for both sides: PyTorch allocates",
    "every result anew, and without them pays for page faults.",
    "",
    "What makes the difference: attention works on a part of the tokens at a time, keeps its input",
    "alone for the backward pass and computes the rest again there; linear attention never makes",
    "its values, as k^T v = (k^T x) W_v; the changes of resolution are 2x2 convolutions of",
    "patches, whose gradients multiply no zeros; norms and activations are fused.",
    "",
]
FOLD_TEXT = [
    "A dense layer over [batch, frames, ..., channels] takes longer to differentiate on CPUs than",
    "one over [tokens, channels]: XLA transposes all tokens before it sums over two of their axes.",
    "`vdm/models/dense.py` folds them, in attention and in skips. The layer that makes query, key",
    "and value of `configs/moving_digits.py`, its share of the batch on one device, and a whole",
    "training step:",
    "",
]
FOLDED_TEXT = [
    "The layers are a small part of the step, which gains a little on one device and nothing on",
    "two.",
    "",
]
UTILISATION_TEXT = [
    "It measures the rate of a large bfloat16 matrix product on the card, a training step of each",
    "of the paper's configurations at several batches, and beside the unconditional one PyTorch's",
    "version of the same layers (`benchmarks/torch_unet.py`) through torch.compile.",
    "",
]
LARGEST_TEXT = [
    "What was done about the two largest: the gradients of convolutions, norms and softmax are",
    "written out (`vdm/models`), and dense layers fold their tokens, as above.",
    "",
]
FIRST_STEP_TEXT = [
    "From the start of Python, as a user waits for it. JAX keeps compiled programs between runs",
    "where the environment names a folder: `export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/jax`.",
    "",
]
SCALING_TEXT = [
    "Attention in space is at heights of 32, 16 and 8 pixels whatever the resolution, so at 32 it",
    "is at full resolution and at 128 two levels lower.",
    "",
]
QUALITY_TEXT = [
    "The shipped model of moving digits, told which digit to draw, without further guidance.",
    "",
]


def page() -> str:
    """The whole page."""
    sections = (
        peer,
        network,
        where_time_goes,
        utilisation,
        first_step,
        quality,
        scaling,
        guidance,
    )
    lines = [
        "# Speed",
        "",
        "Written by `python benchmarks/speed_page.py` from the files in `benchmarks/results`, each",
        "of which has the command, the hardware and the versions that made it.",
        "",
    ]
    for section in sections:
        lines += section()
    return "\n".join(lines).rstrip("\n") + "\n"


def plot_quality(plt, result):
    samplers = sorted({row["sampler"] for row in result["rows"]})
    lines = math.ceil(len(samplers) / 2)
    figure, panels = plt.subplots(
        lines, 2, figsize=(8, 3 * lines), sharex=True, sharey=True, squeeze=False
    )
    for axes, sampler in zip(panels.flat, samplers, strict=False):  # an odd one leaves a place
        rows = [row for row in result["rows"] if row["sampler"] == sampler]
        speed, quality_of = ([r[k] for r in rows] for k in ("videos_per_minute", "persistence"))
        errors = [row["persistence_standard_error"] for row in rows]
        axes.errorbar(speed, quality_of, errors, marker="o", capsize=2)
        for row, error in zip(rows, errors, strict=True):
            top = row["videos_per_minute"], row["persistence"] + error
            axes.annotate(row["steps"], top, ha="center", textcoords="offset points", xytext=(0, 3))
        real = result["rows"][0]["persistence_of_real_videos"]
        axes.axhline(real, color="gray", ls=":", label="real videos")
        axes.set(xscale="log", ylim=(None, 1.02), title=f"{sampler}, by its steps")
    panels[0, 0].legend(loc="lower left")
    for axes in panels[-1]:
        axes.set_xlabel("videos a minute")
    for axes in panels[:, 0]:
        axes.set_ylabel("persistence")
    return figure


def plot_scaling(plt, result):
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in ("frames", "resolution", "batch"):
        rows = result[name]["rows"]
        axes.plot(
            [row[name] / rows[0][name] for row in rows],
            [row["seconds"]["median"] for row in rows],
            marker="o",
            label=f"{name}, exponent {result[name]['exponent']:.2f}",
        )
    axes.set(xlabel="size over the smallest", ylabel="seconds a step")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.legend()
    return figure


def main():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name, plot in (("quality_by_steps", plot_quality), ("scaling", plot_scaling)):
        result = load(name)
        if result:
            plot(plt, result).savefig(IMAGES / f"{name}.png", dpi=120, bbox_inches="tight")
    PAGE.write_text(page())
    print(PAGE)


if __name__ == "__main__":
    main()
