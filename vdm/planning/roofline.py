"""How long a step takes at the least, and at the shares of the peaks that are assumed.

The roofline (Williams et al. 2009): a step takes the longer of its arithmetic and its traffic to
memory; what it sends over the interconnect comes on top, or is hidden behind them.
"""

import dataclasses
from collections.abc import Iterable

from vdm.planning.collectives import Collective
from vdm.planning.hardware.peaks import Hardware


@dataclasses.dataclass(frozen=True)
class Efficiencies:
    """Shares of the makers' peaks that a step is assumed to reach."""

    compute: float
    memory: float
    links: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step.

    Attributes:
      compute: of arithmetic alone.
      memory: of traffic to the device's memory alone.
      links: of communication alone.
    """

    compute: float
    memory: float
    links: float

    @property
    def overlapped(self) -> float:
        """With communication hidden behind the rest as far as it goes."""
        return max(self.compute, self.memory, self.links)

    @property
    def in_turn(self) -> float:
        """With communication after the rest."""
        return max(self.compute, self.memory) + self.links

    @property
    def bound_by(self) -> str:
        """What takes longest: 'compute', 'memory' or 'links'."""
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
    """The roofline of one device's part of a step; None for hardware without published peaks.

    Args:
      hardware: of the device.
      efficiencies: assumed.
      flops: operations of the device in a step.
      memory_bytes: that it reads and writes in a step.
      collectives: of the step.
      link_share: of the device's links that its slice connects (`topology.link_share`).
    """
    if hardware.flops is None:
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
    """What an estimate takes for granted, in sentences."""
    if hardware.flops is None:
        return [f"no estimate of time: the peaks of {hardware.name} are not in the table"]
    percent = f"{100 * efficiencies.compute:.0f} %"
    lines = [
        f"arithmetic at {percent} of {hardware.flops / 1e12:g} TFLOP/s (dense bfloat16)",
        f"memory at {100 * efficiencies.memory:.0f} % of {hardware.memory_bandwidth / 1e9:g} GB/s, "
        "each fusion reading its operands and writing its results once, as the compiler counts",
        f"links at {100 * efficiencies.links:.0f} % of {hardware.link_bandwidth / 1e9:g} GB/s in "
        f"one direction, of which the slice connects {100 * link_share:.0f} %",
        "the shorter time has communication hidden behind the rest, the longer one has it after",
        "nothing for the input of data, launching and waiting",
        f"peaks from {hardware.source}",
    ]
    if hardware.node:  # a GPU
        lines += [
            f"more than {hardware.node} devices over the network between nodes, at "
            f"{hardware.network_bandwidth / 1e9:g} GB/s a device",
            "all of the memory, of which JAX takes 75 % unless XLA_PYTHON_CLIENT_MEM_FRACTION "
            "says more",
        ]
    return lines
