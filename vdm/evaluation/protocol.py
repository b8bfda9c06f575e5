"""Evaluation of a model by a protocol of vdm.metrics: FVD, FID and Inception Score."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np

from vdm import markdown
from vdm.data.datasets import (
    DRAWN,
    DataSet,
    held_out_start,
    held_out_videos,
    number_of_videos,
    split_name,
)
from vdm.evaluation.baselines import Baseline, pixels_of
from vdm.evaluation.memorisation import memorisation
from vdm.evaluation.paper_tables import TABLES
from vdm.evaluation.shares import merged
from vdm.evaluation.tables import error_of, kinds_of_error
from vdm.files import AnyPath
from vdm.metrics.features import make_extractors, measurable
from vdm.metrics.measure import Summary, compare, summarize, warnings_of
from vdm.metrics.protocols import GENERAL, PAIRED, PROTOCOLS, Protocol
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.sampling.conditions import number_of_sources
from vdm.sampling.sample_store import SampleStore, stored_samples
from vdm.sampling.tasks import frames_needed
from vdm.video.pixels import with_channels

# Name suffixes of numbers that describe the error of another number.
_OF_ERRORS = ("_standard_error", "_standard_deviation", "_leave_one_out")
# Tables of public data sets; the data of the other tables may differ from the paper's.
_PUBLIC = ("Table 1", "Table 2", "Table 3")
# Descriptions of clips, by `start` of `ClipDataSet`.
_CLIPS = {"first": "first frames", "random": "one random window of each video"}
NEAREST_FIGURE = "nearest_training_clips.png"


def protocol_of(config: ml_collections.ConfigDict) -> Protocol:
    """Returns config.eval.protocol, with the fields that it leaves open set from the configuration.

    Raises:
      ValueError: the configuration's data set, frames or size differ from the protocol's.
    """
    protocol, data = PROTOCOLS[config.eval.protocol], config.data
    long = {"extend": config.extend, "cascade": config.cascade}.get(config.sample.task)
    frames = long.num_frames if long else data.frames
    given = {"predict": config.predict, "extend": config.extend}.get(config.sample.task)
    num_given = given.num_given if given else 0
    for name, required, found in (
        ("data.frames", protocol.frames, frames),
        ("data.resolution", protocol.resolution, data.resolution),
        ("data.frameskip", protocol.frameskip if protocol.table else 0, data.frameskip),
        ("data.name", protocol.dataset if protocol.table in _PUBLIC else 0, data.name),
        ("sample.task", "predict" if protocol.frames_given else 0, config.sample.task),
        ("predict.num_given", protocol.frames_given, num_given),
    ):
        if required and required != found:
            raise ValueError(
                f"config.eval.protocol {protocol.name!r} needs {name} {required!r}, and this "
                f"configuration has {found!r}; {', '.join(p.name for p in GENERAL)} are for "
                "videos of any data set"
            )
    if any(metric in PAIRED for metric in protocol.metrics):
        _check_pairs(config, frames)
    samples = max(protocol.samples_per_given, config.sample.per_example)
    num_generated = protocol.num_generated or config.eval.num_videos
    if num_generated % samples:
        raise ValueError(
            f"config.eval.num_videos is {num_generated}, and must be a multiple of "
            f"config.sample.per_example, {samples}: all samples of a real video are measured"
        )
    return dataclasses.replace(
        protocol,
        dataset=data.name,
        splits=tuple(split_name(config, split) for split in _splits(protocol)),
        num_real=protocol.num_real or config.eval.num_videos,
        num_generated=num_generated,
        frames=frames,
        frames_given=protocol.frames_given or num_given,
        given_every=config.interpolate.every if config.sample.task == "interpolate" else 0,
        samples_per_given=samples,
        frame_rate=data.frame_rate,
        frameskip=data.frameskip,
        resolution=data.resolution,
        real_clips=protocol.real_clips if protocol.table else _CLIPS[_real_start(config, protocol)],
        camera=data.camera if data.name == "bair_robot_pushing_small" else "",
        repeats=config.eval.repeats,
        seed=config.sample.seed,
        compression="none",
    )


def _check_pairs(config: ml_collections.ConfigDict, frames: int) -> None:
    """Raises ValueError unless samples of `frames` frames observe frames of the real videos."""
    task, data, reason = config.sample.task, config.data, ""
    if task in ("generate", "cascade"):
        reason = f"config.sample.task is {task!r}, and must be another"
    elif not frames_needed(config):
        reason = "config.extend.num_given is 0, and must be at least 1"
    elif config.sample.observed:
        reason = f"config.sample.observed is {config.sample.observed!r}, and must be empty"
    elif frames != data.frames and held_out_start(data.name) != "first":
        reason = (
            f"config.sample.task is {task!r}, and must keep the {data.frames} frames of a clip, "
            f"since clips of {data.name!r} begin at a random frame that depends on their number"
        )
    if reason:
        raise ValueError(
            f"config.eval.protocol {config.eval.protocol!r} compares samples with the held-out "
            f"videos whose frames they were given: {reason}"
        )


def _real_start(config: ml_collections.ConfigDict, protocol: Protocol) -> str:
    """Returns the first frame of a real clip, `start` of `ClipDataSet`.

    Samples that observe no frames resemble the clips of training, and so do their real clips.
    """
    name = config.data.name
    is_like_training = not (protocol.table or name in DRAWN or frames_needed(config))
    return config.data.start if is_like_training else held_out_start(name)


def real_sources(config: ml_collections.ConfigDict, protocol: Protocol) -> dict[str, DataSet]:
    """Returns {name of a split: real videos} for a protocol of `protocol_of`.

    Raises:
      ValueError: the data set is missing, or its videos do not fit the protocol.
    """
    splits, start = _splits(PROTOCOLS[protocol.name]), _real_start(config, protocol)
    return {
        name: held_out_videos(config, protocol.frames, split, start=start)
        for name, split in zip(protocol.splits, splits, strict=True)
    }


def check_pairs(
    config: ml_collections.ConfigDict, protocol: Protocol, sources: dict[str, DataSet]
) -> None:
    """Checks that the real video of each sample is the one whose frames it observes.

    Raises:
      ValueError: a held-out video of a folder has too few frames for a sample, but enough to be
        observed.
    """
    is_paired = any(metric in PAIRED for metric in protocol.metrics)
    if not is_paired or config.data.name != "folder" or protocol.frames == config.data.frames:
        return
    found = number_of_videos(next(iter(sources.values())))
    observed = number_of_videos(held_out_videos(config, config.data.frames))
    if found != observed:
        raise ValueError(
            f"config.eval.protocol {protocol.name!r} compares samples of {protocol.frames} frames "
            f"with the held-out videos whose frames they were given, and {observed - found} of the "
            f"{observed} in {config.data.path} have fewer frames: a manifest can leave them out"
        )


def check_numbers(protocol: Protocol, sources: dict[str, DataSet]) -> None:
    """Raises ValueError unless there are enough samples and real videos of `real_sources`."""
    needed = protocol.min_videos
    if protocol.num_generated < needed:
        raise ValueError(
            f"config.eval.num_videos is {protocol.num_generated}, and must be at least {needed} "
            f"for config.eval.protocol {protocol.name!r}"
        )
    for name, source in sources.items():
        found = len(_real_examples(protocol, number_of_videos(source)))
        if found < needed:
            raise ValueError(
                f"config.eval.protocol {protocol.name!r} needs {needed} real videos, and the split "
                f"{name!r} has {found}"
            )


def _splits(protocol: Protocol) -> list[str]:
    return ["test" if split == "any" else split for split in protocol.splits]


def evaluate(
    config: ml_collections.ConfigDict, params: dict, step: int, folder: AnyPath
) -> dict | None:
    """Evaluates samples of the model by config.eval.protocol.

    Each process measures its share of the videos. `params` are EMA parameters after training step
    `step`. `folder` holds the samples, from which an interrupted evaluation resumes.

    Returns:
      Metrics, protocol and configuration as JSON on process 0, None on the others.
    """
    protocol = protocol_of(config)
    extractors = make_extractors(protocol)
    protocol, missing = measurable(protocol, extractors)
    sources = real_sources(config, protocol)
    protocol = dataclasses.replace(protocol, videos_given=_videos_given(config, protocol, sources))
    mesh = make_mesh(config)
    params = sharded_params(mesh, params)
    measure = partial(
        summarize,
        protocol=protocol,
        extractors=extractors,
        batch_size=config.eval.batch_size,
    )
    real: dict[str, Summary] = {}  # complete on process 0, empty on the others
    for name, source in sources.items():
        print(f"computing the features of the real videos, split {name}", flush=True)
        examples = _real_examples(protocol, number_of_videos(source))
        own = range(jax.process_index(), len(examples), jax.process_count())
        share = measure(_real_videos(source, examples[own]), len(examples), indices=own)
        if summary := merged(folder, share):
            real[name] = summary
    numbers, folders, warnings = [], [], missing
    for seed in range(protocol.seed, protocol.seed + protocol.repeats):
        seeded = config.copy_and_resolve_references()
        seeded.sample.update(seed=seed, per_example=protocol.samples_per_given)
        store: SampleStore | Baseline = (
            Baseline(seeded, protocol, next(iter(sources.values())))
            if config.eval.baseline
            else stored_samples(folder, seeded, params, mesh, protocol.num_generated)
        )
        print("computing the features of the samples", flush=True)
        sampled, videos = store.share()
        references = None
        if any(metric in PAIRED for metric in protocol.metrics):
            given = [index // protocol.samples_per_given for index in sampled]
            references = _real_videos(next(iter(sources.values())), given)
        share = measure(
            (with_channels(v, 3) for v in videos),
            len(store),
            indices=sampled,
            references=references,
        )
        if generated := merged(folder, share):
            numbers.append(_against_all_splits(real, generated, protocol))
            if "nearest" in protocol.metrics:
                numbers[-1] |= memorisation(
                    (with_channels(video, 3) for video in store),
                    _real_videos(next(iter(sources.values())), range(len(store))),
                    held_out_videos(config, protocol.frames, "train"),
                    mirrored=config.data.augment_flip,
                    figure=None if isinstance(store, Baseline) else store.folder / NEAREST_FIGURE,
                )
            folders.append(str(store.folder))
            for split in real.values():
                warnings = [*warnings, *warnings_of(split, generated, protocol)]
    if not numbers:
        return None
    return {
        **_over_repeats(numbers),
        "warnings": list(dict.fromkeys(warnings)),
        "protocol": protocol.to_dict(),
        "generated": {"paths": folders, "videos": protocol.num_generated, "step": step},
        "networks": {name: {"weights_sha256": e.digest} for name, e in extractors.items()},
        "config": config.to_dict(),
    }


def _videos_given(
    config: ml_collections.ConfigDict, protocol: Protocol, sources: dict[str, DataSet]
) -> int:
    """Returns the protocol's `videos_given`."""
    if config.eval.baseline == "train_videos":
        count = number_of_videos(held_out_videos(config, protocol.frames, "train"))
    elif config.eval.baseline:
        count = number_of_videos(next(iter(sources.values())))
    else:
        count = number_of_sources(config)
    return count if count * protocol.samples_per_given < protocol.num_generated else 0


