"""Videos a second through I3D: this project's against the same network in PyTorch.

    pip install -e ".[metrics]" torch
    python benchmarks/i3d_throughput.py

All have the published weights and as many threads as there are cores, see a video of 16x224x224
a core at a time in float32, and take turns; what is reported is the median of the ratios of
neighbours. PyTorch has its channels first and last, and the faster counts. Leave the machine alone
meanwhile: PyTorch suffers far more from company.
Prints and writes benchmarks/results/i3d_throughput.json. Takes two minutes on two cores.
"""

import json
import os
import pathlib
import platform
import statistics
import time

import jax
import numpy as np
import torch
from torch.nn import functional

from vdm.metrics.features import make_extractor
from vdm.metrics.networks.layers import same_padding
from vdm.metrics.weights.files import load_weights

RESULTS = pathlib.Path(__file__).resolve().parent / "results/i3d_throughput.json"
VIDEOS, ROUNDS = os.cpu_count(), 15


class TorchI3D:
    """I3D in three-dimensional convolutions, batch norm folded into them.

    `memory_format` is that of kernels and videos, which PyTorch keeps from layer to layer.
    """

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
    """TensorFlow's 'SAME'."""
    widths = [
        same_padding(size, w, stride)
        for size, w, stride in zip(h.shape[2:], window, strides, strict=True)
    ]
    flat = [width for pair in reversed(widths) for width in pair]
    return functional.pad(h, flat, value=fill) if any(flat) else h


def seconds(network, videos):
    start = time.perf_counter()
    network(videos)
    return time.perf_counter() - start


@torch.inference_mode()
def main():
    torch.set_num_threads(os.cpu_count())
    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # as python -m vdm.metrics does
    extractor = make_extractor("i3d")
    tensors = load_weights("i3d")
    networks = {
        "vdm": lambda videos: extractor.of_preprocessed(videos)["features"],
        "pytorch": TorchI3D(tensors, torch.contiguous_format),
        "pytorch, channels_last_3d": TorchI3D(tensors, torch.channels_last_3d),
    }
    videos = np.random.default_rng(0).uniform(-1, 1, (VIDEOS, 16, 224, 224, 3)).astype(np.float32)
    ours, *theirs = (network(videos) for network in networks.values())
    rounds = [
        {name: seconds(network, videos) for name, network in networks.items()}
        for _ in range(ROUNDS)
    ]
    typical = {name: statistics.median(times[name] for times in rounds) for name in networks}
    peer = min(list(networks)[1:], key=typical.get)
    ratios = [times["vdm"] / times[peer] for times in rounds]
    result = {
        "command": "python benchmarks/i3d_throughput.py",
        "hardware": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "versions": {
            "jax": jax.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "largest_difference_of_logits": max(
            float(np.abs(ours - logits).max()) for logits in theirs
        ),
        "videos_per_second": {name: VIDEOS / typical[name] for name in networks},
        "faster_pytorch": peer,
        "time_over_pytorch": statistics.median(ratios),
        "time_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
