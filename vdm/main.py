"""Command line: python -m vdm.main --config=FILE --workdir=DIR --mode=MODE [--config.a.b=value]."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from vdm.parallel.processes import ConnectOptions, Processes, first_line

MODES = ("train", "sample", "eval", "export", "plan")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file. --config.section.field=value overrides a field of it."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, samples and results."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train: trains, resuming from the newest checkpoint in WORKDIR. sample: writes videos, arrays "
    "and a contact sheet to WORKDIR/samples. eval: writes a report to WORKDIR/eval. export: writes "
    "the EMA weights and the configuration to WORKDIR/model.safetensors. plan: compiles the steps "
    "for attached or unattached devices, and reports memory, FLOPs, communication and time.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "HOST:PORT of process 0, for a run of several processes. Detected on TPU pods, under Slurm, "
    "Open MPI, and Kubernetes with jax[k8s].",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "Number of processes, with --coordinator; 1 alone: no detection."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Process index from 0, with --coordinator.")
_CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", 30, "Seconds until all processes must have connected."
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout",
    30,
    "Seconds without a heartbeat after which a process counts as lost, and all others end.",
)


def train(config, workdir: Path) -> None:
    """Trains, resuming from the newest checkpoint; writes checkpoints, metrics and previews."""
    from vdm.parallel.mesh import make_mesh
    from vdm.sampling.preview import make_preview
    from vdm.training.loop import train as run

    run(config, workdir, preview=make_preview(config, make_mesh(config)))
    print(f"trained; checkpoints and metrics are in {workdir}")


def sample(config, workdir: Path) -> None:
    """Samples videos with the EMA weights and writes them to WORKDIR/samples."""
    from vdm.sampling.write import sample_to_folder
    from vdm.training.checkpoints import load_ema

    params, step = load_ema(config, workdir)
    count = config.sample.num_videos
    print(f"sampling {count} videos with the weights of step {step}", flush=True)
    if sheet := sample_to_folder(config, params, workdir / "samples"):
        print(f"videos, arrays and the contact sheet: {sheet}")


def evaluate(config, workdir: Path) -> None:
    """Evaluates the EMA weights and writes the report to WORKDIR/eval."""
    from vdm.evaluation.report import evaluate_to_folder
    from vdm.training.checkpoints import load_ema

    if page := evaluate_to_folder(config, *load_ema(config, workdir), workdir / "eval"):
        print(f"{page.read_text()}\nreport: {page}")


def export(config, workdir: Path) -> None:
    """Writes the EMA weights and the configuration to WORKDIR/model.safetensors."""
    import jax

    from vdm.exported import export as write
    from vdm.parallel.messages import gathered, is_first_process
    from vdm.training.checkpoints import load_ema

    params, step = load_ema(config, workdir)
    params = jax.tree.map(gathered, params)
    path = workdir / "model.safetensors"
    if is_first_process():
        write(path, params, config, step)
        print(f"EMA weights of step {step}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def plan(config, workdir: Path | None) -> None:
    """Compiles the steps for given devices; prints memory, FLOPs, communication and time."""
    from vdm.planning.plan import make_plan, plan_file

    output = plan_file(config, workdir)
    make_plan(config, output, log=partial(print, flush=True))
    if output:
        print(f"plan: {output}")


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; prints a one-line error and exits with status 2 if they are invalid."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}")
        for flag in ("config",) if _MODE.value == "plan" else ("config", "workdir"):
            if flags.FLAGS[flag].value is None:
                raise flags.Error(f"--{flag} is required")
    except Exception as error:  # A configuration file may raise any exception.
        print(f"error: {first_line(error)}", file=sys.stderr)
        sys.exit(2)
    return rest


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file that it writes.
    config, mode = _CONFIG.value, _MODE.value
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else None
    options = ConnectOptions(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        _CONNECT_TIMEOUT.value,
        _HEARTBEAT_TIMEOUT.value,
    )
    processes = Processes()
    try:
        if mode != "plan":  # planning needs one process alone
            processes.connect(options, preemptible=mode == "train")
        from vdm.preflight import check  # after connecting: its imports may use a device

        check(config, workdir, mode)
    except (ValueError, TypeError, OSError) as error:
        processes.fail(str(error), 1)
    modes: dict[str, Callable[..., None]]
    modes = {"train": train, "sample": sample, "eval": evaluate, "export": export, "plan": plan}
    processes.run(partial(modes[mode], config, workdir))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
