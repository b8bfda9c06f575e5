"""The training objective: mean squared error of the target, eps, x or v."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vdm.diffusion.process import Network, check_choice, diffuse, target_value
from vdm.diffusion.schedule import cosine_log_snr

TIME_SAMPLINGS = ("independent", "stratified")
FRAME_TIMES = ("shared", "independent", "mixed")
LOSS_WEIGHTINGS = ("none", "v")
# Without a bound, a rare time with a huge weight would dominate training. Li and He (2025, arXiv
# 2511.13720) bound the weight too, at 400.
_MAX_WEIGHT = 25.0


def diffusion_loss(
    key: PRNGKeyArray,
    network: Network,
    x: Float[Array, " batch *shape"],
    *,
    target: str = "eps",
    schedule: Callable[[Array], Array] = cosine_log_snr,
    time_sampling: str = "independent",
    frame_times: str = "shared",
    weighting: str = "none",
) -> Float[Array, " batch"]:
    """Samples the training objective (section 2) for each example of the batch.

    E w(log_snr_t) || target - network(z_t, log_snr_t) ||^2 with t uniform in [0, 1] for each
    example. The norm is a mean over elements, and w = 1 unless a weighting is set. With independent
    frame times, each frame has its own t and weight (diffusion forcing, Chen et al. 2024, arXiv
    2407.01392, algorithm 1); with mixed frame times, this holds for about half of the examples.

    Args:
      key: PRNG key for t and the noise.
      network: (z [batch, ...], log_snr [batch] or [batch, frames]) -> a prediction, same shape as
        z.
      x: data [batch, ...].
      target: target of the network: "eps", "x" or "v".
      schedule: t -> log_snr, elementwise.
      time_sampling: "independent" or "stratified", as in `draw_noise`.
      frame_times: one of FRAME_TIMES, as in `draw_noise`.
      weighting: one of LOSS_WEIGHTINGS, as in `error_weight`.

    Returns:
      The loss [batch], float32.

    Raises:
      ValueError: if target is not one of process.TARGETS, time_sampling not one of TIME_SAMPLINGS,
        frame_times not one of FRAME_TIMES, or weighting not one of LOSS_WEIGHTINGS.
    """
    noise, log_snr = draw_noise(
        key, x.shape, schedule=schedule, time_sampling=time_sampling, frame_times=frame_times
    )
    return loss_given(network, x, noise, log_snr, target=target, weighting=weighting)


def draw_noise(
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    *,
    schedule: Callable[[Array], Array] = cosine_log_snr,
    time_sampling: str = "independent",
    frame_times: str = "shared",
) -> tuple[Float[Array, " batch *shape"], Float[Array, " batch *frames"]]:
    """Draws the noise and the log-SNRs of `diffusion_loss`, for data of shape [batch, ...].

    Times are uniform in [0, 1]. "stratified" times are t_i = (u + i / batch) modulo 1 with one
    uniform u: the loss has the same expectation as with "independent" times, and less variance (the
    low-discrepancy sampler of Variational Diffusion Models, Kingma et al. 2021). Row i is a
    function of the key, i and the shape, so that the loss of a batch can be computed in
    micro-batches.

    With "shared" frame times, all frames of an example have one time, and log-SNRs are [batch].
    With "independent" frame times, log-SNRs are [batch, frames]; if stratified, each frame position
    has its own u and its own random order of examples (Latin hypercube sampling), so that the times
    within an example stay independent. With "mixed" frame times, each example uses the time of its
    first frame for all frames with probability 1/2, and independent times otherwise; log-SNRs are
    [batch, frames].

    Args:
      key: PRNG key.
      shape: shape of the data, [batch, ...]; axis 1 is frames, unless frame_times is "shared".
      schedule: t -> log_snr, elementwise.
      time_sampling: one of TIME_SAMPLINGS.
      frame_times: one of FRAME_TIMES.

    Returns:
      (noise, log_snr): standard normal noise of this shape, and log-SNRs [batch] or
      [batch, frames], both float32.

    Raises:
      ValueError: if time_sampling is not one of TIME_SAMPLINGS, or frame_times not one of
        FRAME_TIMES.
    """
    check_choice("time_sampling", time_sampling, TIME_SAMPLINGS)
    check_choice("frame_times", frame_times, FRAME_TIMES)
    time_key, noise_key, share_key = jax.random.split(key, 3)
    batch, per_frame = shape[0], () if frame_times == "shared" else shape[1:2]
    if time_sampling == "stratified":
        offsets = jnp.arange(batch, dtype=jnp.float32) / batch
        if per_frame:
            time_key, order_key = jax.random.split(time_key)
            offsets = jnp.broadcast_to(offsets[:, None], (batch, *per_frame))
            offsets = jax.random.permutation(order_key, offsets, independent=True)
        t = (jax.random.uniform(time_key, per_frame, jnp.float32) + offsets) % 1.0
    else:
        t = jax.random.uniform(time_key, (batch, *per_frame), jnp.float32)
    if frame_times == "mixed":
        shared = jax.random.bernoulli(share_key, shape=(batch, 1))
        t = jnp.where(shared, t[:, :1], t)
    # Drawn flat, which gives the same values: XLA on CPU unrolls loops over small axes, which takes
    # seconds to compile.
    noise = jax.random.normal(noise_key, (batch, math.prod(shape[1:])), jnp.float32)
    return noise.reshape(shape), schedule(t)


def loss_at(
    key: PRNGKeyArray,
    network: Network,
    x: Float[Array, " batch *shape"],
    log_snr: Float[Array, " batch *frames"],
    *,
    target: str = "eps",
) -> Float[Array, " batch"]:
    """Samples the training objective at fixed log-SNRs, for the held-out loss per log-SNR.

    Args:
      key: PRNG key for the noise.
      network: (z [batch, ...], log_snr [batch] or [batch, frames]) -> a prediction, same shape as
        z.
      x: data [batch, ...].
      log_snr: log-SNR of each example, [batch], or of each frame, [batch, frames].
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
    log_snr: Float[Array, " batch *frames"],
    *,
    target: str = "eps",
    weighting: str = "none",
) -> Float[Array, " batch"]:
    """Returns the training objective for fixed noise and log-SNRs.

    Args:
      network: as in `diffusion_loss`.
      x: data [batch, ...].
      noise: standard normal noise, same shape as x.
      log_snr: log-SNR of each example, [batch], or of each frame, [batch, frames].
      target: target of the network: "eps", "x" or "v".
      weighting: one of LOSS_WEIGHTINGS, as in `error_weight`.

    Returns:
      The loss [batch], float32; with one log-SNR per frame, the mean over frames.

    Raises:
      ValueError: target is not one of process.TARGETS, or weighting not one of LOSS_WEIGHTINGS.
    """
    x, log_snr = x.astype(jnp.float32), log_snr.astype(jnp.float32)
    prediction = network(diffuse(x, noise, log_snr), log_snr)
    error = prediction.astype(jnp.float32) - target_value(x, noise, log_snr, target)
    mean = jnp.mean(jnp.square(error), axis=tuple(range(log_snr.ndim, x.ndim)))
    loss = mean if weighting == "none" else error_weight(log_snr, target, weighting) * mean
    return loss.mean(1) if log_snr.ndim == 2 else loss


def error_weight(
    log_snr: Float[Array, "*shape"], target: str, weighting: str
) -> Float[Array, "*shape"]:
    """Returns the weight of the squared error of a target.

    "none" is 1, as in the paper. "v" turns the loss into the squared error of v for any target: the
    weight is SNR + 1 for x and 1 / SNR + 1 for eps (Salimans and Ho 2022, section 4), at most 25.
    With x as the target, this weight teaches detail: without it, small errors at high SNR
    contribute little to the loss.

    Args:
      log_snr: log-SNR, of any shape.
      target: one of process.TARGETS.
      weighting: one of LOSS_WEIGHTINGS.

    Returns:
      The weight, same shape as log_snr.

    Raises:
      ValueError: weighting is not one of LOSS_WEIGHTINGS.
    """
    check_choice("weighting", weighting, LOSS_WEIGHTINGS)
    if weighting == "none" or target == "v":
        return jnp.ones_like(log_snr)
    return jnp.minimum(jnp.exp(log_snr if target == "x" else -log_snr) + 1.0, _MAX_WEIGHT)
