"""Command line: python -m vdm.main --config=FILE --workdir=DIR --mode=MODE [--config.a.b=value]."""

import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from vdm.config import validate
from vdm.parallel.processes import GOES_ON, NotSaved, Preempted, Processes, Start, first_line

MODES = ("train", "sample", "eval", "export", "plan")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; override its fields by --config.section.field=value."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, logs, samples and results."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train: from the newest checkpoint in the workdir. sample: videos, a contact sheet and arrays "
    "to WORKDIR/samples. eval: a report to WORKDIR/eval. export: EMA weights and the "
    "configuration to WORKDIR/model.safetensors. plan: what the steps need on given devices, and "
    "an estimate of their time, without running them.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "HOST:PORT of process 0, where several processes work together. Not needed on TPU pods, under "
    "Slurm, Open MPI, or Kubernetes with jax[k8s], which are detected.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "Processes in all, with --coordinator; 1 alone: detect no cluster."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Of this process, from 0, with --coordinator.")
_CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", 30, "Seconds for all processes to come together."
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout",
    30,
    "Seconds without a sign of life after which a process is lost, and all others end.",
)


def train(config, workdir: Path) -> None:
    """Trains, or goes on training, and writes checkpoints, logs and sample videos."""
    from vdm.parallel.mesh import make_mesh
    from vdm.sampling.generate import make_preview
    from vdm.training.loop import train as run

    run(config, workdir, preview=make_preview(config, make_mesh(config)))
    print(f"trained; checkpoints and logs are in {workdir}")


def sample(config, workdir: Path) -> None:
    """Makes videos with the EMA weights and writes them to WORKDIR/samples."""
    from vdm.evaluation.figure4 import write_figure4
    from vdm.parallel.mesh import make_mesh, sharded_params
    from vdm.parallel.messages import is_first_process
    from vdm.sampling.generate import describe_conditions, make_generator
    from vdm.sampling.write import write_samples

    params, step = _load_weights(config, workdir)
    mesh = make_mesh(config)
    indices = range(config.sample.num_videos)
    print(f"sampling {len(indices)} videos with the weights of step {step}", flush=True)
    params = sharded_params(mesh, params)
    if config.sample.task == "figure4":
        picture = write_figure4(workdir / "figure4", config, mesh, params, indices)
        print(f"figure 4: {picture}")
        return
    videos = make_generator(config, mesh)(params, indices)
    if not is_first_process():
        return
    sheet = write_samples(
        workdir / "samples",
        videos,
        seed=config.sample.seed,
        max_video_files=config.sample.max_video_files,
        described=describe_conditions(config, indices),
    )
    print(f"videos, arrays and the contact sheet: {sheet}")


def evaluate(config, workdir: Path) -> None:
    """Evaluates the EMA weights and writes the report to WORKDIR/eval."""
    if config.eval.protocol == "moving_digits":
        from vdm.evaluation import moving_digits as evaluation
    else:
        from vdm.evaluation import protocol as evaluation
    from vdm.evaluation.report import write_report

    params, step = _load_weights(config, workdir)
    folder = workdir / "eval"
    result = evaluation.evaluate(config, params, step, folder / "samples")
    if result is None:  # which process 0 has
        return
    page = write_report(folder, result, evaluation.to_markdown(result))
    print(page.read_text())
    print(f"report: {page}")


