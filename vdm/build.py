"""Builds the network, the noise schedule and the denoiser of a configuration."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict

from vdm.diffusion.guidance import ConditionalDenoiser, classifier_free_guidance
from vdm.diffusion.process import Denoiser, Network, denoiser
from vdm.diffusion.schedule import cosine_log_snr
from vdm.models.unet import SpaceTimeUNet


def make_model(config: ml_collections.ConfigDict) -> SpaceTimeUNet:
    """Returns the network of config.model."""
    return SpaceTimeUNet(**config.model)


def make_schedule(config: ml_collections.ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Returns the schedule t -> log_snr: cosine, truncated and shifted by config.diffusion."""
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
    """Returns the network with parameters and condition bound: (z, log_snr) -> x_hat.

    If config.sample.guidance_weight is not 0 or 1, this applies classifier-free guidance (eq 6), in
    one call of the network on twice the batch. A guided student takes the weight as an input, in
    one call on the batch. Weight 0 ignores the condition. `condition` has the inputs of
    `models.embeddings.ConditioningEmbedding`, or is {}. `clip` (to [-1, 1]) overrides
    config.diffusion.clip.
    """
    model, weight = make_model(config), config.sample.guidance_weight
    is_input = bool(config.model.guidance_weights)

    def network(z, log_snr, condition):
        if is_input:
            condition = {**condition, "guidance_weight": jnp.full(len(z), weight, jnp.float32)}
        return model.apply({"params": params}, z, log_snr, condition)

    # Guidance applies to the raw prediction, which is linear in eps; x_hat is clipped afterwards.
    guided: Network = ConditionalDenoiser(network, condition if weight or is_input else {})
    if condition and evaluates_twice(config):
        unconditional = ConditionalDenoiser(network, empty_condition(condition))
        guided = classifier_free_guidance(guided, unconditional, weight)
    clip = config.diffusion.clip if clip is None else clip
    return denoiser(guided, target=config.diffusion.target, clip=clip)


def evaluates_twice(config: ml_collections.ConfigDict) -> bool:
    """Returns whether guidance evaluates the network twice per conditional step."""
    return config.sample.guidance_weight not in (0, 1) and not config.model.guidance_weights


def is_student(config: ml_collections.ConfigDict) -> bool:
    """Returns whether training distils a teacher, to fewer steps or into one guided call."""
    return bool(config.training.distill_steps or config.model.guidance_weights)


def empty_condition(condition: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns 'no condition' with the shapes of a condition: label -1, text or actions masked."""
    return {
        name: jnp.full_like(value, -1 if name.endswith("label") else 0)
        for name, value in condition.items()
    }


def init_params(config: ml_collections.ConfigDict) -> dict:
    """Returns the initial parameters, a function of config.seed. Can be jitted."""
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
    elif data.condition == "action":
        condition = {
            "action": jnp.zeros((1, data.frames, model.action_width)),
            "action_mask": jnp.ones((1, data.frames), bool),
        }
    variables = make_model(config).init(
        random_key(config.seed), z, jnp.zeros(1), condition, num_images=data.num_images
    )
    return variables["params"]


def random_key(seed: int | jax.Array) -> jax.Array:
    """Returns a PRNG key of a fixed generator, since results must not depend on JAX's default."""
    return jax.random.key(seed, impl="threefry2x32")


def parameter_shapes(
    config: ml_collections.ConfigDict, name: object = "this configuration"
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter by its path, 'middle_0/residual/conv_1/conv/kernel'.

    Raises:
      ValueError: the configuration fits no network; `name` is what the message calls it.
    """
    try:
        params = jax.eval_shape(partial(init_params, config))
    except Exception as error:  # Flax and JAX raise many exception types on invalid values.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"config.model and config.data of {name} fit no network: {reason}"
        ) from error
    return {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}


def count_parameters(params: dict) -> int:
    """Returns the number of scalars in a pytree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
