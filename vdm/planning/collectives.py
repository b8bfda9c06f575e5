"""What a compiled step communicates, read from its HLO text.

Two numbers describe a collective. Its payload is the array that it is about: what is reduced, what
is gathered, what is scattered before it is. What a device sends is what the best algorithms send of
it (Chan et al. 2007, "Collective communication: theory, practice, and experience", table 1), for n
devices:

  all-reduce                       2 (n - 1) / n payload
  all-gather, reduce-scatter,
  all-to-all                         (n - 1) / n payload
  collective-permute                             payload
"""

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SENT = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0}

_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)}|ragged-all-to-all)(-start)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+(?:e\d+m\d+\w*)?|c64|c128)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a step, of one device.

    Attributes:
      kind: one of KINDS.
      payload: bytes of the array that it is about.
      devices: how many take part in it together.
      times: how often a step runs it; less than 1 where not every step does.
    """

    kind: str
    payload: int
    devices: int
    times: float = 1

    @property
    def sent(self) -> float:
        """Bytes that one device sends in a step."""
        share = 1.0
        if self.kind in _SENT:
            share = _SENT[self.kind] * (self.devices - 1) / self.devices
        return share * self.payload * self.times


def read_collectives(hlo: str, num_devices: int) -> list[Collective]:
    """The collectives of a compiled step, those of one device alone left out.

    Args:
      hlo: the text of the optimised module, `compiled.as_text()`.
      num_devices: all devices of the mesh, which a collective without groups takes together.

    Raises:
      ValueError: groups in a form that this reader does not know.
    """
    computations, entry = _computations(hlo)
    times = _times(computations, entry)
    found = []
    for name, lines in computations.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None or not times.get(name):
                continue
            collective = _collective(match, line, num_devices, times[name], name)
            if collective.devices > 1:
                found.append(collective)
    return found


def by_kind(collectives: list[Collective]) -> dict[str, dict[str, float]]:
    """For each kind: how many a step runs, their payload and what a device sends, in bytes."""
    total = {}
    for kind in KINDS:
        of_kind = [collective for collective in collectives if collective.kind == kind]
        if of_kind:
            total[kind] = {
                "count": sum(collective.times for collective in of_kind),
                "payload_bytes": sum(c.payload * c.times for c in of_kind),
                "sent_bytes": sum(collective.sent for collective in of_kind),
            }
    return total


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
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


def _times(computations: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs in a step; a loop of unknown length counts once."""
    calls = {name: [] for name in computations}
    for name, lines in computations.items():
        for line in lines:
            # What is done was called by its start.
            if " async-done(" in line or " async-update(" in line:
                continue
            trips = _TRIPS.search(line)
            for called in _called(line):
                if called in computations:
                    calls[name].append((called, int(trips[1]) if trips else 1))
    times = dict.fromkeys(computations, 0)

    def run(name: str, count: int) -> None:
        times[name] += count
        for called, repeats in calls[name]:
            run(called, count * repeats)

    run(entry, 1)
    return times


def _called(line: str) -> Iterator[str]:
    if "=" not in line:
        return
    yield from _CALLED.findall(line)
    if branches := _BRANCHES.search(line):
        for name in branches[1].split(","):
            yield name.strip().lstrip("%")


def _collective(match, line: str, num_devices: int, times: int, computation: str) -> Collective:
    kind, is_start = match[1].removeprefix("ragged-"), bool(match[2])
    arrays = [
        math.prod(int(size) for size in shape.split(",") if size) * _bits(dtype) // 8
        for dtype, shape in _ARRAY.findall(line[: match.start()])
    ]
    devices = _group_size(line, num_devices)
    if kind == "collective-permute":
        return Collective(kind, arrays[0], num_devices if num_devices > 1 else 1, times)
    # The start of a gather has its operands before its results.
    if is_start and kind == "all-gather":
        arrays = arrays[len(arrays) // 2 :]
    payload = sum(arrays)
    if kind == "reduce-scatter":
        payload *= devices
    # TPUs reduce and scatter in a fusion, in which an all-reduce is written before its slice.
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        kind = "reduce-scatter"
    return Collective(kind, payload, devices, times)


def _bits(dtype: str) -> int:
    return _BITS.get(dtype) or int(re.match(r"[suf](\d+)", dtype)[1])


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
    raise ValueError(f"collective groups that cannot be read: {text[:80]}")
