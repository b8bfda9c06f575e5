"""The training objective of a configuration: the diffusion loss, or the distillation of a teacher.

An objective first draws all random numbers of a batch, so that its loss can be computed in
micro-batches.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vdm.build import empty_condition, is_student, make_model, make_schedule
from vdm.diffusion.distillation import (
    distillation_loss,
    draw_observed,
    student_log_snr,
    two_step_target,
)
from vdm.diffusion.guidance import ConditionalDenoiser, classifier_free_guidance
from vdm.diffusion.loss import draw_noise, loss_given
from vdm.diffusion.process import Denoiser, Network, denoiser, diffuse
from vdm.models.unet import SpaceTimeUNet

Batch = Mapping[str, jax.Array]


class Objective(NamedTuple):
    """A training objective.

    Attributes:
      draw: (key, batch, shape of x) -> (batch, draws), with draws a pytree of arrays [batch, ...].
      loss: (params, teacher, batch, x, draws, dropout key) -> loss [batch]; `teacher` holds the
        teacher's parameters when a student is trained.
    """

    draw: Callable[..., tuple[Batch, tuple]]
    loss: Callable[..., jax.Array]


def training_network(
    config: ml_collections.ConfigDict,
    model: SpaceTimeUNet,
    params: dict,
    batch: Batch,
    dropout_key: jax.Array,
) -> Network:
    """Returns the network in training, with dropout: (z, log_snr) -> prediction."""

    def network(z, log_snr):
        return model.apply(
            {"params": params},
            z,
            log_snr,
            batch,
            num_images=config.data.num_images,
            train=True,
            rngs={"dropout": dropout_key},
        )

    return network


def make_objective(config: ml_collections.ConfigDict) -> Objective:
    """Returns the objective of config.training and config.diffusion."""
    return _distillation(config) if is_student(config) else _diffusion(config)


def _diffusion(config: ml_collections.ConfigDict) -> Objective:
    model, schedule = make_model(config), make_schedule(config)

    def draw(key, batch, shape):
        diffusion = config.diffusion
        return batch, draw_noise(
            key,
            shape,
            schedule=schedule,
            time_sampling=diffusion.time_sampling,
            frame_times=diffusion.frame_times,
        )

    def loss(params, teacher, batch, x, draws, dropout_key):
        network = training_network(config, model, params, batch, dropout_key)
        diffusion = config.diffusion
        return loss_given(
            network, x, *draws, target=diffusion.target, weighting=diffusion.loss_weighting
        )

    return Objective(draw, loss)


def _distillation(config: ml_collections.ConfigDict) -> Objective:
    """Returns the objective of a student: two teacher steps, or the guided teacher, as the target.

    The student and the teacher see the same conditions: config.model.condition_dropout drops them
    from the batch itself. With a diffusion-forcing teacher, both observe clean frames, as in
    sampling.
    """
    diffusion, training = config.diffusion, config.training
    schedule, num_steps = make_schedule(config), training.distill_steps
    model = make_model(config).clone(condition_dropout=0.0)

    def draw(key, batch, shape):
        noise_key, condition_key, weight_key, observed_key = jax.random.split(key, 4)
        noise, t = draw_noise(
            noise_key, shape, schedule=lambda t: t, time_sampling=diffusion.time_sampling
        )
        batch = drop_conditions(condition_key, batch, config.model.condition_dropout)
        if config.model.guidance_weights:
            low, high = config.model.guidance_weights
            weight = jax.random.uniform(weight_key, shape[:1], minval=low, maxval=high)
            batch = {**batch, "guidance_weight": weight}
        log_snrs = student_log_snr(t, num_steps, schedule) if num_steps else (schedule(t),)
        observed = None
        if diffusion.frame_times != "shared":
            frames, images = config.data.frames, config.data.num_images
            observed = draw_observed(observed_key, len(t), frames, config.predict.num_given)
            observed = jnp.pad(observed, ((0, 0), (0, images)))
            of_data = schedule(jnp.float32(0.0))
            log_snrs = tuple(jnp.where(observed, of_data, each[:, None]) for each in log_snrs)
        return batch, (noise, log_snrs, observed)

    def loss(params, teacher, batch, x, draws, dropout_key):
        noise, (log_snr, *later), observed = draws
        z = diffuse(x.astype(jnp.float32), noise, log_snr)
        if num_steps:
            x_target = two_step_target(_teacher(config, teacher, batch), z, log_snr, *later)
        else:
            x_target = _guided_teacher(config, teacher, batch)(z, log_snr)

        return distillation_loss(
            training_network(config, model, params, batch, dropout_key),
            z,
            log_snr,
            x_target,
            target=diffusion.target,
            weighting=training.distill_weighting,
            observed=observed,
        )

    return Objective(draw, loss)


def _teacher(config: ml_collections.ConfigDict, params: dict, batch: Batch) -> Denoiser:
    """Returns the teacher as in sampling: without dropout, and clipped by config.diffusion.clip."""
    network = ConditionalDenoiser(_network(config, params), _conditions(batch))
    return denoiser(network, target=config.diffusion.target, clip=config.diffusion.clip)


def _guided_teacher(config: ml_collections.ConfigDict, params: dict, batch: Batch) -> Denoiser:
    """Returns the teacher with classifier-free guidance (eq 6), with one weight per video."""
    network, condition = _network(config, params), _conditions(batch)
    weight = condition.pop("guidance_weight")  # not an input of this teacher
    guided = classifier_free_guidance(
        ConditionalDenoiser(network, condition),
        ConditionalDenoiser(network, empty_condition(condition)),
        weight,
    )
    return denoiser(guided, target=config.diffusion.target, clip=False)


def _network(config: ml_collections.ConfigDict, params: dict) -> Callable[..., jax.Array]:
    model, num_images = make_model(config), config.data.num_images

    def network(z, log_snr, condition):
        return model.apply({"params": params}, z, log_snr, condition, num_images=num_images)

    return network


def _conditions(batch: Batch) -> dict[str, jax.Array]:
    return {name: value for name, value in batch.items() if name not in ("video", "images")}


def drop_conditions(key: jax.Array, batch: Batch, rate: float) -> dict[str, jax.Array]:
    """Drops the conditions of random videos and of random independent images.

    Args:
      key: PRNG key; row i is a function of the key, i and the batch size.
      batch: the batch.
      rate: probability that a condition is dropped.
    """
    dropped = dict(batch)
    if not rate:
        return dropped
    for name, value in batch.items():
        if not name.endswith(("label", "mask")):
            continue
        # Conditions of independent images are [batch, images, ...].
        of_images = name.startswith("image_")
        shape = value.shape[: 2 if of_images else 1]
        keep = jax.random.bernoulli(jax.random.fold_in(key, of_images), 1.0 - rate, shape)
        keep = keep.reshape(*shape, *[1] * (value.ndim - len(shape)))
        dropped[name] = jnp.where(keep, value, -1 if name.endswith("label") else False)
    return dropped
