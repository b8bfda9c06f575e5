"""The device mesh and the array shardings on it: data parallelism and FSDP.

The mesh has two axes, 'data' and 'fsdp'. The batch is sharded over both. Parameters, optimizer
moments and the EMA are sharded over 'fsdp' and replicated along 'data' (ZeRO stage 3, Rajbhandari
et al. 2020; HSDP in PyTorch). The compiler all-gathers a kernel just before its use.
"""

import math
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")

# In elements. Smaller arrays are replicated: they take little memory, and collectives of a few
# bytes are dominated by latency.
_MIN_SHARDED_SIZE = 1024


def make_mesh(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns the mesh of config.mesh: [devices / fsdp, fsdp] devices, axes 'data' and 'fsdp'.

    If config.mesh.fsdp divides the devices of a slice or node, neighbours along 'fsdp' share it,
    because they exchange far more bytes than neighbours along 'data'. `devices` (default: all
    devices of all processes) may belong to an unattached topology.

    Raises:
      ValueError: config.mesh.fsdp does not divide the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    fsdp = config.mesh.fsdp
    if len(devices) % fsdp:
        raise ValueError(
            f"config.mesh.fsdp is {fsdp}, and must be a divisor of the {_count(len(devices))}"
        )
    return Mesh(_arrange(devices, fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local_mesh() -> Mesh:
    """Returns a mesh of this process's own devices, for work without communication."""
    devices = np.array(jax.local_devices())[:, None]
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(devices: list[jax.Device], fsdp: int) -> np.ndarray:
    """Returns devices [data, fsdp], with nearby devices along the last axis."""
    slices = _group(devices, "slice_index")
    groups = slices if len(slices) > 1 else _group(devices, "process_index")
    shape = (len(devices) // fsdp, fsdp)
    if len(slices) == 1 and devices[0].platform == "tpu":  # JAX knows the torus
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    sizes = {len(group) for group in groups}
    if len(sizes) == 1 and len(groups[0]) % fsdp == 0:
        return mesh_utils.create_hybrid_device_mesh(
            (len(groups[0]) // fsdp, fsdp),
            (len(groups), 1),
            devices,
            process_is_granule=groups is not slices,
            allow_split_physical_axes=True,
        )
    return np.array([device for group in groups for device in group]).reshape(shape)


def _group(devices: Sequence[jax.Device], attribute: str) -> list[list[jax.Device]]:
    """Groups devices by slice or process; one group if they lack the attribute."""
    groups: dict[int, list[jax.Device]] = {}
    for device in devices:
        groups.setdefault(getattr(device, attribute, 0), []).append(device)
    return [groups[key] for key in sorted(groups)]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(mesh: Mesh, abstract_tree):
    """Returns a pytree of NamedShardings for a pytree of arrays or of their shapes.

    The pytree holds parameters, or is a training state, whose moments have the parameters' shapes:

    - An array with two or more dimensions is sharded over 'fsdp' along its largest dimension that
      'fsdp' divides (the last one in a tie). For kernels, this is mostly the output channels.
    - Vectors (biases, norm scales) and small arrays are replicated. They are less than 1% of a
      model, and a sharded bias would shard activations by channel.
    - Arrays without a dimension that 'fsdp' divides are replicated.
    """
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % fsdp == 0]
        is_small = len(leaf.shape) < 2 or math.prod(leaf.shape) < _MIN_SHARDED_SIZE
        if fsdp == 1 or is_small or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(sharding, abstract_tree)


def sharded_params(mesh: Mesh, params: dict) -> dict:
    """Returns parameters sharded on the mesh, from whole host arrays or from device arrays."""
    return jax.device_put(params, param_shardings(mesh, params))


def with_sharded_gradient(mesh: Mesh, params: dict) -> dict:
    """Returns the parameters, constraining their gradients to be summed first and then sharded.

    Without this, the compiler may shard the summands first. For kernels applied to one vector per
    video (the conditioning MLP), it would then reshard activations, with a warning.
    """

    def identity(param: jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_replicated:
            return param
        constrain = jax.lax.with_sharding_constraint
        same = jax.custom_vjp(lambda x: x)
        same.defvjp(
            lambda x: (x, None),
            lambda _, gradient: (constrain(constrain(gradient, replicated(mesh)), sharding),),
        )
        return same(param)

    return jax.tree.map(identity, params, param_shardings(mesh, params))


def check_divides(mesh: Mesh, batch_size: int, field: str, parts: int = 1) -> None:
    """Checks that a global batch divides over the devices, in `parts` micro-batches each.

    Raises:
      ValueError: it does not; the message names `field`, the batch size's 'section.name'.
    """
    if batch_size % (mesh.size * parts):
        divisor = f"the {_count(mesh.size)}"
        if parts > 1:
            divisor = f"{mesh.size * parts}: {parts} micro-batches on {divisor}"
        raise ValueError(f"config.{field} is {batch_size}, and must be a multiple of {divisor}")


def _count(devices: int) -> str:
    return f"{devices} device{'s' if devices > 1 else ''}"


def rounded_up(mesh: Mesh, batch_size: int) -> int:
    """Returns the smallest multiple of the number of devices that is at least `batch_size`."""
    return -(-batch_size // mesh.size) * mesh.size
