"""What training carries from one step to the next."""

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from vdm.build import init_params


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
    """Adam with decoupled weight decay, after clipping the gradient's global norm."""
    training = config.training
    # Without clipping the state has the same structure, so that a run can be resumed either way.
    clip = (
        optax.clip_by_global_norm(training.gradient_clip)
        if training.gradient_clip
        else optax.identity()
    )
    adam = optax.adamw(
        make_learning_rate(config),
        b1=training.adam_b1,
        b2=training.adam_b2,
        eps=training.adam_eps,
        weight_decay=training.weight_decay,
    )
    return optax.chain(clip, adam)


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
