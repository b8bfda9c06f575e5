"""The training state, the optimizer and the learning-rate schedule."""

import copy
import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
import optax.contrib

from vdm.build import init_params, is_student

OPTIMIZERS = ("adam", "muon")

# RMS of a typical Adam update at learning rate 1 (Liu et al. 2025, section 2.2).
_ADAM_RMS = 0.2
_NEWTON_SCHULZ_ITERATIONS = 5


@flax.struct.dataclass
class TrainState:
    """Everything that the next step depends on, except the batch.

    Attributes:
      step: the number of steps taken, int32 [].
      params: the network's parameters.
      ema_params: the exponential moving average of `params`, for sampling and evaluation.
      opt_state: the optimizer's moments and counts.
      metric_sums: sums of 'loss' and 'grad_norm' since the last log step, and the number of
        'steps', each float32 []. Saved, so that a resumed run logs the same means as an
        uninterrupted one.
      teacher: the frozen parameters of a student's teacher, with the structure of `params`; None in
        a run without a teacher. Saved, so that a resumed run does not need the teacher's file and
        cannot switch teachers.
    """

    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: optax.OptState
    metric_sums: dict[str, jax.Array]
    teacher: dict | None = None


def make_learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, constant, linear decay to zero."""
    training = config.training
    rate = training.learning_rate
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, rate, training.warmup_steps),
            optax.constant_schedule(rate),
            optax.linear_schedule(rate, 0.0, training.decay_steps),
        ],
        [training.warmup_steps, training.num_steps - training.decay_steps],
    )


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Returns Adam or Muon with decoupled weight decay, after gradient clipping by global norm.

    Muon (Jordan et al. 2024), with updates scaled to Adam's RMS (Liu et al. 2025, arXiv
    2502.16982), updates the kernels between the first and the last convolution, each as a matrix
    [inputs, outputs]; the keys and values of text pooling [inputs, heads, width] as a matrix
    [inputs * heads, width]. Adam updates these two convolutions and all other parameters.
    """
    training = config.training
    # `identity` keeps the state's structure, so that a resumed run may turn clipping on or off.
    clip = (
        optax.clip_by_global_norm(training.gradient_clip)
        if training.gradient_clip
        else optax.identity()
    )
    rate = make_learning_rate(config)
    if training.optimizer == "adam":
        optimizer = optax.adamw(
            rate,
            b1=training.adam_b1,
            b2=training.adam_b2,
            eps=training.adam_eps,
            weight_decay=training.weight_decay,
        )
    else:
        muon = optax.contrib.muon(
            rate,
            ns_steps=_NEWTON_SCHULZ_ITERATIONS,
            weight_decay=training.weight_decay,
            eps=training.adam_eps,
            adam_b1=training.adam_b1,
            adam_b2=training.adam_b2,
            adam_weight_decay=training.weight_decay,
            muon_weight_dimension_numbers=_muon_axes,
            consistent_rms=_ADAM_RMS,
        )
        optimizer = _with_looped_iterations(muon)
    return optax.chain(clip, optimizer)


def _with_looped_iterations(muon: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns Muon with its iterations as a loop: same results, smaller and faster program.

    optax compiles a loop if the state has one row of coefficients per iteration. Between steps, the
    state keeps optax's usual single row, so that older checkpoints can be resumed.
    """

    def update(gradient, state, params):
        shape = (_NEWTON_SCHULZ_ITERATIONS, 3)
        rows = _map_coefficients(lambda row: jnp.broadcast_to(row, shape), state)
        updates, state = muon.update(gradient, rows, params)
        return updates, _map_coefficients(lambda rows: rows[0], state)

    def init(params):  # float32 even if JAX's default is float64
        return _map_coefficients(lambda row: row.astype(jnp.float32), muon.init(params))

    return optax.GradientTransformation(init, update)


def _map_coefficients(function: Callable[[jax.Array], jax.Array], state):
    def is_muon(node) -> bool:
        return isinstance(node, optax.contrib.MuonState)

    def replaced(node):
        return node._replace(ns_coeffs=function(node.ns_coeffs)) if is_muon(node) else node

    return jax.tree.map(replaced, state, is_leaf=is_muon)


def _muon_axes(params: dict) -> dict:
    """Returns how Muon reshapes each parameter to a matrix; None for Adam's parameters."""

    def axes(path, leaf):
        names = [entry.key for entry in path]
        if names[-1] != "kernel" or names[0] in ("conv_in", "conv_out"):
            return None
        return optax.contrib.MuonDimensionNumbers(
            reduction_axis=tuple(range(leaf.ndim - 1)), output_axis=leaf.ndim - 1
        )

    return jax.tree_util.tree_map_with_path(axes, params)


def init_state(config: ml_collections.ConfigDict) -> TrainState:
    """Returns the initial state, a function of config.seed; can be jitted."""
    params = init_params(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=make_optimizer(config).init(params),
        metric_sums={n: jnp.zeros((), jnp.float32) for n in ("loss", "grad_norm", "steps")},
        teacher=jax.tree.map(jnp.copy, params) if is_student(config) else None,
    )


def initializer(config: ml_collections.ConfigDict) -> Callable[[], TrainState]:
    """Returns `init_state` of a configuration: one function, so that JAX traces it once."""
    return _initializer(_Hashable(repr(config.to_dict()), config))


def state_shapes(config: ml_collections.ConfigDict) -> TrainState:
    """Returns the shapes and dtypes of the state, without creating arrays."""
    return jax.eval_shape(initializer(config))


@dataclasses.dataclass(frozen=True)
class _Hashable:
    """A configuration as a key. A FrozenConfigDict with an empty list and an empty tuple fails."""

    text: str
    config: ml_collections.ConfigDict = dataclasses.field(compare=False)


@lru_cache(maxsize=4)
def _initializer(key: _Hashable) -> Callable[[], TrainState]:
    return partial(init_state, copy.deepcopy(key.config))  # a caller may change its configuration
