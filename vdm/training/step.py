"""One training step, jitted for a mesh."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from vdm.build import random_key
from vdm.parallel.mesh import batch_sharding, param_shardings, with_sharded_gradient
from vdm.parallel.rows import micro_batches
from vdm.training.objective import make_objective
from vdm.training.state import TrainState, make_optimizer, state_shapes

_EMA_RAMP = 10  # decay min(ema_decay, (1 + n) / (10 + n)), config.training.ema_ramp
_MAX_STEP = 2**31 - 1  # an interval longer than this means never


def join_images(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Concatenates videos with their independent images: [batch, frames + images, ...]."""
    if "images" not in batch:
        return batch["video"]
    return jnp.concatenate([batch["video"], batch["images"]], axis=1)


def make_train_step(config: ml_collections.ConfigDict, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted step (state, batch) -> state, which donates its state argument.

    All randomness is a function of (config.seed, state.step). config.training.accumulate changes
    the dropout masks, but not the diffusion times and the noise of the batch.
    """
    objective, optimizer, training = make_objective(config), make_optimizer(config), config.training

    def loss(params, teacher, batch, x, draws, dropout_key):
        params = with_sharded_gradient(mesh, params)
        return objective.loss(params, teacher, batch, x, draws, dropout_key).mean()

    def loss_and_gradient(params, teacher, batch, key):
        loss_key, dropout_key = jax.random.split(key)
        x = join_images(batch)
        batch, draws = objective.draw(loss_key, batch, x.shape)
        rows = (batch, x, draws)
        if training.accumulate == 1:
            return jax.value_and_grad(loss)(params, teacher, *rows, dropout_key)

        def shard(total):  # each device accumulates its own shards of the gradient
            return jax.lax.with_sharding_constraint(total, param_shardings(mesh, total))

        def add(total, micro_batch):
            micro_rows, index = micro_batch
            micro_key = jax.random.fold_in(dropout_key, index)
            loss_and_grad = jax.value_and_grad(loss)(params, teacher, *micro_rows, micro_key)
            return shard(jax.tree.map(jnp.add, total, loss_and_grad)), None

        zeros = shard((jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)))
        micro = micro_batches(mesh, rows, training.accumulate)
        total, _ = jax.lax.scan(add, zeros, (micro, jnp.arange(training.accumulate)))
        return jax.tree.map(lambda leaf: leaf / training.accumulate, total)

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> TrainState:
        # Initialisation uses the key itself; steps use keys folded from it.
        key = jax.random.fold_in(random_key(config.seed), state.step)
        loss_value, gradient = loss_and_gradient(state.params, state.teacher, batch, key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if training.ema_ramp:
            decay = jnp.minimum(training.ema_decay, (1.0 + state.step) / (_EMA_RAMP + state.step))
        elif training.init_from:  # keeps the source's EMA; random initial weights are not worth it
            decay = training.ema_decay
        else:
            decay = jnp.where(state.step == 0, 0.0, training.ema_decay)
        ema_params = jax.tree.map(
            lambda ema, new: ema + (1.0 - decay) * (new - ema), state.ema_params, params
        )
        is_reset = state.step % min(training.log_every, _MAX_STEP) == 0
        metrics = {"loss": loss_value, "grad_norm": optax.tree.norm(gradient), "steps": 1.0}
        metric_sums = jax.tree.map(
            lambda total, new: jnp.where(is_reset, 0.0, total) + new,
            state.metric_sums,
            metrics,
        )
        return TrainState(state.step + 1, params, ema_params, opt_state, metric_sums, state.teacher)

    shardings = param_shardings(mesh, state_shapes(config))
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=shardings,
        donate_argnums=0,
    )
