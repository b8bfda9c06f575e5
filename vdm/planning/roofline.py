"""Roofline estimate of a step's duration (Williams et al. 2009).

A step takes the maximum of its compute time and its memory time, each at an assumed fraction of the
vendor's peak. Communication is either fully overlapped or added.
"""

import dataclasses
from collections.abc import Iterable

from vdm.planning.collectives import Collective
from vdm.planning.hardware.peaks import Hardware


@dataclasses.dataclass(frozen=True)
class Efficiencies:
    """Assumed fractions of the vendor's peaks that a step reaches, in (0, 1]."""

    compute: float
    memory: float
    links: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds per step of compute, memory traffic and communication, each on its own."""

    compute: float
    memory: float
    links: float

    @property
    def overlapped(self) -> float:
        """Duration with communication fully overlapped."""
        return max(self.compute, self.memory, self.links)

    @property
    def sequential(self) -> float:
        """Duration with communication after the computation."""
        return max(self.compute, self.memory) + self.links

    @property
    def bound_by(self) -> str:
        """The bottleneck: 'compute', 'memory' or 'links'."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def estimate(
    hardware: Hardware,
    efficiencies: Efficiencies,
    *,
    flops: float,
    memory_bytes: float,
    collectives: Iterable[Collective],
    link_share: float = 1.0,
) -> Estimate | None:
    """Estimates the duration of a step; None for hardware without published peaks.

    FLOPs and bytes (read and written) are per device and step; link_share is `topology.link_share`.
    """
    if hardware.flops is None or hardware.memory_bandwidth is None:
        return None
    links = sum(
        collective.sent / hardware.bandwidth_among(collective.devices) for collective in collectives
    )
    return Estimate(
        compute=flops / (hardware.flops * efficiencies.compute),
        memory=memory_bytes / (hardware.memory_bandwidth * efficiencies.memory),
        links=links / (link_share * efficiencies.links) if links else 0.0,
    )


def assumptions(hardware: Hardware, efficiencies: Efficiencies, link_share: float) -> list[str]:
    """Returns the assumptions of an estimate, one sentence each."""
    if hardware.flops is None or hardware.memory_bandwidth is None:
        return [f"no estimate of time: the peaks of {hardware.name} are unknown"]
    links = hardware.bandwidth_among(1)
    lines = [
        f"arithmetic at {100 * efficiencies.compute:.0f} % of {hardware.flops / 1e12:g} TFLOP/s "
        "(dense bfloat16)",
        f"memory at {100 * efficiencies.memory:.0f} % of {hardware.memory_bandwidth / 1e9:g} GB/s, "
        "each fusion reading its operands and writing its results once, as the compiler counts",
        f"links at {100 * efficiencies.links:.0f} % of {links / 1e9:g} GB/s in one direction, of "
        f"which the slice connects {100 * link_share:.0f} %",
        "the shorter time overlaps communication with the rest, the longer one adds it",
        "no time for data input, kernel launches or synchronisation",
        f"peaks from {hardware.source}",
    ]
    if hardware.node:  # a GPU
        network = hardware.bandwidth_among(hardware.node + 1)
        lines += [
            f"more than {hardware.node} devices communicate over the network between nodes, at "
            f"{network / 1e9:g} GB/s per device",
            "all device memory is usable; JAX takes 75 % unless XLA_PYTHON_CLIENT_MEM_FRACTION "
            "is set",
        ]
    return lines