def _real_examples(protocol: Protocol, num_videos: int) -> np.ndarray:
    """Returns the indices of the real examples of a split of num_videos videos (0: endless).

    Example i is a window of video i modulo num_videos, with a new window in each pass.
    """
    if not num_videos:
        return np.arange(protocol.num_real)
    count = min(protocol.num_real, num_videos * protocol.windows_per_video)
    examples = np.arange(count)
    if protocol.with_replacement:
        videos = np.random.default_rng(0).integers(num_videos, size=count)
        return videos + num_videos * (1 + examples)
    return examples


def _over_repeats(numbers: list[dict[str, Any]]) -> dict:
    """Returns means and standard deviations over repeats; a single repeat is returned as it is."""
    if len(numbers) == 1:
        return numbers[0]
    result: dict[str, float | list[float]] = {}
    for name in numbers[0]:
        if name.endswith(_OF_ERRORS):
            continue
        values = [repeat[name] for repeat in numbers]
        result[name] = float(np.mean(values))
        result[f"{name}_standard_deviation"] = float(np.std(values, ddof=1))
        result[f"{name}_of_repeats"] = values
    return result


def _against_all_splits(
    real: dict[str, Summary], generated: Summary, protocol: Protocol
) -> dict[str, Any]:
    """Merges metrics against all splits: all against the first, all but IS against the others."""
    (_, first), *others = real.items()
    numbers = compare(first, generated, protocol)
    for name, summary in others:
        for metric, value in compare(summary, generated, protocol).items():
            if not metric.startswith("is_"):
                numbers[_with_split(metric, name)] = value
    return numbers


