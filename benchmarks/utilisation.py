"""Model FLOP utilisation of a training step, beside the same network in PyTorch.

    python benchmarks/utilisation.py [--configs ucf101 bair ...] [--batches 1 2 4 8] [--torch]
        [--base-channels=N] [--rounds=N]

For each of configs/ and each batch: seconds of a training step, its products and convolutions as
written, without rematerialisation, a second, and these over the rate of a large matrix product in
the same dtype on the same device, measured in the same run. --torch adds the PyTorch version of an
unconditional configuration (benchmarks/torch_unet.py) through torch.compile, same weights, batch
and precision, in turns with ours. --base-channels makes the networks narrow, for trying the command
on a CPU. A batch that does not fit in memory ends a configuration's row.

Prints and writes benchmarks/results/utilisation_gpu.json, or utilisation_cpu.json.
"""

import argparse

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from measuring import (
    ROOT,
    compared,
    interleaved,
    load_config,
    median_and_quartiles,
    training_step,
    write_result,
)

from vdm.build import init_params

PAPER = ("ucf101", "bair", "kinetics600", "text_small", "text_large", "text_9x128")


def matrix_rate(dtype, size) -> float:
    """Floating-point operations a second of a product of square matrices."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    times = interleaved({"product": lambda: jax.block_until_ready(product(a, a))}, 10)
    return 2 * size**3 / median_and_quartiles(times["product"])["median"]


def torch_training_step(config):
    """The same step in PyTorch: loss, gradients, clipping, Adam and the moving average."""
    import torch
    from torch_unet import TorchSpaceTimeUNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, config.model.dtype)
    params = flatten_dict(jax.device_get(jax.jit(lambda: init_params(config))()), sep="/")
    network = TorchSpaceTimeUNet(config.model, params).to(device)
    average = [value.detach().clone() for value in network.parameters()]
    compiled = torch.compile(network)
    training, data = config.training, config.data
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=training.learning_rate,
        betas=(training.adam_b1, training.adam_b2),
        weight_decay=training.weight_decay,
        fused=True,
    )
    frames = data.frames + data.num_images
    shape = (training.batch_size, frames, data.resolution, data.resolution, data.channels)
    video = torch.zeros(shape, device=device)

    def run():
        log_snr = 20 - 40 * torch.rand(training.batch_size, device=device)
        alpha, sigma = (
            torch.sigmoid(sign * log_snr).sqrt().reshape(-1, 1, 1, 1, 1) for sign in (1, -1)
        )
        noise = torch.randn_like(video)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            predicted = compiled(alpha * video + sigma * noise, log_snr, data.num_images)
        loss = torch.nn.functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
        optimizer.step()
        with torch.no_grad():
            for mean, value in zip(average, network.parameters(), strict=True):
                mean.lerp_(value, 1 - training.ema_decay)
        return loss.item()  # waits

    return run


def measure(config, rate, rounds, with_torch):
    """One row, or None where the device has too little memory."""
    try:
        run, planned, flops, _ = training_step(config)
        steps = {"vdm": run}
        if with_torch:
            steps["torch.compile"] = torch_training_step(config)
        times = compared(interleaved(steps, rounds), next(reversed(steps)))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        return None
    achieved = flops / times["vdm"]["seconds"]["median"]
    return {
        "batch": config.training.batch_size,
        "planned_bytes": planned,
        "flops": flops,
        "flops_per_second": achieved,
        "utilisation": achieved / rate,
        "times": times,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", choices=PAPER, default=PAPER)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 2, 4, 8))
    parser.add_argument("--base-channels", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--torch", action="store_true")
    flags = parser.parse_args()
    on_cpu = jax.default_backend() == "cpu"
    dtype = "float32" if on_cpu else "bfloat16"
    rate = matrix_rate(dtype, 2048 if on_cpu else 8192)
    rows = {}
    for name in flags.configs:
        config = load_config(ROOT / f"configs/{name}.py")
        config.model.dtype = dtype
        if flags.base_channels:
            config.model.base_channels = flags.base_channels
            config.model.head_dim = min(config.model.head_dim, flags.base_channels)
        rows[name] = []
        for batch in flags.batches:
            config.training.batch_size = batch
            with_torch = flags.torch and config.data.condition == "none"
            row = measure(config, rate, flags.rounds, with_torch)
            if row is None:
                break
            print(name, row, flush=True)
            rows[name].append(row)
    packages = ("flax", "torch") if flags.torch else ("flax",)
    write_result(
        "utilisation_cpu" if on_cpu else "utilisation_gpu",
        {
            "base_channels": flags.base_channels or "as in the configurations",
            "dtype": dtype,
            "matrix_flops_per_second": rate,
            "rows": rows,
        },
        *packages,
    )


if __name__ == "__main__":
    main()
