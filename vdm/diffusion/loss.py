"""The training objective: mean squared error of the target, eps, x or v."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vdm.diffusion.process import Network, diffuse, target_value
from vdm.diffusion.schedule import cosine_log_snr

TIME_SAMPLINGS = ("independent", "stratified")


def diffusion_loss(
    key: PRNGKeyArray,
    network: Network,
    x: Float[Array, " batch *shape"],
    *,
    target: str = "eps",
    schedule: Callable[[Array], Array] = cosine_log_snr,
    time_sampling: str = "independent",
) -> Float[Array, " batch"]:
    """Samples the training objective (section 2) for each example of the batch.

    E || target - network(z_t, log_snr_t) ||^2 with t uniform in [0, 1] for each example; the norm
    is a mean over its elements.

    Args:
      key: PRNG key for t and the noise.
      network: maps z [batch, ...] and log_snr [batch] to a prediction of the shape of z.
      x: data [batch, ...].
      target: target of the network: "eps", "x" or "v".
      schedule: t -> log_snr, elementwise.
      time_sampling: "independent" or "stratified", as in `draw_noise`.

    Returns:
      The loss [batch], float32.

    Raises:
      ValueError: if target is not one of process.TARGETS.
    """
    noise, log_snr = draw_noise(key, x.shape, schedule=schedule, time_sampling=time_sampling)
    return loss_given(network, x, noise, log_snr, target=target)


def draw_noise(
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    *,
    schedule: Callable[[Array], Array] = cosine_log_snr,
    time_sampling: str = "independent",
) -> tuple[Float[Array, " batch *shape"], Float[Array, " batch"]]:
    """Draws the noise and log-SNRs of `diffusion_loss` for data of a shape [batch, ...].

    Times are uniform in [0, 1]. "stratified" times are t_i = (u + i / batch) modulo 1 with one
    uniform u: the same expectation as "independent" ones with less variance (Kingma et al. 2021,
    Variational Diffusion Models, the low-discrepancy sampler). Row i is a function of the key, i
    and the shape, so that the loss of a batch can be computed in micro-batches.
    """
    time_key, noise_key = jax.random.split(key)
    batch = shape[0]
    if time_sampling == "stratified":
        offsets = jnp.arange(batch, dtype=jnp.float32) / batch
        t = (jax.random.uniform(time_key, (), jnp.float32) + offsets) % 1.0
    else:
        t = jax.random.uniform(time_key, (batch,), jnp.float32)
    return jax.random.normal(noise_key, shape, jnp.float32), schedule(t)


def loss_at(
    key: PRNGKeyArray,
    network: Network,
    x: Float[Array, " batch *shape"],
    log_snr: Float[Array, " batch"],
    *,
    target: str = "eps",
) -> Float[Array, " batch"]:
    """Samples the training objective at given log-SNRs, for a held-out loss by log-SNR.

    Args:
      key: PRNG key for the noise.
      network: maps z [batch, ...] and log_snr [batch] to a prediction of the shape of z.
      x: data [batch, ...].
      log_snr: log-SNR of each example, [batch].
      target: target of the network: "eps", "x" or "v".

    Returns:
      The loss [batch], float32.

    Raises:
      ValueError: if target is not one of process.TARGETS.
    """
    noise = jax.random.normal(key, x.shape, jnp.float32)
    return loss_given(network, x, noise, log_snr, target=target)


def loss_given(
    network: Network,
    x: Float[Array, " batch *shape"],
    noise: Float[Array, " batch *shape"],
    log_snr: Float[Array, " batch"],
    *,
    target: str = "eps",
) -> Float[Array, " batch"]:
    """Returns the training objective at given standard normal noise and log-SNRs.

    The other arguments, the result and the errors are those of `loss_at`.
    """
    x = x.astype(jnp.float32)
    prediction = network(diffuse(x, noise, log_snr), log_snr)
    error = prediction.astype(jnp.float32) - target_value(x, noise, log_snr, target)
    return jnp.mean(jnp.square(error), axis=tuple(range(1, x.ndim)))
