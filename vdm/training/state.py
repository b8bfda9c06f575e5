"""What training carries from one step to the next."""

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
import optax.contrib

from vdm.build import init_params

OPTIMIZERS = ("adam", "muon")

_RMS_OF_ADAM = 0.2  # of an element of a typical Adam update at learning rate 1; Liu et al., sec 2.2


@flax.struct.dataclass
class TrainState:
    """Everything that the next step depends on, besides the data.

    Attributes:
      step: int32 [], steps taken.
      params: of the network.
      ema_params: their exponential moving average, which sampling and evaluation use.
      opt_state: of the optimizer.
      metric_sums: sums since the last log step, in the state so that a resumed run logs the same
        averages as an uninterrupted one.
    """

    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: optax.OptState
    metric_sums: dict[str, jax.Array]


def make_learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Linear warm-up, a plateau, and a linear decay to zero over the last steps."""
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
    """Adam or Muon with decoupled weight decay, after clipping the gradient's global norm.

    Muon (Jordan et al. 2024, in the scaling of Liu et al. 2025, arXiv 2502.16982, that keeps Adam's
    root mean square) updates the kernels between the first and the last convolution, each as a
    matrix of inputs by outputs; what is not a kernel, and those two, Adam updates.
    """
    training = config.training
    # Without clipping the state has the same structure, so that a run can be resumed either way.
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
        optimizer = optax.contrib.muon(
            rate,
            weight_decay=training.weight_decay,
            eps=training.adam_eps,
            adam_b1=training.adam_b1,
            adam_b2=training.adam_b2,
            adam_weight_decay=training.weight_decay,
            muon_weight_dimension_numbers=_matrix_axes,
            consistent_rms=_RMS_OF_ADAM,
        )
    return optax.chain(clip, optimizer)


def _matrix_axes(params: dict) -> dict:
    """For each parameter, which axes make it a matrix for Muon; None for Adam's."""

    def axes(path, leaf):
        names = [entry.key for entry in path]
        if names[-1] != "kernel" or names[0] in ("conv_in", "conv_out"):
            return None
        return optax.contrib.MuonDimensionNumbers(
            reduction_axis=tuple(range(leaf.ndim - 1)), output_axis=leaf.ndim - 1
        )

    return jax.tree_util.tree_map_with_path(axes, params)


def init_state(config: ml_collections.ConfigDict) -> TrainState:
    """The state before the first step, a function of config.seed; can be jitted."""
    params = init_params(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=make_optimizer(config).init(params),
        metric_sums={"loss": jnp.zeros(()), "grad_norm": jnp.zeros(())},
    )
