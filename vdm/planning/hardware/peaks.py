"""Memory, peak arithmetic and bandwidth of accelerators, from the vendors' pages.

A device is one `jax.Device`: a chip of TPU v4 and v5p (both cores together), v5e and v6e; a core of
TPU7x; or a GPU. Peak arithmetic is for dense bfloat16 products. Link bandwidth is the sum over a
device's links in one direction, half of the "bidirectional" bandwidth that vendors quote.
"""

import dataclasses
import os
from functools import partial

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Peaks of one device; None if unknown.

    Attributes:
      name: name in `config.plan.hardware`.
      memory: bytes.
      flops: FLOP/s in dense bfloat16.
      memory_bandwidth: bytes per second.
      link_bandwidth: outgoing bytes per second, summed over all links.
      source: URL of the published numbers.
      node: number of devices that the links connect; 0: all.
      network_bandwidth: outgoing bytes per second to other nodes.
    """

    name: str
    memory: float
    flops: float | None = None
    memory_bandwidth: float | None = None
    link_bandwidth: float | None = None
    source: str = ""
    node: int = 0
    network_bandwidth: float | None = None

    def bandwidth_among(self, devices: int) -> float:
        """Returns a device's outgoing bytes per second in a collective of `devices` devices."""
        is_one_node = not self.node or devices <= self.node
        bandwidth = self.link_bandwidth if is_one_node else self.network_bandwidth
        if bandwidth is None:
            raise ValueError(f"the interconnect of {self.name} is unknown")
        return bandwidth


_TPU_PAGE = "https://docs.cloud.google.com/tpu/docs/"
_H100_PAGE = "https://www.nvidia.com/en-us/data-center/h100/"
_H200_PAGE = "https://www.nvidia.com/en-us/data-center/h200/"
_A100_PAGE = "https://www.nvidia.com/en-us/data-center/a100/"

# The vendor's reference design: nodes of eight GPUs with one 400 Gbit/s port each.
_gpu = partial(Hardware, node=8, network_bandwidth=50e9)

_ALL = (
    # Links: 6 of 50 GB/s, table 4 of Jouppi et al. 2023, arXiv 2304.01433.
    Hardware("v4", 32 * GIB, 275e12, 1200e9, 300e9, _TPU_PAGE + "v4"),
    Hardware("v5e", 16 * GIB, 197e12, 819e9, 200e9, _TPU_PAGE + "v5e"),
    Hardware("v5p", 95 * GIB, 459e12, 2765e9, 600e9, _TPU_PAGE + "v5p"),
    Hardware("v6e", 32 * GIB, 918e12, 1640e9, 400e9, _TPU_PAGE + "v6e"),
    # Half of a chip, which has two cores.
    Hardware("tpu7x", 96 * GIB, 1153.5e12, 3690e9, 300e9, _TPU_PAGE + "tpu7x"),
    _gpu("a100-40gb", 40 * GIB, 312e12, 1555e9, 300e9, _A100_PAGE),
    _gpu("a100", 80 * GIB, 312e12, 2039e9, 300e9, _A100_PAGE),
    # Dense: half of the vendor's numbers, which assume sparsity. JAX sees about 79 GiB of an H100.
    _gpu("h100", 80 * GIB, 989.5e12, 3350e9, 450e9, _H100_PAGE),
    _gpu("h200", 141e9, 989.5e12, 4800e9, 450e9, _H200_PAGE),
)
HARDWARE = {hardware.name: hardware for hardware in _ALL}

# Prefixes of `jax.Device.device_kind`, longest first.
_TPUS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "TPU7x": "tpu7x",
}
# Exact device kinds: PCIe cards and GPU slices (MIG) have other memory and peaks.
_GPUS = {
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
}


def hardware_of(device: jax.Device) -> Hardware:
    """Returns the peaks of a device; for unknown hardware, the memory that the device reports."""
    kind = device.device_kind
    names = [name for prefix, name in _TPUS.items() if kind.startswith(prefix)]
    if name := _GPUS.get(kind) or next(iter(names), None):
        return HARDWARE[name]
    return Hardware(kind, _reported_memory(device), source="the device itself")


def _reported_memory(device: jax.Device) -> float:
    if device.platform == "cpu":
        # The CPU devices of a process share the host's memory.
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages / max(1, jax.local_device_count())
    stats = device.memory_stats() or {}
    return float(stats.get("bytes_limit", float("inf")))
