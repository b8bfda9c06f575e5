"""FVD, KVD and FID between two sets of videos: arrays, .npz files, video files or folders."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np

from vdm.metrics.protocols import PAIRED, PROTOCOLS, Protocol
from vdm.video.video_sets import Videos, VideoSet, open_videos


def fvd(real: Videos, generated: Videos, **options: Any) -> float:
    """Returns the Frechet Video Distance (Unterthiner et al. 2018, arXiv 1812.01717).

    For the arguments, the options and the errors, see `compare_sets`. Conditions that affect the
    number, such as few videos, are Python warnings.
    """
    return _number("fvd", real, generated, options)


def kvd(real: Videos, generated: Videos, **options: Any) -> float:
    """Returns the Kernel Video Distance, the unbiased MMD of `kernel_distance` on FVD's features.

    For the arguments, the options and the errors, see `compare_sets`.
    """
    return _number("kvd", real, generated, options)


def fid(real: Videos, generated: Videos, *, view: str = "avg", **options: Any) -> float:
    """Returns the Frechet Inception Distance of frames.

    Args:
      real: real videos.
      generated: generated videos.
      view: 'avg' for features averaged over all frames (default); 'first' for the first frames.
      **options: see `compare_sets`.

    Raises:
      ValueError, OSError: an unknown view, or as in `compare_sets`.
    """
    if view not in ("avg", "first"):
        raise ValueError(f"view is {view!r}, and must be one of 'avg', 'first'")
    return _number("fid", real, generated, options, metric=f"fid_{view}")


def _number(
    protocol: str, real: Videos, generated: Videos, options: dict, *, metric: str = ""
) -> float:
    if "protocol" in options:
        raise ValueError(
            f"protocol is {options['protocol']!r}, and must not be set: "
            f"this function has the protocol {protocol!r}, and vdm.metrics.compare_sets takes it "
            "as an argument"
        )
    result = compare_sets(real, generated, protocol=protocol, **options)
    for sentence in result["warnings"]:
        warnings.warn(sentence, stacklevel=3)
    return result[metric or protocol]


def compare_sets(
    real: Videos, generated: Videos, *, protocol: str = "fvd", batch_size: int = 8, **clips: Any
) -> dict:
    """Compares two sets of videos by a protocol; returns what `python -m vdm.metrics` prints.

    Each set is an array uint8 [n, frames, height, width, channels] with 1 or 3 channels; or a list
    of arrays [frames, height, width, channels] of any sizes; or the path of a video file, an .npz
    file, or a folder of these.

    Args:
      real: real videos.
      generated: generated videos.
      protocol: name in `vdm.metrics.protocols.PROTOCOLS`.
      batch_size: videos per call of a network; bounds memory.
      **clips: `open_sets`'s `resolution`, `frames`, `frame_rate`, `frameskip`, `clips_per_video`.

    Returns:
      {metric: value}, with standard errors; 'warnings', a list of sentences; and descriptions of
      'protocol', 'real', 'generated' and 'networks'.

    Raises:
      ValueError, OSError: a set or an option, which the message names, is invalid.
    """
    return measure_sets(
        *open_sets(real, generated, protocol, **clips), protocol, batch_size=batch_size
    )


def open_sets(
    real: Videos,
    generated: Videos,
    protocol: str,
    *,
    frames: int = 0,
    resolution: int = 0,
    frame_rate: float = 0.0,
    frameskip: int = 1,
    clips_per_video: int = 1,
) -> tuple[VideoSet, VideoSet]:
    """Opens both sets of `compare_sets` and checks that they fit the protocol.

    Args:
      real: real videos.
      generated: generated videos.
      protocol: name in `vdm.metrics.protocols.PROTOCOLS`.
      frames: frames per clip, if the protocol does not fix them; 0: as in the first real video.
      resolution: height and width in pixels, to which the central square is resized by area, as in
        training; 0: no crop and no resize. Required for videos of mixed sizes.
      frame_rate: frames per second at which videos are sampled by presentation time, before
        `frameskip`; 0: frames as stored.
      frameskip: uses every k-th frame.
      clips_per_video: evenly spaced clips per video; 1: the first frames.

    Raises:
      ValueError, OSError: a set or an option, which the message names, is invalid.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, and must be one of {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[protocol]
    if "nearest" in chosen.metrics:
        raise ValueError(
            f"the protocol {protocol} needs training videos: it is for --mode=eval of a model"
        )
    _check_at_least("frames", frames, 0)
    _check_at_least("resolution", resolution, 0)
    _check_at_least("frameskip", frameskip, 1)
    _check_at_least("clips_per_video", clips_per_video, 1)
    if frames and chosen.frames:
        raise ValueError(
            f"frames is {frames}, and must not be set: the protocol {protocol} has {chosen.frames}"
        )
    options: dict[str, Any] = {
        "frame_rate": frame_rate,
        "frameskip": frameskip,
        "clips_per_video": clips_per_video,
        "resolution": resolution,
    }
    of_real = open_videos(real, chosen.frames or frames, name="real", **options)
    of_generated = open_videos(generated, of_real.frames, name="generated", **options)
    for videos in (of_real, of_generated):
        _check(videos, chosen)
    if of_generated.size != of_real.size:
        raise ValueError(
            f"{of_generated.path} has videos of {of_generated.size[0]} x {of_generated.size[1]} "
            f"pixels (height x width), and {of_real.path} of {of_real.size[0]} x "
            f"{of_real.size[1]}: resolution=N (--resolution=N) crops and resizes all"
        )
    return of_real, of_generated


def _check_at_least(name: str, value: int, minimum: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, and must be an integer")
    if value < minimum:
        raise ValueError(f"{name} is {value}, and must be at least {minimum}")


def measure_sets(
    real: VideoSet,
    generated: VideoSet,
    protocol: str,
    *,
    batch_size: int = 8,
    log: Callable[[str], None] = lambda line: None,
) -> dict:
    """Computes the result of `compare_sets` from the sets of `open_sets`.

    Args:
      real: real videos.
      generated: generated videos, of the same size and number of frames.
      protocol: name in `vdm.metrics.protocols.PROTOCOLS`.
      batch_size: videos per call of a network, at least 1.
      log: receives one line per set, and early warnings about missing weights.

    Returns:
      As `compare_sets`.

    Raises:
      FileNotFoundError: the weights of a network are missing.
      ValueError: batch_size is invalid, a network needs more frames, or the number of generated
        videos is not a multiple of that of the real videos, for PSNR and SSIM.
    """
    from vdm.metrics.features import make_extractors, measurable  # imports JAX
    from vdm.metrics.measure import compare, summarize, warnings_of

    _check_at_least("batch_size", batch_size, 1)
    extractors = make_extractors(PROTOCOLS[protocol])
    chosen, missing = measurable(PROTOCOLS[protocol], extractors)
    for sentence in missing:
        log(f"warning: {sentence}")
    for extractor in extractors.values():
        if real.frames < extractor.min_frames:
            raise ValueError(
                f"{real.path} has videos of {real.frames} frames{_frameskip_of(real)}, and "
                f"{extractor.name} needs {extractor.min_frames}"
            )
    chosen = dataclasses.replace(chosen, clips_per_video=real.clips_per_video)
    paired = any(metric in PAIRED for metric in chosen.metrics)
    if paired:
        chosen = _paired(chosen, real, generated)
    summaries = {}
    for name, videos in (("real", real), ("generated", generated)):
        others = videos.describe_left_out()
        log(f"{name}: {len(videos)} videos of {videos.path}" + (f"; {others}" if others else ""))
        is_paired = paired and videos is generated
        samples = chosen.samples_per_given
        summaries[name] = summarize(
            videos,
            len(videos),
            chosen,
            extractors,
            indices=_sample_indices(videos, samples) if is_paired else None,
            references=_references(real, samples) if is_paired else None,
            batch_size=batch_size,
        )
    numbers = compare(summaries["real"], summaries["generated"], chosen)
    measured = dataclasses.replace(
        chosen,
        frames=real.frames,
        frame_rate=real.frame_rate,
        frameskip=real.frameskip,
    )
    return {
        **numbers,
        "warnings": [
            *missing,
            *real.warnings,
            *generated.warnings,
            *warnings_of(summaries["real"], summaries["generated"], chosen),
        ],
        "protocol": measured.to_dict(),
        "real": _described(real),
        "generated": _described(generated),
        "networks": {name: {"weights_sha256": e.digest} for name, e in extractors.items()},
    }


def _paired(protocol: Protocol, real: VideoSet, generated: VideoSet) -> Protocol:
    """Sets the protocol's number of generated videos per real video, for paired metrics."""
    samples, rest = divmod(len(generated), len(real))
    if rest or not samples:
        raise ValueError(
            f"{generated.path} has {len(generated)} videos, and must have a multiple of "
            f"{len(real)}, the number of videos of {real.path}: those of one real video follow "
            "each other"
        )
    if real.clips_per_video > 1:
        _check_lengths(real, generated, samples)
    return dataclasses.replace(protocol, samples_per_given=samples)


def _check_lengths(real: VideoSet, generated: VideoSet, samples: int) -> None:
    """Raises ValueError unless samples are as long as their real videos.

    Otherwise, evenly spaced clips of a pair would begin at different frames.
    """
    names, lengths = list(real.videos), [video.num_frames for video in real.videos.values()]
    for index, (name, video) in enumerate(generated.videos.items()):
        of_real = index // samples
        if video.num_frames != lengths[of_real]:
            raise ValueError(
                f"{name} of {generated.path} has {video.num_frames} frames, and its real video, "
                f"{names[of_real]} of {real.path}, has {lengths[of_real]}: with clips_per_video "
                f"{real.clips_per_video}, pairs need equally many"
            )


def _sample_indices(generated: VideoSet, samples: int) -> list[int]:
    """Returns indices of the clips, such that all samples of one real clip are consecutive."""
    indices = np.arange(len(generated)).reshape(-1, generated.clips_per_video, samples)
    return indices.swapaxes(1, 2).ravel().tolist()


def _references(real: VideoSet, samples: int) -> Iterator[np.ndarray]:
    """Yields the real clip of each generated clip: the clips of a video, once per sample."""
    clips = iter(real)
    while of_video := list(itertools.islice(clips, real.clips_per_video)):
        yield from itertools.chain.from_iterable(itertools.repeat(of_video, samples))


def _check(videos: VideoSet, protocol: Protocol) -> None:
    from vdm.metrics.pairwise.similarity import SSIM_WINDOW  # imports JAX

    if len(videos) < 2 and protocol.compares_sets:
        raise ValueError(f"{videos.path} has {len(videos)} video, and a covariance needs 2")
    if len(videos) < protocol.min_videos:
        raise ValueError(
            f"{videos.path} has {len(videos)} videos, and the protocol {protocol.name} needs "
            f"{protocol.min_videos}: an Inception Score has as many splits"
        )
    if videos.frames < protocol.min_frames:
        raise ValueError(
            f"{videos.path} has videos of {videos.frames} frames{_frameskip_of(videos)}, and the "
            f"protocol {protocol.name} needs {protocol.min_frames}"
        )
    if "ssim" in protocol.metrics and min(videos.size) < SSIM_WINDOW:
        raise ValueError(
            f"{videos.path} has videos of {videos.size[0]} x {videos.size[1]} pixels (height x "
            f"width), and SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW}"
        )
    side = protocol.resolution
    if side and videos.size != (side, side):
        raise ValueError(
            f"{videos.path} has videos of {videos.size[0]} x {videos.size[1]} pixels (height x "
            f"width), and the protocol {protocol.name} has {side} x {side}"
        )


def _frameskip_of(videos: VideoSet) -> str:
    return f" at frameskip {videos.frameskip}" if videos.frameskip > 1 else ""


def _described(videos: VideoSet) -> dict:
    return {
        "path": str(videos.path),
        "videos": len(videos.videos),
        "files_left_out": len(videos.left_out),
        "clips_per_video": videos.clips_per_video,
        "frames": videos.frames,
        "height": videos.size[0],
        "width": videos.size[1],
    }
