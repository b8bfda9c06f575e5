"""Throughput of I3D in videos per second, compared with the same network in PyTorch.

    pip install -e ".[metrics]" torch
    python benchmarks/i3d_throughput.py

Both networks use the published weights, one thread per core, float32, and one video of 16x224x224
per core. PyTorch runs with channels first and with channels last, and the faster layout counts. The
runs are interleaved. The result is the median of the ratios within a round. Other load on the
machine slows PyTorch far more than JAX.

Prints and writes benchmarks/results/i3d_throughput.json. Takes two minutes on two cores.
"""

import argparse
import os
import statistics
from functools import partial

import jax
import numpy as np
import torch
from measuring import compared, interleaved, write_result
from torch.nn import functional

from vdm.metrics.features import make_extractor
from vdm.metrics.networks.layers import same_padding
from vdm.metrics.weights.files import load_weights

VIDEOS, ROUNDS = os.cpu_count(), 15


class TorchI3D:
    """I3D with 3D convolutions, batch norm folded into them, in a given memory format."""

    def __init__(self, tensors, memory_format):
        self._memory_format = memory_format
        self._units = {}
        for name in {name.rpartition("/")[0] for name in tensors}:
            kernel = tensors[f"{name}/kernel"].transpose(4, 3, 0, 1, 2)
            if f"{name}/bias" in tensors:
                bias = tensors[f"{name}/bias"]
            else:
                gain = 1 / np.sqrt(tensors[f"{name}/variance"] + 1e-3)
                kernel = kernel * gain[:, None, None, None, None]
                bias = tensors[f"{name}/beta"] - tensors[f"{name}/mean"] * gain
            kernel = torch.tensor(kernel).contiguous(memory_format=memory_format)
            self._units[name] = kernel, torch.tensor(bias)

    def __call__(self, videos):
        h = torch.from_numpy(videos).permute(0, 4, 1, 2, 3)
        h = h.contiguous(memory_format=self._memory_format)
        h = self._unit(h, "Conv3d_1a_7x7", 2)
        h = self._pool(h, (1, 3, 3), (1, 2, 2))
        h = self._unit(h, "Conv3d_2b_1x1")
        h = self._unit(h, "Conv3d_2c_3x3")
        h = self._pool(h, (1, 3, 3), (1, 2, 2))
        for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
            if name == "4b":
                h = self._pool(h, (3, 3, 3), (2, 2, 2))
            if name == "5b":
                h = self._pool(h, (2, 2, 2), (2, 2, 2))
            h = self._mixed(h, f"Mixed_{name}")
        h = functional.avg_pool3d(h, (2, 7, 7), stride=1)
        kernel, bias = self._units["Logits/Conv3d_0c_1x1"]
        return functional.conv3d(h, kernel, bias)[:, :, :, 0, 0].mean(2).numpy()

    def _mixed(self, h, name):
        pooled = self._pool(h, (3, 3, 3), (1, 1, 1))
        branches = [self._unit(h, f"{name}/Branch_0/Conv3d_0a_1x1")]
        for branch in ("Branch_1", "Branch_2"):
            inner = self._unit(h, f"{name}/{branch}/Conv3d_0a_1x1")
            branches.append(self._unit(inner, f"{name}/{branch}/Conv3d_0b_3x3"))
        branches.append(self._unit(pooled, f"{name}/Branch_3/Conv3d_0b_1x1"))
        return torch.cat(branches, 1)

    def _unit(self, h, name, stride=1):
        kernel, bias = self._units[name]
        h = _padded(h, kernel.shape[2:], (stride,) * 3, 0.0)
        return functional.relu(functional.conv3d(h, kernel, bias, stride))

    @staticmethod
    def _pool(h, window, strides):
        return functional.max_pool3d(_padded(h, window, strides, -torch.inf), window, strides)


def _padded(h, window, strides, fill):
    """TensorFlow's 'SAME' padding."""
    widths = [
        same_padding(size, w, stride)
        for size, w, stride in zip(h.shape[2:], window, strides, strict=True)
    ]
    flat = [width for pair in reversed(widths) for width in pair]
    return functional.pad(h, flat, value=fill) if any(flat) else h


@torch.inference_mode()
def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(os.cpu_count())
    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # as python -m vdm.metrics does
    extractor = make_extractor("i3d")
    tensors = load_weights("i3d")
    peers = {
        "pytorch": TorchI3D(tensors, torch.contiguous_format),
        "pytorch, channels_last_3d": TorchI3D(tensors, torch.channels_last_3d),
    }
    networks = {"vdm": lambda videos: extractor.of_preprocessed(videos)["features"]} | peers
    videos = np.random.default_rng(0).uniform(-1, 1, (VIDEOS, 16, 224, 224, 3)).astype(np.float32)
    ours, *theirs = (network(videos) for network in networks.values())
    runs = {name: partial(network, videos) for name, network in networks.items()}
    times = interleaved(runs, ROUNDS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peer = min(peers, key=medians.get)
    ratio = compared(times, peer)["vdm"]["time_over_reference"]
    result = {
        "largest_difference_of_logits": max(float(np.abs(ours - x).max()) for x in theirs),
        "videos_per_second": {name: VIDEOS / median for name, median in medians.items()},
        "faster_pytorch": peer,
        "time_over_pytorch": ratio["median"],
        "time_quartiles": ratio["quartiles"],
    }
    write_result("i3d_throughput", result, "torch")


if __name__ == "__main__":
    main()
