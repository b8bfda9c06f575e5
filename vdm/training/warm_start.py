"""Warm start (fine-tuning): initial parameters from an exported file or from another run.

Parameters that match by name and shape are copied. All others keep their initial values, for
example those of a condition or a resolution that the source lacks. The optimizer state is new, and
training starts at step 0.

The source of a student is its teacher, which has the same network: the source's EMA weights become
both the teacher's parameters and the student's initial parameters.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from vdm.build import init_params, is_student, parameter_shapes
from vdm.configuration.stored import from_record, load_run_config
from vdm.exported import load_exported, load_exported_config
from vdm.files import AnyPath, as_path
from vdm.parallel.mesh import param_shardings, sharded_params
from vdm.training.checkpoints import Checkpoints, abstract_on, saved_steps
from vdm.training.compatibility import differing_fields
from vdm.training.state import TrainState, initializer, state_shapes

Shapes = Mapping[str, tuple[int, ...]]  # by name, as in `vdm.build.parameter_shapes`
Source = tuple[dict, dict]  # parameters and their EMA
_FIELD = "config.training.init_from"
# A student has its teacher's network, noise schedule and shapes.
_OF_TEACHER = (
    *("model", "diffusion.target"),
    *("diffusion.log_snr_min", "diffusion.log_snr_max", "diffusion.log_snr_shift"),
    *("data.frames", "data.resolution", "data.channels", "data.condition", "data.classes"),
)


@dataclasses.dataclass(frozen=True)
class Match:
    """Names of the parameters that a warm start copies, and of those that it does not.

    Attributes:
      taken: parameters with the same name and shape in the source.
      missing: parameters that the source does not have.
      reshaped: parameters with another shape in the source, with both shapes.
      unused: parameters that only the source has.
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yields a report: one line, and one for each kind of parameter that was not taken."""
        total = len(self.taken) + len(self.missing) + len(self.reshaped)
        yield f"{len(self.taken)} of {total} parameter arrays"
        for kind, names in (
            ("initial values, missing in the source", self.missing),
            ("initial values, of another shape in the source", self.reshaped),
            ("not used, of the source alone", self.unused),
        ):
            if names:
                yield f"{kind}: {', '.join(names)}"


def match(shapes: Shapes, source: Shapes) -> Match:
    """Compares the parameters of a network with those of a source."""
    common = sorted(shapes.keys() & source.keys())
    return Match(
        taken=tuple(name for name in common if shapes[name] == source[name]),
        missing=tuple(sorted(shapes.keys() - source.keys())),
        reshaped=tuple(
            f"{name} {shapes[name]} (source {source[name]})"
            for name in common
            if shapes[name] != source[name]
        ),
        unused=tuple(sorted(source.keys() - shapes.keys())),
    )


def merge(params: dict, source: dict) -> dict:
    """Replaces parameters by the source's parameters of the same name and shape."""
    flat, new = flatten_dict(params, sep="/"), flatten_dict(source, sep="/")
    taken = match(_shapes(flat), _shapes(new)).taken
    return unflatten_dict(flat | {name: new[name] for name in taken}, sep="/")


def check_warm_start(config: ml_collections.ConfigDict, workdir: AnyPath | None) -> None:
    """Checks the source of a warm start, unless the workdir has checkpoints: these take precedence.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: the source has no parameters that match the network; or a student has no source,
        or a source that cannot be its teacher.
    """
    resumes = workdir is not None and saved_steps(workdir)
    if resumes:
        return
    if is_student(config) and not config.training.init_from:
        raise ValueError(
            f"{_FIELD} is '', and must be the teacher of a student: an exported .safetensors file "
            "or the workdir of a run"
        )
    _checked_source(config)


def _checked_source(
    config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, Match] | None:
    """Returns the source's configuration and match, None for a run without a source."""
    name = config.training.init_from
    if not name:
        return None
    source = _source_config(name)
    matched = _match(config, source)
    if is_student(config):
        _check_teacher(config, source)
    return source, matched


def _check_teacher(config: ml_collections.ConfigDict, teacher: ml_collections.ConfigDict) -> None:
    """Checks that a model can teach the student: twice the steps, and the same network."""
    name, num_steps = config.training.init_from, config.training.distill_steps
    found = teacher.training.distill_steps
    if found and not num_steps:
        raise ValueError(
            f"{_FIELD} {name} is a student of {found} steps, whose guidance cannot be distilled: "
            "distil guidance first (config.model.guidance_weights), and then the steps "
            "(config.training.distill_steps)"
        )
    if found and found != 2 * num_steps:
        raise ValueError(
            f"config.training.distill_steps is {num_steps}, and must be half of the {found} steps "
            f"of its teacher, {_FIELD} {name}"
        )
    if config.diffusion.frame_times != "shared" and teacher.diffusion.frame_times == "shared":
        raise ValueError(
            f"config.diffusion.frame_times is {config.diffusion.frame_times!r}, and must be "
            f"'shared', since {_FIELD} {name} was trained with one noise level per video"
        )
    if not num_steps and teacher.model.guidance_weights:
        raise ValueError(
            f"config.training.distill_steps is 0, and must be positive, since {_FIELD} {name} is a "
            "guided student already (config.model.guidance_weights)"
        )
    teacher = teacher.copy_and_resolve_references()
    if not num_steps:
        teacher.model.guidance_weights = config.model.guidance_weights
    if differences := differing_fields(config, teacher, _OF_TEACHER):
        raise ValueError(f"{_FIELD} {name} is no teacher of this model: {'; '.join(differences)}")


