"""The mesh, the sharding rules, and rows of batches to the devices and back."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import text_large
from vdm.build import count_parameters
from vdm.parallel.mesh import batch_sharding, check_divides, make_mesh, param_shardings, rounded_up
from vdm.parallel.messages import gathered
from vdm.parallel.rows import local_rows, rows_of, shard_batch
from vdm.training.state import init_state


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that its position in a mesh depends on."""

    id: int
    process_index: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "H100"


def _devices(slices, processes, each):
    """Devices of `processes` in each of `slices`, in reversed order."""
    devices = [
        Device((s * processes + p) * each + d, s * processes + p, s)
        for s in range(slices)
        for p in range(processes)
        for d in range(each)
    ]
    return devices[::-1]


@pytest.mark.parametrize(
    ("slices", "processes", "each", "fsdp"),
    [(2, 1, 4, 4), (2, 2, 2, 4), (3, 1, 4, 2), (1, 4, 2, 2)],
)
def test_parameter_shards_stay_inside_a_slice_or_node(tiny_config, slices, processes, each, fsdp):
    tiny_config.mesh.fsdp = fsdp
    devices = _devices(slices, processes, each)
    mesh = make_mesh(tiny_config, devices)
    assert mesh.shape == {"data": len(devices) // fsdp, "fsdp": fsdp}
    assert set(mesh.devices.flat) == set(devices)
    unit = "slice_index" if slices > 1 else "process_index"
    for row in mesh.devices:
        assert len({getattr(device, unit) for device in row}) == 1


def test_parameter_shards_may_span_small_slices(tiny_config):
    tiny_config.mesh.fsdp = 8
    mesh = make_mesh(tiny_config, _devices(4, 1, 4))
    for row in mesh.devices:
        assert len({device.slice_index for device in row}) == 2


def test_names_the_field_that_does_not_divide(tiny_config):
    tiny_config.mesh.fsdp = 3
    with pytest.raises(ValueError, match=r"config\.mesh\.fsdp is 3, .* a divisor of the 4 devices"):
        make_mesh(tiny_config, _devices(1, 1, 4))
    tiny_config.mesh.fsdp = 2
    mesh = make_mesh(tiny_config, _devices(1, 1, 4))
    with pytest.raises(ValueError, match="a multiple of the 4 devices"):
        check_divides(mesh, 10, "training.batch_size")
    with pytest.raises(ValueError, match="a multiple of 12: 3 micro-batches on the 4 devices"):
        check_divides(mesh, 8, "training.batch_size", parts=3)


def test_shards_the_largest_divisible_dimension(tiny_config):
    tiny_config.mesh.fsdp = 4
    mesh = make_mesh(tiny_config, _devices(1, 1, 4))
    for shape, spec in (
        ((3, 3, 128, 256), (None, None, None, "fsdp")),
        ((3, 3, 256, 128), (None, None, "fsdp")),
        ((3, 3, 256, 256), (None, None, None, "fsdp")),  # equal dimensions: output channels
        ((510, 256), (None, "fsdp")),
        ((101, 303), ()),  # no divisible dimension
        ((4096,), ()),
        ((3, 4), ()),
        ((), ()),
    ):
        leaf = jax.ShapeDtypeStruct(shape, np.float32)
        assert param_shardings(mesh, {"kernel": leaf})["kernel"].spec == PartitionSpec(*spec)


def test_shards_nearly_all_of_a_training_state():
    """The paper's largest model, with optimizer moments and EMA, on 8 devices."""
    config = text_large.get_config()
    config.mesh.fsdp = 8
    mesh = make_mesh(config, _devices(1, 1, 8))
    state = jax.eval_shape(partial(init_state, config))
    shardings = param_shardings(mesh, state)
    held = sum(
        np.prod(sharding.shard_shape(leaf.shape))
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
    )
    assert held < 1.01 * 4 * count_parameters(state.params) / 8


def test_rows_round_trip_through_devices(tiny_config):
    tiny_config.mesh.fsdp = 2
    mesh = make_mesh(tiny_config)
    assert local_rows(mesh, 6) == [0, 1, 2, 3, 4, 5]
    rows = np.arange(24).reshape(6, 4)
    array = shard_batch(mesh, {"rows": rows}, 6)["rows"]
    assert array.sharding == batch_sharding(mesh)
    assert [shard.data.shape for shard in array.addressable_shards] == [(3, 4), (3, 4)]
    np.testing.assert_array_equal(rows_of(array), rows)
    np.testing.assert_array_equal(gathered(array), rows)
    assert rounded_up(mesh, 5) == 6
