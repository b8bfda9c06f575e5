"""Estimates against arithmetic by hand, and slices that are made against those that are not."""

import importlib.util
import math

import pytest

from vdm.planning.collectives import Collective
from vdm.planning.hardware.peaks import HARDWARE, Hardware
from vdm.planning.hardware.topology import check_topology, link_share
from vdm.planning.roofline import Efficiencies, estimate


def test_an_estimate_by_hand():
    hardware = Hardware("h", 1e9, flops=1e12, memory_bandwidth=1e11, link_bandwidth=1e10)
    of_step = estimate(
        hardware,
        Efficiencies(0.5, 0.8, 0.25),
        flops=3e12,
        memory_bytes=4e11,
        collectives=[Collective("all-reduce", 10**9, 4), Collective("all-gather", 10**9, 2)],
        link_share=0.5,
    )
    assert of_step.compute == pytest.approx(6.0)
    assert of_step.memory == pytest.approx(5.0)
    assert of_step.links == pytest.approx((1.5e9 + 0.5e9) / (1e10 * 0.25 * 0.5))
    assert of_step.overlapped == pytest.approx(6.0)
    assert of_step.in_turn == pytest.approx(7.6)
    assert of_step.bound_by == "compute"


def test_more_devices_than_a_node_has_talk_over_the_network():
    h100 = HARDWARE["h100"]
    assert h100.bandwidth_among(8) == h100.link_bandwidth
    assert h100.bandwidth_among(16) == h100.network_bandwidth < h100.link_bandwidth


def test_hardware_without_peaks_has_no_estimate():
    shares = Efficiencies(1, 1, 1)
    assert estimate(Hardware("cpu", 1e9), shares, flops=1, memory_bytes=1, collectives=[]) is None


@pytest.mark.parametrize("name", HARDWARE)
def test_the_table_has_the_orders_of_magnitude_of_accelerators(name):
    hardware = HARDWARE[name]
    assert 100 < hardware.flops / hardware.memory_bandwidth < 600  # FLOP a byte
    assert 2 < hardware.memory_bandwidth / hardware.link_bandwidth < 15
    assert hardware.memory >= 16e9 and hardware.source.startswith("https://")


@pytest.mark.parametrize(
    ("topology", "share"),
    [
        ("", 1),
        ("v4:2x2x1", 2 / 6),
        ("v4:2x2x4", 3 / 6),
        ("v4:4x4x8", 1),
        ("v5e:4x8", 2 / 4),
        ("v5e:8x16", 3 / 4),
        ("v6e:16x16", 1),
    ],
)
def test_share_of_links_that_lead_to_others(topology, share):
    assert link_share(topology) == pytest.approx(share)


MADE = ["v4:2x2x1", "v4:4x4x8", "v4:8x8x8", "v5p:4x4x12", "tpu7x:2x2x2", "v5e:2x4", "v6e:16x16"]
# The last ones: libtpu describes 4x4x7 without a word.
NOT_MADE = ["v9:4x4x8", "v4", "v4:", "v4:4x4", "v4:4x4x8x8", "v5e:4x4x4", "v5e:16x32", "v5e:8x4"]
NOT_MADE += ["h100:8", "v4:0x4x4", "v4:8x4x4", "v4:16x16x32", "v4:3x4x4", "v4:4x4x7"]


@pytest.mark.parametrize("topology", NOT_MADE)
def test_a_slice_that_is_not_made_is_refused(topology):
    with pytest.raises(ValueError, match=r"config\.plan\.topology is") as error:
        check_topology(topology)
    assert "must be" in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_a_missing_compiler_is_named_with_what_installs_it(installed, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    for topology in MADE:
        if installed:
            check_topology(topology)
            assert math.isfinite(link_share(topology))
            continue
        with pytest.raises(ValueError, match=r"needs libtpu: pip install 'jax\[tpu\]'"):
            check_topology(topology)
