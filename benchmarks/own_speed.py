"""Speed compared with the same network in PyTorch: training step, evaluation and guided evaluation.

    pip install -e . torch
    python benchmarks/own_speed.py [--resolution=32] [--batch=4] [--dtype=float32] [--rounds=7]
        [--untimed=0] [--compile]
    python benchmarks/own_speed.py --config=FILE [--batch=4] [--rounds=7] [--untimed=0] [--compile]

The default is an unconditional network of 32 base channels on 4 videos of 16x32x32. With
--resolution=64 --batch=2, it runs on 2 videos of 16x64x64. Both networks have the same architecture
(benchmarks/torch_unet.py), dtype and cores. PyTorch uses the cores as threads, and JAX as devices.
The networks run alternately. Before the timing, their outputs for the same weights are compared.
--untimed=2 runs each network three times in a row, and times the last run, as in a training, where
no other network runs in between.

- The training step includes the loss, gradients, clipping, Adam and the EMA.
- The guided evaluation includes the gradient of the sum of squares of the first frame with respect
  to the input, like reconstruction guidance.

--compile adds torch.compile. With --dtype=bfloat16, PyTorch computes with autocast, and our network
is also timed in float32. --config takes any unconditional configuration, on a GPU for example
configs/ucf101.py. Huge pages (GLIBC_TUNABLES=glibc.malloc.hugetlb=1) change the ratio: they spare
both networks page faults on new memory.

Prints and writes benchmarks/results/own_speed_LAYOUT.json, with the suffixes _bfloat16, _compile,
_in_a_row, _huge_pages and _gpu, in this order. Takes a few minutes on two cores without other load.
"""

import argparse
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch_unet import TorchSpaceTimeUNet

from vdm.build import make_model
from vdm.config import default_config
from vdm.models.unet import DTYPES
from vdm.parallel.mesh import batch_sharding, make_mesh