def export(config, workdir: Path) -> None:
    """Writes the EMA weights and the configuration as one safetensors file."""
    import jax

    from vdm.exported import export as run
    from vdm.parallel.messages import gathered, is_first_process

    params, step = _load_weights(config, workdir)
    params = jax.tree.map(gathered, params)
    if not is_first_process():
        return
    path = workdir / "model.safetensors"
    run(path, params, config, step)
    print(f"EMA weights of step {step}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def plan(config, workdir: Path | None) -> None:
    """Compiles the steps for given devices and prints what they need."""
    from vdm.planning.plan import make_plan

    output = _plan_file(config, workdir)
    make_plan(config, output, tell=partial(print, flush=True))
    if output:
        print(f"plan: {output}")


def _plan_file(config, workdir: Path | None) -> Path | None:
    if config.plan.output:
        return Path(config.plan.output)
    return workdir / "plan.json" if workdir else None


def check_plan(config, workdir: Path | None) -> None:
    """As `check`, for a plan, which needs neither data nor a checkpoint, nor a workdir.

    Raises:
      ValueError, OSError: with one sentence that names the field, the file or the folder.
    """
    from vdm.planning.plan import check as check_steps

    check_steps(config)
    if output := _plan_file(config, workdir):
        _check_writable(output.parent)


def check(config, workdir: Path, mode: str) -> None:
    """Checks all that can be wrong with a command before any long work, writing nothing.

    Raises:
      ValueError, OSError: with one sentence that names the field, the file or the folder.
    """
    from vdm.checks import check_sampling, needs_held_out
    from vdm.data.datasets import check_name, make_source
    from vdm.exported import load_exported_config
    from vdm.parallel.mesh import check_divides, make_mesh
    from vdm.sampling.generate import preview_config
    from vdm.training import checkpoints

    validate(config)
    mesh = make_mesh(config)
    if mode == "train":
        check_divides(
            mesh, config.training.batch_size, "training.batch_size", config.training.accumulate
        )
    check_name(config)
    sampled = preview_config(config) if mode in ("train", "export") else config
    check_sampling(sampled)
    # Files of a data set are asked for by those who read them alone.
    if mode == "train":
        make_source(config, "train")
    if mode == "eval" or (mode in ("train", "sample") and needs_held_out(sampled)):
        make_source(config, "test")
    if mode == "eval":
        _check_evaluation(config)
    if config.checkpoint and mode in ("train", "export"):
        raise ValueError(f"config.checkpoint is for sample and eval, and the mode is {mode}")
    if config.checkpoint:
        saved, _ = load_exported_config(Path(config.checkpoint))
        checkpoints.check_same_model(config, saved, config.checkpoint)
    elif checkpoints.has_checkpoints(workdir):
        saved = checkpoints.load_config(workdir)
        checkpoints.check_same_model(config, saved or {}, f"the checkpoint in {workdir}")
    elif mode != "train":
        raise ValueError(
            f"no checkpoint in {workdir}: train first, or give --config.checkpoint=FILE.safetensors"
        )
    _check_writable(workdir)


def _check_evaluation(config) -> None:
    if config.sample.task == "figure4":
        raise ValueError("config.sample.task figure4 is a picture for --mode=sample, not for eval")
    if config.eval.protocol == "moving_digits":
        if config.data.name != "moving_digits":
            raise ValueError(
                "config.eval.protocol 'moving_digits' reads digits, and config.data.name is "
                f"{config.data.name!r}"
            )
        return
    from vdm.evaluation.protocol import protocol_of, real_sources
    from vdm.metrics.features import make_extractors

    protocol = protocol_of(config)
    real_sources(config, protocol)
    for extractor in make_extractors(protocol).values():
        if protocol.frames < extractor.min_frames:
            raise ValueError(
                f"config.eval.protocol {protocol.name!r} needs videos of {extractor.min_frames} "
                f"frames or more, and this configuration makes {protocol.frames}"
            )


def _check_writable(workdir: Path) -> None:
    existing = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(f"workdir {workdir} cannot be written: {error.strerror}") from error


def _load_weights(config, workdir: Path) -> tuple[dict, int]:
    """EMA parameters and their step: of config.checkpoint, or the newest of the workdir."""
    import jax

    from vdm.build import init_params
    from vdm.exported import load_exported, load_exported_config
    from vdm.parallel.mesh import make_mesh
    from vdm.training.checkpoints import Checkpoints, abstract_on

    if config.checkpoint:
        path = Path(config.checkpoint)
        return load_exported(path), load_exported_config(path)[1]
    abstract = jax.eval_shape(partial(init_params, config))
    mesh = make_mesh(config)
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore_ema(abstract_on(mesh, abstract))
    finally:
        checkpoints.close()


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with one sentence and exit status 2 for whatever it finds wrong."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}")
        needed = ("config",) if _MODE.value == "plan" else ("config", "workdir")
        for flag in needed:
            if flags.FLAGS[flag].value is None:
                raise flags.Error(f"--{flag} is required")
    except Exception as error:  # A configuration file may fail in any way.
        print(f"error: {(str(error).strip() or repr(error)).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
    return rest


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file that it writes.
    config, mode = _CONFIG.value, _MODE.value
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else None
    start = Start(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        _CONNECT_TIMEOUT.value,
        _HEARTBEAT_TIMEOUT.value,
    )
    processes = Processes()
    try:
        if mode == "plan":  # of which one process knows all
            check_plan(config, workdir)
        else:
            processes.connect(start, preemptible=mode == "train")
            check(config, workdir, mode)
    except (ValueError, TypeError, OSError) as error:
        processes.fail(str(error), 1)
    run = {"train": train, "sample": sample, "eval": evaluate, "export": export, "plan": plan}[mode]
    try:
        run(config, workdir)
        processes.finish()
    except KeyboardInterrupt:
        processes.fail("interrupted; the same command goes on from the newest checkpoint", 130)
    except Preempted as notice:
        processes.leave(notice)
    except NotSaved as error:  # After which Orbax's threads would go on to complain.
        processes.fail(str(error), 1, at_once=True)
    except (ArithmeticError, OSError) as error:
        processes.fail(str(error), 1)
    except Exception as error:
        if processes.is_loss(error):
            processes.fail(f"another process was lost: {first_line(error)}; {GOES_ON}", 1)
        traceback.print_exc()
        processes.fail(f"{type(error).__name__}: {error}", 1)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
