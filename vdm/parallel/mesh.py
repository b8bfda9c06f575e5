"""The device mesh, and which array lives where on it.

A mesh has two axes. The batch is split over both. Parameters, and with them the optimizer's moments
and the exponential moving average, are split over 'fsdp' and repeated along 'data' (Rajbhandari et
al. 2020, ZeRO; PyTorch calls the same HSDP). Arithmetic gathers a kernel just before it is used.
"""

import math
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")

# Elements. What is smaller stays whole on each device: it takes no memory worth the name, and a
# collective of a few bytes costs its latency.
_SMALL = 1024


def make_mesh(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of config.mesh: 'fsdp' has config.mesh.fsdp devices, 'data' gets the rest.

    Neighbours along 'fsdp' are in one slice or node where config.mesh.fsdp divides its devices, as
    they exchange far more bytes than neighbours along 'data'.

    Args:
      config: the configuration.
      devices: by default all devices of all processes; those of a topology that is not attached
        serve as well.

    Raises:
      ValueError: config.mesh.fsdp does not divide the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    fsdp = config.mesh.fsdp
    if len(devices) % fsdp:
        raise ValueError(
            f"config.mesh.fsdp is {fsdp}, and must be a divisor of the {_counted(len(devices))}"
        )
    return Mesh(_placed(devices, fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local_mesh() -> Mesh:
    """A mesh of this process's own devices, for work that needs no other process."""
    devices = np.array(jax.local_devices())[:, None]
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _placed(devices: list[jax.Device], fsdp: int) -> np.ndarray:
    """Devices as [data, fsdp]: near ones along the last axis."""
    of_slices = _grouped(devices, "slice_index")
    groups = of_slices if len(of_slices) > 1 else _grouped(devices, "process_index")
    shape = (len(devices) // fsdp, fsdp)
    if len(of_slices) == 1 and devices[0].platform == "tpu":  # its links are known
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    sizes = {len(group) for group in groups}
    if len(sizes) == 1 and len(groups[0]) % fsdp == 0:
        return mesh_utils.create_hybrid_device_mesh(
            (len(groups[0]) // fsdp, fsdp),
            (len(groups), 1),
            devices,
            process_is_granule=groups is not of_slices,
            allow_split_physical_axes=True,
        )
    in_order = [device for group in groups for device in group]
    return np.array(in_order).reshape(shape)


def _grouped(devices: Sequence[jax.Device], attribute: str) -> list[list[jax.Device]]:
    """Devices by slice or by process, in order; in one group where they do not say."""
    groups: dict[int, list[jax.Device]] = {}
    for device in devices:
        groups.setdefault(getattr(device, attribute, 0), []).append(device)
    return [groups[key] for key in sorted(groups)]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(mesh: Mesh, abstract_tree):
    """Where the parameters live, or a whole training state, whose moments have their shapes.

    - An array of two dimensions or more is split over 'fsdp' along its largest dimension that
      'fsdp' divides, the last of these where they are equal: of a kernel, most often its output
      channels.
    - Vectors (biases, scales of norms) and small arrays are whole on each device. They are less
      than a hundredth of a model, and a split bias would pull activations into pieces of channels.
    - So is what no dimension divides.

    Args:
      mesh: of `make_mesh`.
      abstract_tree: arrays or their shapes and dtypes.

    Returns:
      A tree of NamedSharding of the same structure.
    """
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf) -> NamedSharding:
        divided = [axis for axis, length in enumerate(leaf.shape) if length % fsdp == 0]
        if fsdp == 1 or len(leaf.shape) < 2 or math.prod(leaf.shape) < _SMALL or not divided:
            return replicated(mesh)
        longest = max(divided, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(sharding, abstract_tree)


def sharded_params(mesh: Mesh, params: dict) -> dict:
    """Parameters that each process holds whole, or has on its devices already, on the mesh."""
    return jax.device_put(params, param_shardings(mesh, params))


def with_split_gradient(mesh: Mesh, params: dict) -> dict:
    """The parameters themselves, whose gradient is summed over devices first and split afterwards.

    Left alone, the compiler may split the summands before: of matrices that see one vector a video
    it then moves activations to and fro, and warns of it.
    """

    def leaf(param: jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_replicated:
            return param
        place = jax.lax.with_sharding_constraint
        same = jax.custom_vjp(lambda x: x)
        same.defvjp(
            lambda x: (x, None),
            lambda _, gradient: (place(place(gradient, replicated(mesh)), sharding),),
        )
        return same(param)

    return jax.tree.map(leaf, params, param_shardings(mesh, params))


def check_divides(mesh: Mesh, batch_size: int, field: str, parts: int = 1) -> None:
    """Raises ValueError, naming the field, where a batch cannot be split over the devices.

    Args:
      mesh: of `make_mesh`.
      batch_size: of all devices together.
      field: 'section.name' of the batch size.
      parts: micro-batches that a batch is made of.
    """
    if batch_size % (mesh.size * parts):
        of = f"the {_counted(mesh.size)}"
        if parts > 1:
            of = f"{mesh.size * parts}: {parts} micro-batches on {of}"
        raise ValueError(f"config.{field} is {batch_size}, and must be a multiple of {of}")


def _counted(devices: int) -> str:
    return f"{devices} device{'s' if devices > 1 else ''}"


def rounded_up(mesh: Mesh, batch_size: int) -> int:
    """The batch that divides over the devices and is no smaller."""
    return -(-batch_size // mesh.size) * mesh.size
