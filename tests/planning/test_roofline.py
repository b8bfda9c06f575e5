"""Estimates against arithmetic by hand, and existing slices against invalid ones."""

import importlib.util
import math
from types import SimpleNamespace

import pytest

from vdm.planning.collectives import Collective
from vdm.planning.hardware.peaks import HARDWARE, Hardware, hardware_of
from vdm.planning.hardware.topology import check_topology, link_share
from vdm.planning.roofline import Efficiencies, estimate


def test_estimate_by_hand():
    hardware = Hardware("h", 1e9, flops=1e12, memory_bandwidth=1e11, link_bandwidth=1e10)
    step_estimate = estimate(
        hardware,
        Efficiencies(0.5, 0.8, 0.25),
        flops=3e12,
        memory_bytes=4e11,
        collectives=[Collective("all-reduce", 10**9, 4), Collective("all-gather", 10**9, 2)],
        link_share=0.5,
    )
    assert step_estimate.compute == pytest.approx(6.0)
    assert step_estimate.memory == pytest.approx(5.0)
    assert step_estimate.links == pytest.approx((1.5e9 + 0.5e9) / (1e10 * 0.25 * 0.5))
    assert step_estimate.overlapped == pytest.approx(6.0)
    assert step_estimate.sequential == pytest.approx(7.6)
    assert step_estimate.bound_by == "compute"


def test_collectives_across_nodes_use_the_network():
    h100 = HARDWARE["h100"]
    assert h100.bandwidth_among(8) == h100.link_bandwidth
    assert h100.bandwidth_among(16) == h100.network_bandwidth < h100.link_bandwidth


def test_hardware_without_peaks_has_no_estimate():
    shares = Efficiencies(1, 1, 1)
    assert estimate(Hardware("cpu", 1e9), shares, flops=1, memory_bytes=1, collectives=[]) is None


@pytest.mark.parametrize(
    ("kind", "gib", "has_peaks"),
    [
        ("TPU v4", 32, True),
        ("TPU v5 lite", 16, True),
        ("NVIDIA A100-SXM4-40GB", 40, True),
        ("NVIDIA A100-SXM4-80GB", 80, True),
        ("NVIDIA H100 80GB HBM3", 80, True),
        # Other cards of these names: the memory is what the device reports.
        ("NVIDIA A100-PCIE-40GB", 30, False),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 30, False),
        ("NVIDIA H100 PCIe", 30, False),
    ],
)
def test_attached_devices_have_the_memory_of_their_kind(kind, gib, has_peaks):
    stats = {"bytes_limit": 30 * 2**30}
    device = SimpleNamespace(device_kind=kind, platform="gpu", memory_stats=lambda: stats)
    hardware = hardware_of(device)
    assert hardware.memory == gib * 2**30 and (hardware.flops is not None) == has_peaks


@pytest.mark.parametrize("name", HARDWARE)
def test_peaks_have_plausible_magnitudes(name):
    hardware = HARDWARE[name]
    assert 100 < hardware.flops / hardware.memory_bandwidth < 600  # FLOP per byte
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
def test_share_of_links_inside_the_slice(topology, share):
    assert link_share(topology) == pytest.approx(share)


VALID = ["v4:2x2x1", "v4:4x4x8", "v4:8x8x8", "v5p:4x4x12", "tpu7x:2x2x2", "v5e:2x4", "v6e:16x16"]
# libtpu accepts 4x4x7, which does not exist.
INVALID = ["v9:4x4x8", "v4", "v4:", "v4:4x4", "v4:4x4x8x8", "v5e:4x4x4", "v5e:16x32", "v5e:8x4"]
INVALID += ["h100:8", "v4:0x4x4", "v4:8x4x4", "v4:16x16x32", "v4:3x4x4", "v4:4x4x7"]


@pytest.mark.parametrize("topology", INVALID)
def test_rejects_a_slice_that_does_not_exist(topology):
    with pytest.raises(ValueError, match=r"config\.plan\.topology is") as error:
        check_topology(topology)
    assert "must be" in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_missing_libtpu_names_the_package(installed, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    for topology in VALID:
        if installed:
            check_topology(topology)
            assert math.isfinite(link_share(topology))
            continue
        with pytest.raises(ValueError, match=r"needs libtpu: pip install 'jax\[tpu\]'"):
            check_topology(topology)
