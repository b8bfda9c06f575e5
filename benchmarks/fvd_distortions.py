"""FVD between real clips and distorted copies: five distortions at increasing strengths.

    pip install -e ".[metrics,docs]"
    python benchmarks/fvd_distortions.py --clips=PATH [--videos=64]

PATH is any input of `python -m vdm.metrics`, or an .npz file with two arrays: `frames`, the
concatenated clips as uint8 [n, height, width, 3], and `lengths`, the number of frames of each clip.
The benchmark takes windows of 16 frames from these clips.

Prints and writes benchmarks/results/fvd_distortions.json, and draws
docs/images/fvd_distortions.png. Takes half an hour on two cores.
"""

import argparse
import io
import itertools
import pathlib

import av
import matplotlib.pyplot as plt
import numpy as np
from measuring import IMAGES, write_result
from PIL import Image, ImageFilter

from vdm.metrics.features import make_extractor
from vdm.metrics.measure import compare, summarize
from vdm.metrics.protocols import PROTOCOLS
from vdm.video.video_sets import open_videos

FRAMES, BATCH_SIZE = 16, 4


def noise(video, deviation, rng):
    noisy = video + rng.normal(0, deviation, video.shape)
    return np.clip(noisy.round(), 0, 255).astype(np.uint8)


def blur(video, radius, rng):
    blurred = [Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)) for frame in video]
    return np.stack([np.asarray(frame) for frame in blurred])


def shuffle(video, count, rng):
    """Permutes `count` random frames cyclically, so that each of them moves."""
    chosen = rng.choice(len(video), count, replace=False)
    out = video.copy()
    out[chosen] = video[np.roll(chosen, 1)]
    return out


def freeze(video, count, rng):
    """Repeats every `count`-th frame `count` times."""
    return video[np.arange(len(video)) // count * count]


def recompress(video, quantizer, rng):
    """Encodes as MPEG-4 at a fixed quantizer, 1 to 31, and decodes."""
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
    "frame freezing": (freeze, "repeats of a frame", (2, 4, 8, 16)),
    "recompression": (recompress, "MPEG-4 quantizer", (4, 8, 16, 31)),
}


def load_windows(path, count):
    """Returns windows of 16 frames, evenly spaced over all clips."""
    if path.suffix == ".npz" and "lengths" in np.load(path):
        frames, lengths = (np.load(path)[name] for name in ("frames", "lengths"))
        clips = zip(np.cumsum(lengths), lengths, strict=True)
        starts = np.concatenate([np.arange(end - n, end - FRAMES + 1) for end, n in clips])
        chosen = starts[np.linspace(0, len(starts) - 1, count).round().astype(int)]
        return np.stack([frames[start : start + FRAMES] for start in chosen])
    return np.stack(list(itertools.islice(open_videos(path, FRAMES), count)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=pathlib.Path, required=True)
    parser.add_argument("--videos", type=int, default=64)
    flags = parser.parse_args()
    protocol = PROTOCOLS["fvd"]
    extractors = {"i3d": make_extractor("i3d")}
    real = load_windows(flags.clips, flags.videos)

    def statistics(videos):
        return summarize(iter(videos), len(videos), protocol, extractors, batch_size=BATCH_SIZE)

    reference = statistics(real)
    identical = compare(reference, statistics(real), protocol)["fvd"]
    curves = {}
    for name, (distort, unit, strengths) in DISTORTIONS.items():
        values = [identical]
        for strength in strengths:
            rng = np.random.default_rng(0)
            distorted = np.stack([distort(video, strength, rng) for video in real])
            values.append(compare(reference, statistics(distorted), protocol)["fvd"])
            print(f"{name} {strength}: FVD {values[-1]:.2f}", flush=True)
        curves[name] = {"unit": unit, "strengths": [0, *strengths], "fvd": values}
        curves[name]["grows_monotonically"] = bool((np.diff(values) > 0).all())
    result = {"protocol": protocol.to_dict(), "videos": len(real), "curves": curves}
    write_result("fvd_distortions", result | {"fvd_of_the_same": identical})
    draw(curves)


def draw(curves):
    figure, panels = plt.subplots(1, len(curves), figsize=(13, 2.8), constrained_layout=True)
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        positions = range(len(curve["strengths"]))
        axes.plot(positions, curve["fvd"], marker="o")
        axes.set_xticks(positions, [f"{strength:g}" for strength in curve["strengths"]])
        axes.set(title=name, xlabel=curve["unit"], ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("FVD")
    figure.savefig(IMAGES / "fvd_distortions.png", dpi=110)


if __name__ == "__main__":
    main()