def small_config(resolution, batch, dtype="float32"):
    """Returns a layout of 32 base channels, down to 8x8 pixels, without independent images."""
    config = default_config()
    multipliers = tuple(2**level for level in range(int(math.log2(resolution // 4))))
    config.data.update(frames=16, resolution=resolution, num_images=0, condition="none")
    config.model.update(base_channels=32, channel_multipliers=multipliers, head_dim=32)
    config.model.update(attention_resolutions=(8, 16, 32), dtype=dtype)
    config.training.batch_size = batch
    return config


class Steps(NamedTuple):
    """The timed functions of one network."""

    training_step: Callable[[], object]
    evaluation: Callable[[], np.ndarray]
    guided: Callable[[], np.ndarray]


def our_steps(config, params, z, log_snr) -> Steps:
    """Returns the steps of the Flax network on all devices."""
    num_images = config.data.num_images
    apply = partial(make_model(config).apply, num_images=num_images)
    z, log_snr = jax.device_put((z, log_snr), batch_sharding(make_mesh(config)))

    @jax.jit
    def evaluate(params, z, log_snr):
        return apply({"params": params}, z, log_snr)

    @jax.jit
    @partial(jax.grad, argnums=1)
    def guide(params, z, log_snr):
        return jnp.square(apply({"params": params}, z, log_snr)[:, 0]).sum()

    return Steps(
        measuring.measured_step(config, "train").run,
        lambda: np.asarray(evaluate(params, z, log_snr)),
        lambda: np.asarray(guide(params, z, log_snr)),
    )


def torch_steps(config, network, z, log_snr) -> Steps:
    """Returns the steps of a PyTorch network."""
    device, training = z.device.type, config.training
    dtype = getattr(torch, config.model.dtype)
    ema = [value.detach().clone() for value in network.parameters()]
    options = {"lr": training.learning_rate, "betas": (training.adam_b1, training.adam_b2)}
    options |= {"weight_decay": training.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(network.parameters(), **options)

    def predict(z, log_snr):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return network(z, log_snr, config.data.num_images)

    def train():
        network.train()
        log_snr = 20 - 40 * torch.rand(len(z), device=device)
        alpha, sigma = (
            torch.sigmoid(sign * log_snr).sqrt().reshape(-1, 1, 1, 1, 1) for sign in (1, -1)
        )
        noise = torch.randn_like(z)
        loss = torch.nn.functional.mse_loss(predict(alpha * z + sigma * noise, log_snr), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
        optimizer.step()
        with torch.no_grad():
            for mean, value in zip(ema, network.parameters(), strict=True):
                mean.lerp_(value, 1 - training.ema_decay)
        return loss.item()  # waits for the device

    @torch.inference_mode()
    def evaluate():
        network.eval()
        return predict(z, log_snr).cpu().numpy()

    def guide():
        network.eval().requires_grad_(False)
        observed = z.clone().requires_grad_()
        error = predict(observed, log_snr)[:, 0].square().sum()
        (gradient,) = torch.autograd.grad(error, observed)
        network.requires_grad_(True)
        return gradient.cpu().numpy()

    return Steps(train, evaluate, guide)


def compare(steps: Mapping[str, Steps], rounds: int, untimed: int = 0) -> dict[str, dict]:
    """Returns the times of each kind of step, run alternately, over those of 'pytorch'."""
    result = {}
    for kind in Steps._fields:
        runs = {name: getattr(network_steps, kind) for name, network_steps in steps.items()}
        times = measuring.interleaved(runs, rounds, untimed)
        result[kind] = measuring.compared(times, "pytorch")
    return result


def make_inputs(config, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random latents and log-SNRs."""
    data, rng = config.data, np.random.default_rng(0)
    shape = (batch, data.frames + data.num_images, data.resolution, data.resolution)
    z = rng.normal(size=(*shape, data.channels)).astype(np.float32)
    return z, rng.uniform(-20, 20, batch).astype(np.float32)


def use_all_cores(batch: int) -> None:
    """Gives each library all cores: threads of PyTorch, devices of JAX."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    torch.set_float32_matmul_precision("high")  # JAX's default on GPUs
    jax.config.update("jax_num_cpu_devices", math.gcd(cores, batch))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="a file in configs/; by default the small layout")
    parser.add_argument("--resolution", type=int, help="of the small layout (default: 32)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the small layout (default: float32)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--untimed", type=int, default=0, help="runs in a row before a timed one")
    parser.add_argument("--compile", action="store_true")
    flags = parser.parse_args()
    if flags.config and (flags.resolution or flags.dtype):
        parser.error("--resolution and --dtype are of the small layout, not of --config")
    resolution = flags.resolution or 32
    use_all_cores(flags.batch)
    if flags.config:
        config = measuring.load_config(flags.config)
        config.training.batch_size = flags.batch
    else:
        config = small_config(resolution, flags.batch, flags.dtype or "float32")
    data, on_gpu = config.data, jax.default_backend() == "gpu"

    params = jax.jit(lambda: measuring.nonzero_params(config))()
    z, log_snr = make_inputs(config, flags.batch)
    steps = {"vdm": our_steps(config, params, z, log_snr)}
    half = flags.dtype == "bfloat16"
    if half:
        single = small_config(resolution, flags.batch)
        steps["vdm in float32"] = our_steps(single, params, z, log_snr)
    inputs = [torch.tensor(value, device="cuda" if on_gpu else "cpu") for value in (z, log_snr)]
    for name in ("pytorch", "torch.compile")[: 1 + flags.compile]:
        network = TorchSpaceTimeUNet(config.model, flatten_dict(jax.device_get(params), sep="/"))
        network = network.to(inputs[0].device)
        network = torch.compile(network) if name == "torch.compile" else network
        steps[name] = torch_steps(config, network, *inputs)
    difference = 0.0
    for kind in ("evaluation", "guided"):
        ours, theirs = (getattr(steps[name], kind)() for name in ("vdm", "pytorch"))
        difference = max(difference, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    if difference > (5e-2 if on_gpu or config.model.dtype == "bfloat16" else 1e-4):
        raise SystemExit(f"the two networks differ by {difference:.1e}; nothing was timed")
    result = {"rounds": flags.rounds, "untimed": flags.untimed, "videos": flags.batch}
    result |= {"relative_difference": difference}
    result |= compare(steps, flags.rounds, flags.untimed)
    suffixes = {
        "bfloat16": half,
        "compile": flags.compile,
        "in_a_row": flags.untimed > 0,
        "huge_pages": measuring.has_huge_pages(),
        "gpu": on_gpu,
    }
    layout = (
        pathlib.Path(flags.config).stem if flags.config else f"{data.resolution}x{data.resolution}"
    )
    names = ["own_speed", layout]
    names += [suffix for suffix, applies in suffixes.items() if applies]
    measuring.write_result("_".join(names), result, "flax", "torch")


if __name__ == "__main__":
    main()
