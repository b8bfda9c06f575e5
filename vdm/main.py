"""Command line: python -m vdm.main --workdir=DIR --mode=MODE [--config=NAME --config.a.b=value]."""

import contextlib
import os
import warnings
from collections.abc import Callable
from functools import partial

from absl import app, flags, logging

from vdm.configuration import command_line
from vdm.configuration.resolve import page
from vdm.files import EXPORTED_FILE, AnyPath, user_cache
from vdm.parallel import connect_flags
from vdm.parallel.processes import Processes

MODES = ("train", "sample", "eval", "export", "rehearse", "plan", "config")

flags.adopt_module_key_flags(command_line)
flags.adopt_module_key_flags(connect_flags)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train: trains, resuming from the newest checkpoint in WORKDIR. sample: writes videos, arrays "
    "and a contact sheet to WORKDIR/samples. eval: writes a report to WORKDIR/eval. export: writes "
    "the EMA weights and the configuration to WORKDIR/model.safetensors. rehearse: runs each "
    "phase of a run once and prints its seconds; keeps no file. plan: compiles the steps for "
    "attached or unattached devices, and reports memory, FLOPs, communication and time. "
    "config: prints all fields of the configuration, their values and what they mean.",
)


def train(config, workdir: AnyPath) -> None:
    """Trains, resuming from the newest checkpoint; writes checkpoints, metrics and previews."""
    from vdm.evaluation.held_out_loss import make_mean_held_out_loss
    from vdm.parallel.mesh import make_mesh
    from vdm.sampling.preview import make_preview
    from vdm.training.loop import train as run

    mesh = make_mesh(config)
    held_out_loss = make_mean_held_out_loss(config, mesh) if config.training.eval_every else None
    preview = make_preview(config, mesh) if config.training.sample_every else None
    if run(config, workdir, preview=preview, held_out_loss=held_out_loss):
        print(f"trained; checkpoints and metrics are in {workdir}")


def sample(config, workdir: AnyPath) -> None:
    """Samples videos with the EMA weights and writes them to WORKDIR/samples."""
    from vdm.sampling.write import sample_to_folder
    from vdm.training.checkpoints import load_ema

    params, step = load_ema(config, workdir)
    count = config.sample.num_videos
    print(f"sampling {count} videos with the weights of step {step}", flush=True)
    if sheet := sample_to_folder(config, params, workdir / "samples"):
        print(f"videos, arrays and the contact sheet: {sheet}")


def evaluate(config, workdir: AnyPath) -> None:
    """Evaluates the EMA weights and writes the report to WORKDIR/eval."""
    from vdm.evaluation.report import evaluate_to_folder
    from vdm.training.checkpoints import load_ema

    weights = ({}, 0) if config.eval.baseline else load_ema(config, workdir)
    if page := evaluate_to_folder(config, *weights, workdir / "eval"):
        print(f"{page.read_text(encoding='utf-8')}\nreport: {page}")


def export(config, workdir: AnyPath) -> None:
    """Writes the EMA weights and the configuration to WORKDIR/model.safetensors."""
    import jax

    from vdm.exported import export as write
    from vdm.parallel.messages import gathered, is_first_process
    from vdm.training.checkpoints import load_ema

    params, step = load_ema(config, workdir)
    params = jax.tree.map(gathered, params)
    size = sum(array.nbytes for array in jax.tree.leaves(params))
    path = workdir / EXPORTED_FILE
    if is_first_process():
        config.step = ""  # of the workdir; the file has one state
        replaced = f", replaces the file of step {before}" if (before := _step_of(path)) else ""
        write(path, params, config, step)
        print(f"EMA weights of step {step}: {path} ({size / 1e6:.1f} MB){replaced}")


def _step_of(path: AnyPath) -> int | None:
    """Returns the training step of an exported file, None if it is missing or unreadable."""
    from vdm.exported import load_exported_config

    try:
        return load_exported_config(path)[1]
    except (OSError, ValueError):
        return None


def rehearse(config, workdir: AnyPath | None) -> None:
    """Runs each phase of a run once and prints its seconds; keeps no file."""
    from vdm.rehearse import rehearse as run

    run(config, workdir)


def plan(config, workdir: AnyPath | None) -> None:
    """Compiles the steps for given devices; prints memory, FLOPs, communication and time."""
    from vdm.planning.plan import make_plan, plan_file

    output = plan_file(config, workdir)
    make_plan(config, output, log=partial(print, flush=True))
    if output:
        print(f"plan: {output}")


def keep_compiled_programs() -> None:
    """Caches compiled programs in the cache folder, unless JAX_COMPILATION_CACHE_DIR is set."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(RuntimeError):  # no home folder
            jax.config.update("jax_compilation_cache_dir", str(user_cache() / "compiled"))
    # A full or damaged cache only costs time.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def main(config) -> None:
    # Orbax logs every file that it writes, and the traceback of each error that we report.
    logging.set_verbosity(logging.FATAL)
    mode, workdir = _MODE.value, command_line.workdir()
    if mode == "config":
        Processes().run(partial(print, page(config), flush=True))
        return
    keep_compiled_programs()
    processes = Processes()
    try:
        if mode != "plan":  # planning needs only one process
            processes.connect(connect_flags.connect_options(), preemptible=mode == "train")
        from vdm.preflight import check  # after connecting: its imports may use a device

        check(config, workdir, mode)
    except (ValueError, TypeError, OSError) as error:
        processes.fail(str(error), 1)
    except KeyboardInterrupt:  # for instance while indexing videos
        processes.interrupt()
    modes: dict[str, Callable[..., None]]
    modes = {"train": train, "sample": sample, "eval": evaluate, "export": export}
    modes |= {"rehearse": rehearse, "plan": plan}
    processes.run(partial(modes[mode], config, workdir))


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
