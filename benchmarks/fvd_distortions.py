"""FVD of real clips from the same clips made worse, five ways, at rising strengths.

    python benchmarks/fvd_distortions.py --clips=PATH [--videos=64]

PATH is what `python -m vdm.metrics` reads, or an .npz with `frames` uint8 [n, height, width, 3],
all clips end to end, and `lengths`, from which windows of 16 frames are taken. Writes
benchmarks/results/fvd_distortions.json and docs/images/fvd_distortions.png.
Needs `pip install -e ".[metrics,docs]"`. Takes half an hour on two cores.
"""

import argparse
import io
import json
import pathlib
import platform

import av
import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageFilter

from vdm.metrics.features import make_extractor
from vdm.metrics.measure import compare, summarize
from vdm.metrics.protocols import PROTOCOLS
from vdm.metrics.videos import open_videos

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/fvd_distortions.json"
FIGURE = ROOT / "docs/images/fvd_distortions.png"
FRAMES, BATCH_SIZE = 16, 4


def noise(video, deviation, rng):
    noisy = video + rng.normal(0, deviation, video.shape)
    return np.clip(noisy.round(), 0, 255).astype(np.uint8)


def blur(video, radius, rng):
    blurred = [Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)) for frame in video]
    return np.stack([np.asarray(frame) for frame in blurred])


def shuffle(video, count, rng):
    """Puts `count` of the frames, chosen at random, in another order, none in its own place."""
    chosen = rng.choice(len(video), count, replace=False)
    out = video.copy()
    out[chosen] = video[np.roll(chosen, 1)]
    return out


def freeze(video, count, rng):
    """Shows each of the first, the count-th, the 2 count-th frame `count` times."""
    return video[np.arange(len(video)) // count * count]


def recompress(video, quantizer, rng):
    """MPEG-4 at a fixed quantizer, 1 to 31."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = quantizer
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


DISTORTIONS = {
    "noise": (noise, "deviation, of 255", (4, 8, 16, 32)),
    "blur": (blur, "radius, pixels", (0.5, 1, 2, 4)),
    "frame shuffling": (shuffle, "frames moved, of 16", (2, 4, 8, 16)),
    "frame freezing": (freeze, "frames shown alike", (2, 4, 8, 16)),
    "recompression": (recompress, "MPEG-4 quantizer", (4, 8, 16, 31)),
}


def load_windows(path, count):
    """Windows of 16 frames, spread evenly over all clips."""
    if path.suffix == ".npz" and "lengths" in np.load(path):
        archive = np.load(path)
        ends = np.cumsum(archive["lengths"])
        starts = [
            start
            for end, length in zip(ends, archive["lengths"], strict=True)
            for start in range(end - length, end - FRAMES + 1)
        ]
        chosen = np.linspace(0, len(starts) - 1, count).round().astype(int)
        frames = archive["frames"]
        return np.stack([frames[starts[i] : starts[i] + FRAMES] for i in chosen])
    videos = [video for video, _ in zip(open_videos(path, FRAMES), range(count), strict=False)]
    return np.stack(videos)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=pathlib.Path, required=True)
    parser.add_argument("--videos", type=int, default=64)
    flags = parser.parse_args()
    protocol = PROTOCOLS["fvd"]
    extractors = {"i3d": make_extractor("i3d")}
    real = load_windows(flags.clips, flags.videos)

    def summary_of(videos):
        return summarize(iter(videos), len(videos), protocol, extractors, batch_size=BATCH_SIZE)

    truth = summary_of(real)
    same = compare(truth, summary_of(real), protocol)["fvd"]
    curves = {}
    for name, (distort, unit, strengths) in DISTORTIONS.items():
        values = [same]
        for strength in strengths:
            rng = np.random.default_rng(0)
            worse = np.stack([distort(video, strength, rng) for video in real])
            values.append(compare(truth, summary_of(worse), protocol)["fvd"])
            print(f"{name} {strength}: FVD {values[-1]:.2f}", flush=True)
        curves[name] = {"unit": unit, "strengths": [0, *strengths], "fvd": values}
    result = {
        "command": f"python benchmarks/fvd_distortions.py --clips={flags.clips.name}",
        "hardware": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "protocol": protocol.to_dict(),
        "videos": len(real),
        "fvd_of_the_same": same,
        "curves": curves,
        "grows_monotonically": {
            name: bool((np.diff(curve["fvd"]) > 0).all()) for name, curve in curves.items()
        },
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    draw(curves)
    print(json.dumps(result["grows_monotonically"], indent=2))


def draw(curves):
    figure, axes = plt.subplots(1, len(curves), figsize=(13, 2.8), constrained_layout=True)
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        places = range(len(curve["strengths"]))
        axis.plot(places, curve["fvd"], marker="o", color="tab:blue")
        axis.set_xticks(places, [f"{strength:g}" for strength in curve["strengths"]])
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(curve["unit"], fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("FVD")
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
