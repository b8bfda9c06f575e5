"""Compiles what the product compiles, instead of one operation after another."""

from functools import partial

import jax

from vdm import build


def init_params(config):
    """Returns the initial parameters of a configuration."""
    return jax.jit(partial(build.init_params, config))()
