"""A training step and a sampling step of the peer's GaussianDiffusion, in PyTorch and in JAX."""

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from peer.unet3d import Unet3D
from peer.weights import to_flax

LEARNING_RATE = 1e-4
_AXIS = "device"
_TIMESTEPS = 1000


@dataclass(frozen=True)
class Layout:
    """A network and the videos it sees."""

    dim: int
    dim_mults: Sequence[int]
    frames: int
    resolution: int
    batch: int


LAYOUTS = {
    "small": Layout(32, (1, 2, 4), 16, 32, 4),
    "large": Layout(64, (1, 2, 4, 8), 16, 64, 1),
}


def torch_network(layout: Layout):
    """The peer's Unet3D. Of torchvision it needs names for its trainer alone, which is not used."""
    sys.modules.setdefault("torchvision", mock.MagicMock())
    from video_diffusion_pytorch import Unet3D as TorchUnet3D

    return TorchUnet3D(dim=layout.dim, dim_mults=tuple(layout.dim_mults))


def flax_params(network) -> dict:
    """The parameters of the twin of a torch network."""
    return to_flax({name: value.detach().numpy() for name, value in network.state_dict().items()})


def torch_steps(
    layout: Layout, network, *, compile: bool = False
) -> tuple[Callable[[], float], Callable[[], float]]:
    """(train, sample): each makes one step on random videos and returns a number of its result."""
    import torch
    from video_diffusion_pytorch import GaussianDiffusion

    if compile:
        # Each layer for its own shape: what it makes for all shapes at once does not compile.
        # A copy: of the module itself the sampler's method is replaced below.
        network = torch.compile(copy.deepcopy(network), dynamic=False)
    diffusion = GaussianDiffusion(
        network, image_size=layout.resolution, num_frames=layout.frames, timesteps=_TIMESTEPS
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=LEARNING_RATE)
    size = layout.resolution
    device = next(network.parameters()).device
    diffusion.to(device)
    video = torch.rand(layout.batch, 3, layout.frames, size, size, device=device)

    def train():
        optimizer.zero_grad()
        loss = diffusion(video)
        loss.backward()
        optimizer.step()
        return loss.item()

    def sample():
        time = torch.full((layout.batch,), _TIMESTEPS // 2, dtype=torch.long, device=device)
        if compile:  # p_sample calls a method that the compiled module would not see
            diffusion.denoise_fn.forward_with_cond_scale = lambda x, t, cond=None, cond_scale=1.0: (
                network(x, t)
            )
        return diffusion.p_sample(video, time).mean().item()

    return train, sample


def alphas_cumprod() -> np.ndarray:
    """The peer's cosine schedule."""
    steps = np.linspace(0, _TIMESTEPS, _TIMESTEPS + 1) / _TIMESTEPS
    unclipped = np.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.cumprod(1 - np.clip(1 - unclipped[1:] / unclipped[:-1], 0, 0.9999))


def jax_steps(
    layout: Layout, params: dict, devices: int
) -> tuple[Callable[[], float], Callable[[], float]]:
    """(train, sample) of the twin, split over devices: by videos, or else by frames."""
    mesh = jax.make_mesh((devices,), (_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    by_video = layout.batch % devices == 0
    spec = PartitionSpec(_AXIS) if by_video else PartitionSpec(None, _AXIS)
    network = Unet3D(
        layout.dim, layout.dim_mults, frames_axis=None if by_video or devices == 1 else _AXIS
    )
    signal = alphas_cumprod()
    signal_rate = jnp.asarray(np.sqrt(signal), jnp.float32)
    noise_rate = jnp.asarray(np.sqrt(1 - signal), jnp.float32)
    optimizer = optax.adam(LEARNING_RATE)
    on_all = PartitionSpec()

    def loss(params, z, noise, time):
        return jnp.abs(network.apply({"params": params}, z, time) - noise).mean()

    def times(key, batch):
        # With frames split, all devices have the same videos, and so the same times.
        key = jax.random.fold_in(key, jax.lax.axis_index(_AXIS)) if by_video else key
        return jax.random.randint(key, (batch,), 0, _TIMESTEPS)

    def noise_like(key, video):
        return jax.random.normal(jax.random.fold_in(key, jax.lax.axis_index(_AXIS)), video.shape)

    @partial(jax.jit, donate_argnums=(0, 1))
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(on_all, on_all, spec, on_all),
        out_specs=on_all,
        check_vma=False,
    )
    def train_step(params, opt_state, video, key):
        time_key, noise_key = jax.random.split(key)
        time, noise = times(time_key, video.shape[0]), noise_like(noise_key, video)
        rates = (a[time][:, None, None, None, None] for a in (signal_rate, noise_rate))
        z = next(rates) * (2 * video - 1) + next(rates) * noise
        value, gradient = jax.value_and_grad(loss)(params, z, noise, time.astype(jnp.float32))
        value, gradient = jax.lax.pmean((value, gradient), _AXIS)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    step, before = _TIMESTEPS // 2, signal[_TIMESTEPS // 2 - 1]
    beta = 1 - signal[step] / before

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(on_all, spec, on_all),
        out_specs=spec,
        check_vma=False,
    )
    def sample_step(params, z, key):
        time = jnp.full(z.shape[0], float(step))
        noise = network.apply({"params": params}, z, time)
        x = jnp.clip((z - (1 - signal[step]) ** 0.5 * noise) / signal[step] ** 0.5, -1, 1)
        mean = (beta * before**0.5 * x + (1 - before) * (1 - beta) ** 0.5 * z) / (1 - signal[step])
        deviation = (beta * (1 - before) / (1 - signal[step])) ** 0.5
        return mean + deviation * noise_like(key, z)

    replicated = NamedSharding(mesh, on_all)
    params = jax.device_put(jax.tree.map(np.array, params), replicated)
    # Where the step leaves it, or the second step would be compiled anew.
    state = [params, jax.jit(optimizer.init, out_shardings=replicated)(params)]
    sampling_params = jax.tree.map(jnp.copy, params)
    shape = (layout.batch, layout.frames, layout.resolution, layout.resolution, 3)
    video = np.random.default_rng(0).random(shape, np.float32)
    video = jax.device_put(video, NamedSharding(mesh, spec))
    keys = iter(jax.random.split(jax.random.key(0), 10_000))

    def train():
        state[0], state[1], value = train_step(*state, video, next(keys))
        return float(value)

    def sample():
        return float(jax.block_until_ready(sample_step(sampling_params, video, next(keys))).mean())

    return train, sample
