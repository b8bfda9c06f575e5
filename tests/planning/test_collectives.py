"""Bytes of collectives: programs of known volume, and every syntax of an HLO line."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vdm.planning.collectives import Collective, by_kind, read_collectives


@pytest.mark.parametrize(
    ("kind", "run", "expected"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), Collective("all-reduce", 4 * 24, 2)),
        (
            "all-gather",
            lambda x: jax.lax.all_gather(x, "data", tiled=True),
            Collective("all-gather", 4 * 48, 2),
        ),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(x, "data", tiled=True),
            Collective("reduce-scatter", 4 * 24, 2),
        ),
        (
            "all-to-all",
            lambda x: jax.lax.all_to_all(x, "data", 1, 0, tiled=True),
            Collective("all-to-all", 4 * 24, 2),
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]),
            Collective("collective-permute", 4 * 24, 2),
        ),
        (
            "a loop",
            lambda x: jax.lax.fori_loop(
                0, 3, lambda _, h: jax.lax.ppermute(h, "data", [(0, 1), (1, 0)]), x
            ),
            Collective("collective-permute", 4 * 24, 2, 3),
        ),
    ],
)
def test_programs_of_known_volume(kind, run, expected):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split = PartitionSpec("data")
    mapped = jax.jit(
        partial(jax.shard_map, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)(run)
    )
    x = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=NamedSharding(mesh, split))
    found = read_collectives(mapped.lower(x).compile().as_text(), 2)
    assert [(c.kind, c.payload * c.times, c.devices) for c in found] == [
        (expected.kind, expected.payload * expected.times, 2)
    ], kind


LINES = {
    # Each syntax of groups in XLA, and the operands of asynchronous starts.
    "%a = f32[8,2]{1,0} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%s": (
        "all-reduce", 64, 4,
    ),
    "%a = bf16[8]{0:T(8,128)(2,1)} all-reduce(%x), replica_groups=[2,4]<=[4,2]T(1,0)": (
        "all-reduce", 16, 4,
    ),
    "%a = (f32[2]{0}, /*index=1*/bf16[4]{0}) all-reduce(%x, %y), replica_groups={}": (
        "all-reduce", 16, 8,
    ),
    "%a = s8[8]{0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%s": (
        "all-reduce", 8, 4,
    ),
    "%a = s8[8]{0} all-reduce(%x), replica_groups=mesh['a'=8] {'a':(1)2}, to_apply=%s": (
        "all-reduce", 8, 2,
    ),
    "%a = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8]": (
        "all-gather", 32, 4,
    ),
    "%a = f32[2]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8], dimensions={0}": (
        "reduce-scatter", 32, 4,
    ),
    "%a = (f8e4m3fn[4]{0}, f8e4m3fn[4]{0}, u32[], u32[]) collective-permute-start(%x)": (
        "collective-permute", 4, 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_parses_each_syntax_of_a_line(line):
    hlo = f"ENTRY %main.1 (x: f32[8]) -> f32[8] {{\n  {line}\n}}\n"
    (found,) = read_collectives(hlo, 8)
    assert (found.kind, found.payload, found.devices) == LINES[line]


def test_ignores_a_collective_of_one_device():
    hlo = (
        "ENTRY %m (x: f32[8]) -> f32[8] {\n  %a = f32[8]{0} all-reduce(%x), replica_groups={{0}}\n}"
    )
    assert read_collectives(hlo, 8) == []


def test_fused_reduce_scatter_is_not_an_all_reduce():
    hlo = """
%all-reduce-scatter.3 (p: f32[8]) -> f32[2] {
  %a = f32[8]{0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
}
ENTRY %main (x: f32[8]) -> f32[2] {
  %f = f32[2]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
}
"""
    assert read_collectives(hlo, 4) == [Collective("reduce-scatter", 32, 4)]


def test_sent_bytes_per_device():
    found = [
        Collective("all-reduce", 1000, 4, times=2),
        Collective("all-gather", 1000, 4),
        Collective("collective-permute", 1000, 4),
    ]
    assert {kind: total["sent_bytes"] for kind, total in by_kind(found).items()} == {
        "all-reduce": 2 * 2 * 750,
        "all-gather": 750,
        "collective-permute": 1000,
    }
