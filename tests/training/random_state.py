"""A training state of random numbers, a function of its step."""

import jax
import jax.numpy as jnp

from vdm.training.state import TrainState


def random_state(step, size):
    """Returns a state whose parameters, EMA and moments are one matrix [size, size]."""
    params = {"kernel": jax.random.normal(jax.random.key(step), (size, size))}
    return TrainState(jnp.int32(step), params, params, (params,), {"loss": jnp.zeros(())})
