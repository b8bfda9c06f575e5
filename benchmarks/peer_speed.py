"""Training and sampling steps beside lucidrains' video-diffusion-pytorch 0.7.0, layer by layer.

    pip install -e . torch einops tqdm einops-exts rotary-embedding-torch
    pip install --no-deps video-diffusion-pytorch==0.7.0
    python benchmarks/peer_speed.py --layout=small|large [--huge-pages] [--compile] [--rounds=N]

The same layers in PyTorch (the peer's own `Unet3D` with its defaults, in its own GaussianDiffusion
with Adam) and in Flax (benchmarks/peer), from the same weights: the outputs are compared first.
Both have all cores, PyTorch as threads and JAX as devices, and take turns, in float32. --huge-pages
is for both; --compile adds the peer through torch.compile. The same command compares on a GPU.

Prints and writes benchmarks/results/peer_speed_LAYOUT[_huge_pages][_compiled][_gpu].json. Two to
five minutes on two cores; leave the machine alone meanwhile.
"""

import argparse
import os

import jax
import numpy as np
from measuring import compared, interleaved, restart_with_huge_pages, write_result
from peer.steps import LAYOUTS, flax_params, jax_steps, torch_network, torch_steps
from peer.unet3d import Unet3D

LARGEST_DIFFERENCE = 1e-4


def largest_difference(layout, network, params) -> float:
    """Between the outputs of the two networks on one noisy video, relative to their size."""
    import torch

    size = layout.resolution
    z = np.random.default_rng(0).normal(size=(1, layout.frames, size, size, 3)).astype(np.float32)
    time = np.full(1, 300.0, np.float32)
    with jax.default_matmul_precision("highest"):  # or GPUs round the factors to 10 bits
        ours = jax.jit(Unet3D(layout.dim, layout.dim_mults).apply)({"params": params}, z, time)
    with torch.inference_mode():
        channels_first = torch.tensor(z).permute(0, 4, 1, 2, 3)
        theirs = network(channels_first, torch.tensor(time)).permute(0, 2, 3, 4, 1).numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=LAYOUTS, default="small")
    parser.add_argument("--huge-pages", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    if flags.huge_pages:
        restart_with_huge_pages()
    import torch

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    torch.manual_seed(0)
    jax.config.update("jax_num_cpu_devices", cores)
    layout = LAYOUTS[flags.layout]
    network = torch_network(layout)
    params = flax_params(network)
    difference = largest_difference(layout, network, params)
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"the two networks differ by {difference:.1e}; nothing was timed")
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu:
        network = network.cuda()
        torch.set_float32_matmul_precision("high")  # as JAX does there by default
    pairs = {"vdm": jax_steps(layout, params, jax.device_count())}
    pairs["peer"] = torch_steps(layout, network)
    if flags.compile:
        pairs["peer, compiled"] = torch_steps(layout, network, compile=True)
    result = {"layout": flags.layout, "largest_difference": difference, "rounds": flags.rounds}
    for index, step in enumerate(("training_step", "sampling_step")):
        steps = {name: pair[index] for name, pair in pairs.items()}
        result[step] = compared(interleaved(steps, flags.rounds), "peer")
    chosen = {"huge_pages": flags.huge_pages, "compiled": flags.compile, "gpu": on_gpu}
    suffix = "".join(f"_{name}" for name, is_chosen in chosen.items() if is_chosen)
    write_result(
        f"peer_speed_{flags.layout}{suffix}", result, "flax", "torch", "video-diffusion-pytorch"
    )


if __name__ == "__main__":
    main()