def load_source(config: ml_collections.ConfigDict, mesh: Mesh) -> Source | None:
    """Loads the parameters of config.training.init_from, and prints which of them are used.

    From an exported file, both are its EMA weights. From a workdir, both are loaded; for a student,
    both are the EMA weights. The source's optimizer moments are loaded and dropped here, before the
    new state takes memory.

    Returns:
      (parameters, their EMA), on the mesh; None for a run without a source.

    Raises:
      OSError, ValueError: as in `check_warm_start`, or the source is damaged.
    """
    checked = _checked_source(config)
    return None if checked is None else _load(config, mesh, *checked)


def make_first_state(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    source: Source | None,
    meanwhile: Callable[[], object] = lambda: None,
) -> TrainState:
    """Returns the sharded state before the first step: initial, or with the source's parameters.

    A student's teacher gets the same parameters. `meanwhile` is called while another thread
    compiles the initialisation.
    """
    shardings = param_shardings(mesh, state_shapes(config))
    # On CPUs, LLVM's optimizations are half of the compilation time, wasted on a program that runs
    # once.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    initial = jax.jit(
        initializer(config), out_shardings=shardings, compiler_options=options
    ).lower()
    with ThreadPoolExecutor(1) as executor:
        compiled = executor.submit(initial.compile)
        meanwhile()
    state = compiled.result()()
    if source is None:
        return state
    params, ema_params = source
    state = state.replace(
        params=merge(state.params, params), ema_params=merge(state.ema_params, ema_params)
    )
    if is_student(config):  # separate arrays, because a step donates all of them
        state = state.replace(teacher=jax.tree.map(jnp.copy, state.params))
    return state


def _load(
    config: ml_collections.ConfigDict, mesh: Mesh, source: ml_collections.ConfigDict, matched: Match
) -> Source:
    path = as_path(config.training.init_from)
    if path.is_dir() and is_student(config):
        abstract = jax.eval_shape(partial(init_params, source))
        checkpoints = Checkpoints(path, read_only=True)
        try:
            params, step = checkpoints.restore_ema(abstract_on(mesh, abstract))
        finally:
            checkpoints.close()
        ema = jax.tree.map(jnp.copy, params)
    elif path.is_dir():
        abstract_state = state_shapes(source)
        checkpoints = Checkpoints(path, read_only=True)
        try:
            params, ema, step = checkpoints.restore_params(abstract_on(mesh, abstract_state))
        finally:
            checkpoints.close()
    else:
        step = load_exported_config(path)[1]
        params = sharded_params(mesh, load_exported(path))
        ema = jax.tree.map(jnp.copy, params)  # a step donates both
    first, *others = matched.lines()
    print(f"warm start from step {step} of {path}: {first}", flush=True)
    differences = differing_fields(config, source, ("diffusion", "data.classes"))
    if differences:
        others.append(f"note: {'; '.join(differences)}")
    for line in others:
        print(f"  {line}", flush=True)
    return params, ema


def _match(config: ml_collections.ConfigDict, source: ml_collections.ConfigDict) -> Match:
    name = config.training.init_from
    matched = match(parameter_shapes(config), parameter_shapes(source, name))
    if not matched.taken:
        raise ValueError(
            f"{_FIELD} {name} has no parameter with the name and shape of one "
            "of this configuration's network"
        )
    return matched


def _source_config(name: str | AnyPath) -> ml_collections.ConfigDict:
    """Returns the configuration of a source."""
    path = as_path(str(name))
    if not path.exists():
        raise FileNotFoundError(f"{_FIELD} {name} does not exist")
    if not path.is_dir():
        return from_record(load_exported_config(path)[0], path)
    if not saved_steps(path):
        raise ValueError(
            f"{_FIELD} {name} has no checkpoints, and must be an exported .safetensors file or the "
            "workdir of a run"
        )
    if (source := load_run_config(path)) is None:
        raise ValueError(f"{_FIELD} {name} has checkpoints, and no config.json that describes them")
    return source


def _shapes(flat: Mapping[str, jax.Array]) -> Shapes:
    return {name: tuple(array.shape) for name, array in flat.items()}
