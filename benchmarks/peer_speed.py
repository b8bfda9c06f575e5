"""Speed compared with lucidrains' Unet3D, at about equal parameter counts and on the same data.

    pip install -e . torch torchvision video-diffusion-pytorch
    python benchmarks/peer_speed.py [--resolution=32] [--batch=4] [--rounds=5]

Compares three networks that a user can choose from: the U-Net of this package (in the layout of
benchmarks/own_speed.py), the same layers in PyTorch, and the 3D U-Net of video-diffusion-pytorch.
The width of the last network gives the nearest number of parameters. Its design differs: spatial
attention is linear except in the middle, and position embeddings are rotary. The networks run
alternately, in float32 on all cores. Each runs a training step, an evaluation and a guided
evaluation as in benchmarks/own_speed.py.

Prints and writes benchmarks/results/peer_speed_LAYOUT.json. Takes ten minutes on two cores.
"""

import argparse

import jax
import measuring
import torch
from flax.traverse_util import flatten_dict
from own_speed import (
    compare,
    make_inputs,
    our_steps,
    small_config,
    torch_steps,
    use_all_cores,
)
from torch_unet import TorchSpaceTimeUNet
from video_diffusion_pytorch import Unet3D

from vdm.build import count_parameters

_WIDTHS = range(32, 97, 8)  # the peer's group norm needs a multiple of 8


class Peer(torch.nn.Module):
    """Unet3D with the inputs, outputs and layout of this package's network."""

    def __init__(self, config, parameters: int):
        super().__init__()
        multipliers = config.model.channel_multipliers
        networks = (Unet3D(dim=width, dim_mults=multipliers) for width in _WIDTHS)
        self.unet = min(networks, key=lambda network: abs(_count(network) - parameters))

    def forward(self, z, log_snr, num_images=0):
        times = 500 - 25 * log_snr  # its times are in 0 to 1000
        return self.unet(z.permute(0, 4, 1, 2, 3), times).permute(0, 2, 3, 4, 1)


def _count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    use_all_cores(flags.batch)
    config = small_config(flags.resolution, flags.batch)
    params = jax.jit(lambda: measuring.nonzero_params(config))()
    z, log_snr = make_inputs(config, flags.batch)
    inputs = torch.tensor(z), torch.tensor(log_snr)
    ours = TorchSpaceTimeUNet(config.model, flatten_dict(jax.device_get(params), sep="/"))
    peer = Peer(config, count_parameters(params))
    steps = {
        "vdm": our_steps(config, params, z, log_snr),
        "pytorch": torch_steps(config, ours, *inputs),
        "video-diffusion-pytorch": torch_steps(config, peer, *inputs),
    }
    parameters = {"vdm": count_parameters(params), "video-diffusion-pytorch": _count(peer)}
    result = {"rounds": flags.rounds, "videos": flags.batch, "parameters": parameters}
    result |= compare(steps, flags.rounds)
    name = f"peer_speed_{flags.resolution}x{flags.resolution}"
    measuring.write_result(name, result, "flax", "torch", "video-diffusion-pytorch")


if __name__ == "__main__":
    main()
