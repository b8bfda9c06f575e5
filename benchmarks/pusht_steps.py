"""Video prediction of PushT in few steps, at equal numbers of network evaluations.

    pip install -e ".[pusht,metrics]"
    python -m vdm.data.prepare pusht
    python benchmarks/pusht_steps.py [--methods METHOD ...] [--evaluations N ...] [--students FILE]
    python benchmarks/pusht_steps.py --only_seconds

Each row measures one prediction of each of 256 test clips from its first frame. All rows use the
same seeds, and, like benchmarks/pusht_table.py, the protocol 'pusht' (docs/evaluation.md). The
metrics are FVD, KVD, PSNR, SSIM and the share of frames in which the block keeps its shape. `+-` is
a standard error. An evaluation is one call of the network. Reconstruction guidance also needs the
gradient of each call, and history guidance needs two calls per step. A student has its own number
of steps.

The samples are kept in --workdir, so a second run of the same command resumes. A run replaces its
own rows of the file and keeps the other rows.

`--only_seconds` measures the seconds of the file's rows, in one run, and keeps their metrics.
Seconds are the minimum over all batches of 16 videos, without the first batch, which compiles. Rows
that are not among the methods, evaluations and students of this run lose their seconds.

Prints and writes benchmarks/results/pusht_steps.json after each row. On two cores, a row takes two
minutes plus 12 s per evaluation, or 25 s per evaluation with reconstruction guidance.
`--only_seconds` takes half an hour to an hour.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
from measuring import hardware, stored_rows, timed_samples, with_row, write_result

from vdm.configuration.resolve import resolve
from vdm.data.datasets import held_out_videos
from vdm.evaluation.protocol import protocol_of
from vdm.exported import load_exported, load_exported_config
from vdm.metrics.features import make_extractor
from vdm.metrics.measure import compare, summarize
from vdm.parallel.mesh import make_mesh, sharded_params
from vdm.sampling.sample_store import stored_samples
from vdm.video.pixels import to_uint8

CHECKPOINT = "pusht"
STUDENT = "student"
METHODS = {
    "reconstruction guidance": {"conditioning": "reconstruction", "sampler": "dpmpp_2m"},
    "diffusion forcing": {"sampler": "dpmpp_2m"},
    "diffusion forcing, ddim": {"sampler": "ddim"},
    "diffusion forcing, ancestral": {"sampler": "ancestral"},
    "history guidance": {"sampler": "dpmpp_2m", "history_guidance_weight": 2},
}
EVALUATIONS = (1, 2, 4, 8, 16, 32, 64, 256)
_TIMED_EVALUATIONS = 64  # per video, with --only_seconds, at least one batch
_SCALARS = ("fvd", "kvd", "psnr", "ssim", "motion", "block_shape")


class Measure:
    """Measures predictions of the test clips, whose features are computed once."""

    def __init__(self, config):
        self.protocol = protocol_of(config)
        self.extractors = {name: make_extractor(name) for name in self.protocol.networks}
        real = held_out_videos(config, config.data.frames)
        self.clips = to_uint8(real.batch(0, config.eval.num_videos)["video"])
        self.real = self._summary(self.clips)

    def _summary(self, videos, **options):
        return summarize(videos, len(videos), self.protocol, self.extractors, **options)

    def __call__(self, videos: Sequence[np.ndarray]) -> dict:
        """Returns the numbers of one prediction of each clip."""
        return compare(self.real, self._summary(videos, references=self.clips), self.protocol)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="*", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--evaluations", nargs="*", type=int, default=EVALUATIONS)
    parser.add_argument("--workdir", default="runs/pusht_steps", help="folder of the samples")
    parser.add_argument("--students", nargs="*", default=(), help="exported files of students")
    parser.add_argument("--only_seconds", action="store_true", help="keep the metrics of all rows")
    flags = parser.parse_args()
    configs = {}
    for method in flags.methods:
        calls = 2 if "history_guidance_weight" in METHODS[method] else 1  # per step
        for evaluations in flags.evaluations:
            if evaluations % calls == 0:
                fields = {**METHODS[method], "num_steps": evaluations // calls}
                overrides = {f"sample.{name}": str(value) for name, value in fields.items()}
                config = resolve(None, None, {"checkpoint": CHECKPOINT, **overrides})
                configs[method, evaluations] = config
    for path in flags.students:
        config = resolve(None, None, {"checkpoint": path})
        configs[STUDENT, config.sample.num_steps] = config

    if flags.only_seconds:
        _time_rows(configs)
        return
    rows, order = stored_rows("pusht_steps"), [*METHODS, STUDENT]
    measure = Measure(next(iter(configs.values())))
    for (method, evaluations), config in configs.items():
        checkpoint, mesh = pathlib.Path(config.checkpoint), make_mesh(config)
        params = sharded_params(mesh, load_exported(checkpoint))
        folder = pathlib.Path(flags.workdir, "samples")
        videos = list(stored_samples(folder, config, params, mesh, config.eval.num_videos))
        numbers = measure(videos)
        _, training_steps = load_exported_config(checkpoint)
        row = {
            "method": method,
            "evaluations": evaluations,
            "checkpoint": checkpoint.name,
            "training_steps": training_steps,
            "sample": config.sample.to_dict(),
            "videos": len(videos),
            "hardware": hardware(),
            **{name: value for name, value in numbers.items() if name.startswith(_SCALARS)},
        }
        rows = with_row(rows, row, ("method", "evaluations"))
        rows.sort(key=lambda r: (order.index(r["method"]), -r["evaluations"]))
        write_result("pusht_steps", {"rows": rows}, "flax")


def _time_rows(configs: dict) -> None:
    """Measures the seconds of stored rows with a configuration; the others lose theirs."""
    rows = stored_rows("pusht_steps")
    for row in rows:
        row.pop("seconds_per_video", None)
        row.pop("seconds_hardware", None)
        config = configs.get((row["method"], row["evaluations"]))
        if config is None:
            continue
        batches = 1 + max(1, _TIMED_EVALUATIONS // row["evaluations"])
        params = load_exported(pathlib.Path(config.checkpoint))
        _, seconds_per_video = timed_samples(config, params, batches * config.sample.batch_size)
        row.update(seconds_per_video=seconds_per_video, seconds_hardware=hardware())
        print(row["method"], row["evaluations"], seconds_per_video, flush=True)
    write_result("pusht_steps", {"rows": rows}, "flax")


if __name__ == "__main__":
    main()
