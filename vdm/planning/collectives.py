"""Collective communication of a compiled step, parsed from its HLO text.

The payload of a collective is the whole array: the reduced array, the gathered result, or the input
of a scatter. The bytes sent by each of n devices assume bandwidth-optimal algorithms (Chan et al.
2007, "Collective communication: theory, practice, and experience", table 1):

  all-reduce                       2 (n - 1) / n payload
  all-gather, reduce-scatter,
  all-to-all                         (n - 1) / n payload
  collective-permute                             payload
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SENT_FACTORS = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0}

_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)}|ragged-all-to-all)(-start)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+(?:e\d+m\d+\w*)?|c64|c128)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of a step, as one device runs it.

    Attributes:
      kind: one of KINDS.
      payload: bytes of the whole array.
      devices: the number of devices in one group.
      times: runs per step; below 1 if only some steps run it.
    """

    kind: str
    payload: int
    devices: int
    times: float = 1

    @property
    def sent(self) -> float:
        """Bytes that one device sends per step."""
        share = 1.0
        if self.kind in _SENT_FACTORS:
            share = _SENT_FACTORS[self.kind] * (self.devices - 1) / self.devices
        return share * self.payload * self.times


def read_collectives(hlo: str, num_devices: int) -> list[Collective]:
    """Returns the collectives of a compiled step that involve two or more devices.

    `hlo` is `compiled.as_text()`; num_devices is the group size of a collective that lists no
    groups. Raises ValueError for an unknown group syntax.
    """
    computations, entry = _parse_computations(hlo)
    times = _count_runs(computations, entry)
    found = []
    for name, lines in computations.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None or not times.get(name):
                continue
            collective = _parse_collective(match, line, num_devices, times[name], name)
            if collective.devices > 1:
                found.append(collective)
    return found


def by_kind(collectives: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """Sums runs per step, payload and sent bytes per device over the collectives of each kind."""
    totals = {}
    for kind in KINDS:
        group = [collective for collective in collectives if collective.kind == kind]
        if group:
            totals[kind] = {
                "count": sum(collective.times for collective in group),
                "payload_bytes": sum(c.payload * c.times for c in group),
                "sent_bytes": sum(collective.sent for collective in group),
            }
    return totals


def _parse_computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[1]
            computations[current] = []
            if line.startswith("ENTRY"):
                entry = current
        elif current:
            computations[current].append(line)
    return computations, entry


def _count_runs(computations: dict[str, list[str]], entry: str) -> dict[str, int]:
    """Returns the runs of each computation per step; a loop of unknown length counts once."""
    calls: dict[str, list[tuple[str, int]]] = {name: [] for name in computations}
    for name, lines in computations.items():
        for line in lines:
            # The async-start already counts the call.
            if " async-done(" in line or " async-update(" in line:
                continue
            trips = _TRIPS.search(line)
            for called in _called_computations(line):
                if called in computations:
                    calls[name].append((called, int(trips[1]) if trips else 1))
    times = dict.fromkeys(computations, 0)

    def run(name: str, count: int) -> None:
        times[name] += count
        for called, repeats in calls[name]:
            run(called, count * repeats)

    run(entry, 1)
    return times


def _called_computations(line: str) -> Iterator[str]:
    if "=" not in line:
        return
    yield from _CALLED.findall(line)
    if branches := _BRANCHES.search(line):
        for name in branches[1].split(","):
            yield name.strip().lstrip("%")


def _parse_collective(
    match: re.Match, line: str, num_devices: int, times: int, computation: str
) -> Collective:
    kind, is_start = match[1].removeprefix("ragged-"), bool(match[2])
    arrays = [
        math.prod(int(size) for size in shape.split(",") if size) * _bits(dtype) // 8
        for dtype, shape in _ARRAY.findall(line[: match.start()])
    ]
    devices = _group_size(line, num_devices)
    if kind == "collective-permute":
        return Collective(kind, arrays[0], num_devices if num_devices > 1 else 1, times)
    # An all-gather-start lists its operands before its results.
    if is_start and kind == "all-gather":
        arrays = arrays[len(arrays) // 2 :]
    payload = sum(arrays)
    if kind == "reduce-scatter":
        payload *= devices
    # XLA for TPUs fuses a reduce-scatter, written as an all-reduce and a slice.
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        kind = "reduce-scatter"
    return Collective(kind, payload, devices, times)


def _bits(dtype: str) -> int:
    return _BITS.get(dtype) or int(re.findall(r"\d+", dtype)[0])


def _group_size(line: str, num_devices: int) -> int:
    groups = re.search(r"replica_groups=(\S.*)", line)
    if groups is None or groups[1].startswith("{}"):
        return num_devices
    text = groups[1]
    if match := re.match(r"\{\{([\d,]*)\}", text):
        return len(match[1].split(","))
    if match := re.match(r"\[(\d+),(\d+)\]<=", text):
        return int(match[2])
    if match := re.match(r"mesh\['?([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"(\w+)'?=(\d+)", match[1])}
        size = 1
        for name, part in re.findall(r"'?(\w+)'?(?::\(\d+\)(\d+))?", match[2]):
            size *= int(part) if part else sizes[name]
        return size
    raise ValueError(f"unknown syntax of collective groups: {text[:80]}")
