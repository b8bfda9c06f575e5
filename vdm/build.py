"""From a configuration to the network, the noise schedule and the denoiser."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections

from vdm.diffusion.process import Denoiser, denoiser
from vdm.diffusion.schedule import cosine_log_snr
from vdm.models.unet import SpaceTimeUNet


def make_model(config: ml_collections.ConfigDict) -> SpaceTimeUNet:
    """The network of config.model."""
    return SpaceTimeUNet(**config.model)


def make_schedule(config: ml_collections.ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """The cosine schedule, truncated as config.diffusion says: t -> log_snr."""
    return partial(
        cosine_log_snr,
        log_snr_min=config.diffusion.log_snr_min,
        log_snr_max=config.diffusion.log_snr_max,
    )


def make_denoiser(
    config: ml_collections.ConfigDict, params: dict, condition: Mapping[str, jax.Array]
) -> Denoiser:
    """The network with parameters and a condition bound: (z, log_snr) -> x_hat."""
    model = make_model(config)

    def network(z, log_snr):
        return model.apply({"params": params}, z, log_snr, condition)

    return denoiser(network, target=config.diffusion.target, clip=config.diffusion.clip)


def init_params(config: ml_collections.ConfigDict) -> dict:
    """The network's initial parameters, a function of config.seed; can be jitted."""
    data, model = config.data, config.model
    z = jnp.zeros(
        (1, data.frames + data.num_images, data.resolution, data.resolution, data.channels)
    )
    condition = {}
    if data.condition == "label":
        condition = {"label": jnp.zeros(1, jnp.int32)}
    elif data.condition == "text":
        condition = {
            "text": jnp.zeros((1, data.text_tokens, model.text_width)),
            "text_mask": jnp.ones((1, data.text_tokens), bool),
        }
    variables = make_model(config).init(
        jax.random.key(config.seed), z, jnp.zeros(1), condition, num_images=data.num_images
    )
    return variables["params"]


def count_parameters(params: dict) -> int:
    """Number of scalars in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
