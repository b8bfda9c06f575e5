"""FVD, FID and IS of any two sets of videos: python -m vdm.metrics --real=PATH --generated=PATH."""

import argparse
import dataclasses
import json
import math
import os
import sys
from pathlib import Path

from vdm.metrics.protocols import PAIRED, PROTOCOLS, Protocol
from vdm.video.video_sets import VideoSet, open_videos


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m vdm.metrics", description=__doc__)
    kinds = (
        "video file, .npz file, or folder, searched to any depth, of video files, GIFs, folders "
        "of images and .npz files with `video` uint8 [n, frames, height, width, channels]"
    )
    parser.add_argument("--real", type=Path, required=True, help=f"real videos: {kinds}")
    parser.add_argument("--generated", type=Path, required=True, help="generated videos, as --real")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="fvd", help="default: %(default)s")
    parser.add_argument("--output", type=Path, help=".json file for the result")
    parser.add_argument(
        "--frames",
        type=int,
        default=0,
        help="frames per clip, if the protocol does not fix them; default: number of frames of the "
        "first real video",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=0,
        help="height and width in pixels, to which the central square is resized by area, as in "
        "training; default: no crop and no resize",
    )
    parser.add_argument(
        "--frame_rate",
        type=float,
        default=0.0,
        help="frames per second at which videos are sampled by presentation time, before "
        "--frameskip; default: frames as stored",
    )
    parser.add_argument(
        "--frameskip", type=int, default=1, help="use every k-th frame; default: %(default)s"
    )
    parser.add_argument(
        "--clips_per_video",
        type=int,
        default=1,
        help="evenly spaced clips per video; default: %(default)s, the first frames",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="default: %(default)s")
    return parser.parse_args(argv)


def run(flags: argparse.Namespace) -> dict:
    """Measures the videos of the command line; returns the JSON-serializable result.

    Raises:
      ValueError, OSError: a file or a flag, which the message names, is invalid.
    """
    protocol = PROTOCOLS[flags.protocol]
    if "nearest" in protocol.metrics:
        raise ValueError(
            f"the protocol {protocol.name} needs training videos: it is for --mode=eval of a model"
        )
    minima = {"batch_size": 1, "frames": 0, "resolution": 0, "frameskip": 1, "clips_per_video": 1}
    for name, minimum in minima.items():
        if (value := getattr(flags, name)) < minimum:
            raise ValueError(f"--{name} is {value}, and must be at least {minimum}")
    if flags.frames and protocol.frames:
        raise ValueError(
            f"--frames is {flags.frames}, and must not be set: the protocol {protocol.name} has "
            f"{protocol.frames}"
        )
    frames = protocol.frames or flags.frames
    options = {
        "frame_rate": flags.frame_rate,
        "frameskip": flags.frameskip,
        "clips_per_video": flags.clips_per_video,
        "resolution": flags.resolution,
    }
    real = open_videos(flags.real.expanduser(), frames, **options)
    generated = open_videos(flags.generated.expanduser(), real.frames, **options)
    for videos in (real, generated):
        _check(videos, protocol)
    if generated.size != real.size:
        raise ValueError(
            f"{flags.generated} has videos of {generated.size[0]} x {generated.size[1]} pixels "
            f"(height x width), and {flags.real} of {real.size[0]} x {real.size[1]}"
        )
    if flags.output and not flags.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {flags.output.absolute().parent}")

    import jax

    from vdm.metrics.features import make_extractors, measurable
    from vdm.metrics.measure import compare, summarize, warnings_of

    # XLA's convolutions use little more than one core, so on CPU each core is a device.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", math.gcd(os.cpu_count() or 1, flags.batch_size))
    extractors = make_extractors(protocol)
    protocol, missing = measurable(protocol, extractors)
    for sentence in missing:
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    for extractor in extractors.values():
        if real.frames < extractor.min_frames:
            raise ValueError(
                f"{flags.real} has videos of {real.frames} frames, and {extractor.name} needs "
                f"{extractor.min_frames}"
            )
    protocol = _paired(protocol, real, generated)
    summaries = {}
    for name, videos in (("real", real), ("generated", generated)):
        print(f"{name}: {len(videos)} videos of {videos.path}", file=sys.stderr, flush=True)
        pairs = (video for video in real for _ in range(protocol.samples_per_given))
        summaries[name] = summarize(
            videos,
            len(videos),
            protocol,
            extractors,
            references=pairs if videos is generated else None,
            batch_size=flags.batch_size,
        )
    numbers = compare(summaries["real"], summaries["generated"], protocol)
    measured = dataclasses.replace(
        protocol,
        frames=real.frames,
        frame_rate=flags.frame_rate,
        frameskip=flags.frameskip,
    )
    return {
        **numbers,
        "warnings": [
            *missing,
            *real.warnings,
            *generated.warnings,
            *warnings_of(summaries["real"], summaries["generated"], protocol),
        ],
        "protocol": measured.to_dict(),
        "real": _described(real),
        "generated": _described(generated),
        "networks": {name: {"weights_sha256": e.digest} for name, e in extractors.items()},
    }


def _paired(protocol: Protocol, real: VideoSet, generated: VideoSet) -> Protocol:
    """Returns a protocol with the number of generated videos per real one, for metrics of pairs."""
    if not any(metric in PAIRED for metric in protocol.metrics):
        return protocol
    samples, rest = divmod(len(generated), len(real))
    if rest or not samples:
        raise ValueError(
            f"{generated.path} has {len(generated)} videos, and must have a multiple of "
            f"{len(real)}, the number of videos of {real.path}: those of one real video follow "
            "each other"
        )
    return dataclasses.replace(protocol, samples_per_given=samples)


def _check(videos: VideoSet, protocol: Protocol) -> None:
    if len(videos) < 2 and any(not metric.startswith("is_") for metric in protocol.metrics):
        raise ValueError(f"{videos.path} has {len(videos)} video, and a covariance needs 2")
    side = protocol.resolution
    if side and videos.size != (side, side):
        raise ValueError(
            f"{videos.path} has videos of {videos.size[0]} x {videos.size[1]} pixels (height x "
            f"width), and the protocol {protocol.name} has {side} x {side}"
        )


def _described(videos: VideoSet) -> dict:
    return {
        "path": str(videos.path),
        "videos": len(videos.videos),
        "clips_per_video": videos.clips_per_video,
        "frames": videos.frames,
        "height": videos.size[0],
        "width": videos.size[1],
    }


def main(argv: list[str] | None = None) -> None:
    """Prints the result as JSON, and writes it to --output."""
    flags = parse(argv)
    try:
        result = run(flags)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n")
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    main()