def _with_split(metric: str, split: str) -> str:
    """Returns a metric's name for a split other than the protocol's first."""
    for error in _OF_ERRORS:
        if metric.endswith(error):
            return f"{metric.removesuffix(error)}_{split}{error}"
    return f"{metric}_{split}"


def _real_videos(source: DataSet, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
    for index, repeated in itertools.groupby(indices):
        video = pixels_of(source, int(index))
        yield from (video for _ in repeated)


def to_markdown(result: dict) -> str:
    """Formats a result as a Markdown page: our numbers, the protocol, the paper's numbers."""
    protocol = result["protocol"]
    metrics = []
    for name, value in result.items():
        if isinstance(value, float) and not name.endswith(("_error", "_deviation")):
            error = error_of(result, name)
            metrics.append((name, f"{value:.3f}" + ("" if error is None else f" +- {error:.3f}")))
    lines = [f"# {protocol['name']}", "", *markdown.table(("metric", "value"), metrics)]
    for note in [*kinds_of_error(result, [name for name, _ in metrics]), *result["warnings"]]:
        lines += ["", f"Note: {note}."]
    settings = [item for item in protocol.items() if item[1] not in ("", ())]
    lines += ["", *markdown.table(("protocol", ""), settings)]
    for table in TABLES:
        if protocol["name"] in table.protocols:
            lines += ["", f"{table.name} of the paper, {table.title}:", ""]
            lines += markdown.table(table.header, table.rows)
    return "\n".join(lines) + "\n"
