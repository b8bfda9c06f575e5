"""Samples on disk in shards, so that an interrupted evaluation resumes."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from vdm.files import AnyPath, DamagedFile, make_folder, replacing, write_text
from vdm.metrics.weights.files import digest_of
from vdm.parallel.messages import from_first_process, gathered, is_first_process, wait_for_all
from vdm.progress import progress
from vdm.sampling.conditions import digests_of_sources
from vdm.sampling.generate import make_generator


@dataclasses.dataclass(frozen=True)
class SampleStore:
    """Stores samples 0 to count - 1 on disk, in shards.

    Sample i is a function of (seed, i), so only missing shards are sampled. Every process must make
    every call; each writes every process_count-th shard to the shared folder.

    Attributes:
      parent: folder that holds the store's own folder. The latter is named by a digest of
        `made_by`, `count` and `shard_size`, so another model or other settings never reuse these
        samples.
      made_by: JSON of everything that determines a sample, except its index; written to store.json.
      count: number of samples.
      shard_size: number of samples per shard; the last shard may have fewer.
    """

    parent: AnyPath
    made_by: dict
    count: int
    shard_size: int

    @property
    def folder(self) -> AnyPath:
        """The folder of store.json and of samples_00000.npz, ..., with `video` and `index`."""
        return self.parent / hashlib.sha256(self._record().encode()).hexdigest()[:16]

    def complete(
        self, generate: Callable[[Sequence[int]], np.ndarray], *, batch_size: int = 0
    ) -> None:
        """Samples and writes the missing shards, with a progress bar.

        Args:
          generate: function (indices) -> uint8 [len(indices), frames, height, width, channels].
          batch_size: maximum number of indices per call of `generate`; 0: a whole shard.
        """
        if is_first_process():
            make_folder(self.folder)
            write_text(self.folder / "store.json", self._record())
        shards = self._shards()
        # Hosts may briefly see different contents of a network folder, but all must agree.
        existing = from_first_process(np.array([path.exists() for path, _ in shards]))
        missing = [shard for shard, exists in zip(shards, existing, strict=True) if not exists]
        done = self.count - sum(len(indices) for _, indices in missing)
        with progress("sampling", self.count, "videos", initial=done) as bar:
            for path, indices in missing:
                size, parts = batch_size or len(indices), []
                for first in range(0, len(indices), size):
                    parts.append(generate(indices[first : first + size]))
                    bar.update(len(parts[-1]))
                if _is_mine(path):
                    videos = np.concatenate(parts)
                    with replacing(path) as temporary, temporary.open("wb") as file:
                        np.savez_compressed(file, video=videos, index=np.array(indices))
        wait_for_all("the samples are on disk")

    def __len__(self) -> int:
        return self.count

    def share(self) -> tuple[list[int], Iterator[np.ndarray]]:
        """Returns the indices of this process's shards, and an iterator over their samples.

        Raises:
          DamagedFile: while iterating, if a shard is damaged.
        """
        mine = [(path, indices) for path, indices in self._shards() if _is_mine(path)]
        videos = (video for shard in mine for video in self._videos_of(*shard))
        return [index for _, indices in mine for index in indices], videos

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the samples in order, uint8 [frames, height, width, channels].

        Memory holds one shard.

        Raises:
          DamagedFile: a shard is damaged.
        """
        for path, indices in self._shards():
            yield from self._videos_of(path, indices)

    def _videos_of(self, path: AnyPath, indices: range) -> np.ndarray:
        try:
            with path.open("rb") as file, np.load(file) as shard:
                videos = shard["video"]
        except Exception as error:  # numpy and zipfile raise many types on damaged files.
            raise DamagedFile(f"{path} cannot be read: delete it to sample it again") from error
        if len(videos) != len(indices):
            raise DamagedFile(f"{path} has {len(videos)} samples, and must have {len(indices)}")
        return videos

    def _shards(self) -> list[tuple[AnyPath, range]]:
        return [
            (
                self.folder / f"samples_{number:05}.npz",
                range(first, min(first + self.shard_size, self.count)),
            )
            for number, first in enumerate(range(0, self.count, self.shard_size))
        ]

    def _record(self) -> str:
        record = {**self.made_by, "count": self.count, "shard_size": self.shard_size}
        return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _is_mine(path: AnyPath) -> bool:
    return int(path.stem.rpartition("_")[2]) % jax.process_count() == jax.process_index()


def samples_made_by(config: ml_collections.ConfigDict, params: dict) -> dict:
    """Returns JSON of everything that determines a sample, except its index."""
    tensors = jax.tree.map(gathered, flatten_dict(params, sep="/"))
    excluded = ("training", "eval", "checkpoint", "step", "mesh", "plan", "rehearse")
    sections = {name: part for name, part in config.to_dict().items() if name not in excluded}
    made_by = {"weights_sha256": digest_of(tensors), **sections}
    if sources := digests_of_sources(config):
        made_by["sources_sha256"] = sources
    return made_by


def stored_samples(
    folder: AnyPath, config: ml_collections.ConfigDict, params: dict, mesh: Mesh, count: int
) -> SampleStore:
    """Returns a complete store of samples 0 to count - 1 of a configuration.

    Args:
      folder: folder that holds the store's own folder.
      config: the configuration.
      params: EMA parameters.
      mesh: the devices.
      count: number of samples.
    """
    made_by = samples_made_by(config, params)
    store = SampleStore(folder, made_by, count, config.eval.shard_size)
    generate = partial(make_generator(config, mesh), params)
    store.complete(generate, batch_size=config.sample.batch_size)
    return store
