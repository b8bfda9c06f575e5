"""From a configuration to the network, the noise schedule and the denoiser."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections

from vdm.diffusion.guidance import extrapolate
from vdm.diffusion.process import Denoiser, denoiser
from vdm.diffusion.schedule import cosine_log_snr
from vdm.models.unet import SpaceTimeUNet


def make_model(config: ml_collections.ConfigDict) -> SpaceTimeUNet:
    """The network of config.model."""
    return SpaceTimeUNet(**config.model)


def make_schedule(config: ml_collections.ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """The cosine schedule, truncated and shifted as config.diffusion says: t -> log_snr."""
    diffusion = config.diffusion
    limits = {"log_snr_min": diffusion.log_snr_min, "log_snr_max": diffusion.log_snr_max}
    return lambda t: cosine_log_snr(t, **limits) + diffusion.log_snr_shift


def make_denoiser(
    config: ml_collections.ConfigDict,
    params: dict,
    condition: Mapping[str, jax.Array],
    *,
    clip: bool | None = None,
) -> Denoiser:
    """The network with parameters and a condition bound: (z, log_snr) -> x_hat.

    With config.sample.guidance_weight other than 1, classifier-free guidance (eq 6): one call of
    the network on twice the batch, with and without the condition. At 0 there is no condition.

    Args:
      config: the configuration.
      params: the network's parameters.
      condition: what `models.embeddings.ConditioningEmbedding` reads.
      clip: x_hat to [-1, 1]; by default as config.diffusion.clip says.
    """
    model, weight = make_model(config), config.sample.guidance_weight

    def network(z, log_snr):
        if not condition or weight in (0, 1):
            return model.apply({"params": params}, z, log_snr, condition if weight else {})
        twice = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), condition, absent(condition))
        both = model.apply(
            {"params": params}, jnp.concatenate([z, z]), jnp.concatenate([log_snr] * 2), twice
        )
        return extrapolate(*jnp.split(both, 2), weight)

    clip = config.diffusion.clip if clip is None else clip
    return denoiser(network, target=config.diffusion.target, clip=clip)


def absent(condition: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """'No condition' in the shape of a condition: label -1, or a text without tokens."""
    return {
        name: jnp.full_like(value, -1 if name == "label" else 0)
        for name, value in condition.items()
    }


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
