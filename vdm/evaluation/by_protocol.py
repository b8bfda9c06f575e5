"""The evaluation of a model by a protocol of vdm.metrics, and its report."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import ml_collections
import numpy as np

from vdm import parallel
from vdm.data.media import to_uint8
from vdm.data.source import held_out_videos
from vdm.data.user_videos import with_channels
from vdm.evaluation.paper_tables import TABLES
from vdm.evaluation.shares import merged
from vdm.metrics.features import make_extractors
from vdm.metrics.measure import compare, summarize, warnings_of
from vdm.metrics.protocols import PROTOCOLS, Protocol
from vdm.sampling.shards import stored_samples

# Tables of data sets that anybody can have; those of the others' are private.
_PUBLIC = ("Table 1", "Table 2", "Table 3")


def protocol_of(config: ml_collections.ConfigDict) -> Protocol:
    """The protocol that config.eval.protocol names, with what it leaves to the configuration.

    Raises:
      ValueError: the configuration's videos are not those of the protocol.
    """
    protocol, data = PROTOCOLS[config.eval.protocol], config.data
    long = {"extend": config.extend, "cascade": config.cascade}.get(config.sample.task)
    frames = long.num_frames if long else data.frames
    for name, wanted, found in (
        ("data.frames", protocol.frames, frames),
        ("data.resolution", protocol.resolution, data.resolution),
        ("data.frameskip", protocol.frameskip if protocol.table else 0, data.frameskip),
        ("data.name", protocol.dataset if protocol.table in _PUBLIC else 0, data.name),
    ):
        if wanted and wanted != found:
            raise ValueError(
                f"config.eval.protocol {protocol.name!r} is of videos with {name} {wanted!r}, and "
                f"this configuration makes {found!r}"
            )
    return dataclasses.replace(
        protocol,
        dataset=data.name,
        split=protocol.split if protocol.split != "any" else "test",
        num_real=protocol.num_real or config.eval.num_videos,
        num_generated=protocol.num_generated or config.eval.num_videos,
        frames=frames,
        frameskip=data.frameskip,
        resolution=data.resolution,
        repeats=config.eval.repeats,
        seed=config.sample.seed,
        compression="none",
    )


def evaluate(
    config: ml_collections.ConfigDict, params: dict, step: int, folder: Path
) -> dict | None:
    """The protocol's numbers for samples of the model, ready for JSON.

    Of several processes each measures its share of the videos, and process 0 has the result.

    Args:
      config: the configuration.
      params: EMA parameters.
      step: the training steps behind them.
      folder: for the samples, which an interrupted evaluation goes on from.
    """
    protocol = protocol_of(config)
    extractors = make_extractors(protocol)
    mesh = parallel.make_mesh(config)
    params = parallel.sharded_params(mesh, params)
    measure = partial(
        summarize,
        protocol=protocol,
        extractors=extractors,
        batch_size=config.eval.batch_size,
    )
    print("features of the real videos", flush=True)
    mine = range(jax.process_index(), protocol.num_real, jax.process_count())
    real = measure(_real_videos(config, protocol, mine), protocol.num_real, indices=mine)
    real = merged(folder, real)
    numbers, folders = [], []
    for seed in range(protocol.seed, protocol.seed + protocol.repeats):
        own = config.copy_and_resolve_references()
        own.sample.update(seed=seed, per_example=protocol.samples_per_given)
        store = stored_samples(folder, own, params, mesh, protocol.num_generated)
        print("features of the samples", flush=True)
        indices, videos = store.share()
        generated = measure(
            (with_channels(video, 3) for video in videos), len(store), indices=indices
        )
        generated = merged(folder, generated)
        if generated is None:
            continue
        numbers.append(compare(real, generated, protocol))
        folders.append(str(store.folder))
    if not numbers:
        return None
    return {
        **_over_repeats(numbers),
        "warnings": warnings_of(real, generated, protocol),
        "protocol": protocol.to_dict(),
        "generated": {"paths": folders, "videos": protocol.num_generated, "step": step},
        "networks": {name: {"weights_sha256": e.digest} for name, e in extractors.items()},
        "config": config.to_dict(),
    }


def _over_repeats(numbers: list[dict[str, float]]) -> dict:
    """One repeat's numbers as they are; of more, means, with deviations over repeats for errors."""
    if len(numbers) == 1:
        return numbers[0]
    result = {}
    for name in numbers[0]:
        if name.endswith(("_standard_error", "_standard_deviation")):
            continue
        values = [repeat[name] for repeat in numbers]
        result[name] = float(np.mean(values))
        result[f"{name}_standard_deviation"] = float(np.std(values, ddof=1))
        result[f"{name}_of_repeats"] = values
    return result


def _real_videos(
    config: ml_collections.ConfigDict, protocol: Protocol, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    source = held_out_videos(config, protocol.frames)
    for index in indices:
        yield with_channels(to_uint8(source.example(index)["video"]), 3)


def to_markdown(result: dict) -> str:
    """The result as a page: the numbers, the protocol, and the paper's numbers beside them."""
    protocol = result["protocol"]
    lines = [f"# {protocol['name']}", "", "| metric | value |", "|---|---|"]
    for name, value in result.items():
        if isinstance(value, float) and not name.endswith(("_error", "_deviation")):
            error = result.get(f"{name}_standard_error", result.get(f"{name}_standard_deviation"))
            lines.append(f"| {name} | {value:.3f}{'' if error is None else f' +- {error:.3f}'} |")
    for warning in result["warnings"]:
        lines += ["", f"Note: {warning}."]
    lines += ["", "| protocol | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in protocol.items() if value not in ("", ())]
    for table in TABLES:
        if protocol["name"] in table.protocols:
            lines += ["", f"{table.name} of the paper, {table.title}:", ""]
            lines += table.to_markdown(table.rows)
    return "\n".join(lines) + "\n"
