"""FVD, FID and IS of any two sets of videos: python -m vdm.metrics --real=PATH --generated=PATH."""

import argparse
import json
import math
import os
import sys
from functools import partial

from vdm.files import defined, local_path, write_text
from vdm.metrics.protocols import PROTOCOLS
from vdm.metrics.sets import measure_sets, open_sets


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m vdm.metrics", description=__doc__)
    kinds = (
        "video file, .npz file, or folder, searched to any depth, of video files, GIFs, folders "
        "of images and .npz files with `video` uint8 [n, frames, height, width, channels]"
    )
    parser.add_argument("--real", required=True, help=f"real videos: {kinds}")
    parser.add_argument("--generated", required=True, help="generated videos, as --real")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="fvd", help="default: %(default)s")
    parser.add_argument("--output", type=local_path, help=".json file for the result")
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
    if flags.output and not flags.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {flags.output.absolute().parent}")
    if flags.output and flags.output.is_dir():
        raise IsADirectoryError(f"output is {flags.output}, and must be a file, not a folder")
    if flags.batch_size < 1:
        raise ValueError(f"batch_size is {flags.batch_size}, and must be at least 1")

    import jax

    from vdm.parallel.processes import check_devices

    # XLA's convolutions use little more than one core, so on CPU each core is a device.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", math.gcd(os.cpu_count() or 1, flags.batch_size))
    check_devices()
    real, generated = open_sets(
        flags.real,
        flags.generated,
        flags.protocol,
        frames=flags.frames,
        resolution=flags.resolution,
        frame_rate=flags.frame_rate,
        frameskip=flags.frameskip,
        clips_per_video=flags.clips_per_video,
    )
    log = partial(print, file=sys.stderr, flush=True)
    return measure_sets(real, generated, flags.protocol, batch_size=flags.batch_size, log=log)


def main(argv: list[str] | None = None) -> None:
    """Prints the result as JSON, and writes it to --output."""
    flags = parse(argv)
    try:
        result = run(flags)
        text = json.dumps(defined(result), indent=2)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from vdm.parallel.processes import first_line, is_out_of_memory  # imports JAX

        if not is_out_of_memory(error):
            raise
        hint = "a smaller --batch_size, --resolution or --frames needs less"
        print(f"error: out of memory: {first_line(error)}; {hint}", file=sys.stderr)
        sys.exit(1)
    # A failure of one does not prevent the other.
    failure = ""
    try:
        if flags.output and flags.output.is_symlink():  # such as /dev/stdout, to be kept
            flags.output.write_text(text + "\n")
        elif flags.output:
            write_text(flags.output, text + "\n")
    except OSError as error:
        failure = f"error: {error}"
        if error.strerror:
            failure = f"error: {flags.output} cannot be written: {error.strerror}"
    try:
        print(text, flush=True)
    except OSError as error:  # closed, as by `| head`; flushing at exit would fail again
        failure = failure or f"error: the result cannot be printed: {error.strerror}"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if failure:
        sys.exit(failure)


if __name__ == "__main__":
    main()
