"""Devices: memory, arithmetic and bandwidth from their makers' pages.

A device is what JAX counts as one: a chip of TPU v4 and v5p (both cores as one), of v5e and v6e, a
core of TPU7x, a GPU. Arithmetic is that of dense bfloat16 products. Link bandwidth is
what leaves a device in one direction over all its links together, half of what makers call
bidirectional.
"""

import dataclasses
import os

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What the roofline and the comparison of memory read; None where it is not known.

    Attributes:
      name: as users write it.
      memory: bytes of a device.
      flops: peak operations a second, dense bfloat16.
      memory_bandwidth: bytes a second.
      link_bandwidth: bytes a second that leave a device, over all its links.
      node: devices that these links connect; 0 for all.
      network_bandwidth: bytes a second that leave a device towards other nodes.
      source: where the numbers are published.
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
        """Bytes a second that leave a device in a collective of so many."""
        if self.node and devices > self.node:
            return self.network_bandwidth
        return self.link_bandwidth


_TPU_PAGE = "https://docs.cloud.google.com/tpu/docs/"
_H100_PAGE = "https://www.nvidia.com/en-us/data-center/h100/"
_H200_PAGE = "https://www.nvidia.com/en-us/data-center/h200/"
_A100_PAGE = "https://www.nvidia.com/en-us/data-center/a100/"

# A node of eight GPUs with one port of 400 Gbit/s each, as the makers' reference designs have.
_NODE = {"node": 8, "network_bandwidth": 50e9}

_ALL = (
    # Links: 6 of 50 GB/s, table 4 of Jouppi et al. 2023, arXiv 2304.01433.
    Hardware("v4", 32 * GIB, 275e12, 1200e9, 300e9, _TPU_PAGE + "v4"),
    Hardware("v5e", 16 * GIB, 197e12, 819e9, 200e9, _TPU_PAGE + "v5e"),
    Hardware("v5p", 95 * GIB, 459e12, 2765e9, 600e9, _TPU_PAGE + "v5p"),
    Hardware("v6e", 32 * GIB, 918e12, 1640e9, 400e9, _TPU_PAGE + "v6e"),
    # Half of what a chip of two cores has.
    Hardware("tpu7x", 96 * GIB, 1153.5e12, 3690e9, 300e9, _TPU_PAGE + "tpu7x"),
    Hardware("a100-40gb", 40 * GIB, 312e12, 1555e9, 300e9, _A100_PAGE, **_NODE),
    Hardware("a100", 80 * GIB, 312e12, 2039e9, 300e9, _A100_PAGE, **_NODE),
    # Without the sparsity that the maker's pages multiply by two. JAX sees about 79 GiB of an H100.
    Hardware("h100", 80 * GIB, 989.5e12, 3350e9, 450e9, _H100_PAGE, **_NODE),
    Hardware("h200", 141e9, 989.5e12, 4800e9, 450e9, _H200_PAGE, **_NODE),
)
HARDWARE = {hardware.name: hardware for hardware in _ALL}

# The beginning of JAX's device_kind, the longer ones first.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "TPU7x": "tpu7x",
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}


def hardware_of(device: jax.Device) -> Hardware:
    """The table's entry of a device; of one that it lacks, what the device says of its memory."""
    for kind, name in _KINDS.items():
        if device.device_kind.startswith(kind):
            return HARDWARE[name]
    return Hardware(device.device_kind, _own_memory(device), source="the device itself")


def _own_memory(device: jax.Device) -> float:
    if device.platform == "cpu":
        # The devices of a process share the machine's.
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages / max(1, jax.local_device_count())
    stats = device.memory_stats() or {}
    return float(stats.get("bytes_limit", float("inf")))
