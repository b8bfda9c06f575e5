"""Bytes to the features that the measures are computed from."""

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from vdm.metrics.networks import c3d, i3d, inception, preprocessing
from vdm.metrics.protocols import Protocol
from vdm.metrics.weights import files as weight_files
from vdm.metrics.weights.naming import HEAD
from vdm.parallel.mesh import batch_sharding, local_mesh, replicated

Features = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A feature network with its weights and its preprocessing.

    Calling it compiles once for each shape, so callers pad a last short batch.

    Attributes:
      name: 'i3d', 'inception' or 'c3d'.
      dimension: of the features.
      min_frames: the fewest frames of a video, for C3D the only number; 1 of Inception, which
        takes images.
      digest: of the weights, as `weights.digest_of` gives it.
      resize: the convention.
    """

    name: str
    dimension: int
    min_frames: int
    digest: str
    resize: str
    _module: nn.Module = dataclasses.field(repr=False)
    _params: dict = dataclasses.field(repr=False)

    def __call__(self, videos: np.ndarray) -> Features:
        """The features of videos, or of images where the network is Inception.

        Args:
          videos: uint8 [n, frames, height, width, 3], or [n, height, width, 3] of Inception.

        Returns:
          'features' float32 [n, dimension], and 'probabilities' float32 [n, classes] if the
          weights have a classifier.

        Raises:
          ValueError: another shape or dtype, or a number of frames that the network cannot take.
        """
        axes = ["n", "height", "width", "3"]
        if self.name != "inception":
            axes.insert(1, "frames")
        if videos.dtype != np.uint8 or videos.ndim != len(axes) or videos.shape[-1] != 3:
            raise ValueError(
                f"{self.name} needs uint8 [{', '.join(axes)}], "
                f"not {videos.dtype} {list(videos.shape)}"
            )
        videos = self._spread(videos)
        return self.of_preprocessed(_preprocess(self.name, self.resize, self._params, videos))

    def of_preprocessed(self, inputs: np.ndarray | jax.Array) -> Features:
        """The features of what already has the size and the range that the network itself takes.

        Args:
          inputs: as the network's module says, of any floating dtype.

        Returns:
          As calling does.

        Raises:
          ValueError: a size or a number of frames that the network cannot take.
        """
        inputs = self._spread(jnp.asarray(inputs, jnp.float32))
        return jax.tree.map(np.asarray, _apply(self._module, self._params, inputs))

    def _spread(self, inputs: np.ndarray | jax.Array) -> jax.Array:
        """The inputs, over all devices where their number divides."""
        mesh = jax.tree.leaves(self._params)[0].sharding.mesh
        divides = len(inputs) % mesh.size == 0
        return jax.device_put(inputs, batch_sharding(mesh) if divides else replicated(mesh))


def make_extractor(network: str, *, resize: str = "reference") -> Extractor:
    """A feature network with its published weights.

    - 'i3d': 400 logits of Kinetics-400, averaged over time; probabilities are their softmax.
    - 'inception': 2,048 features of an image; probabilities over 1,008 classes if the weights
      have the head.
    - 'c3d': 4,096 features of 16 frames; probabilities over UCF101's 101 classes.

    Args:
      network: one of these.
      resize: 'reference' is that of the network's reference implementation, 'half_pixel' what
        TensorFlow 2 and PyTorch do, which the numbers of many later papers rest on.

    Raises:
      FileNotFoundError: the weights are nowhere; the message says where to get them.
      ValueError: no such network or resize.
    """
    if resize not in ("reference", "half_pixel"):
        raise ValueError(f"no resize {resize!r}: reference, half_pixel")
    tensors = weight_files.load(network)
    module, dimension, min_frames = {
        "i3d": (i3d.I3D(), i3d.NUM_CLASSES, i3d.MIN_FRAMES),
        "inception": (inception.InceptionV3(HEAD in tensors), inception.NUM_FEATURES, 1),
        "c3d": (c3d.C3D(), c3d.NUM_FEATURES, c3d.NUM_FRAMES),
    }[network]
    on_all = replicated(local_mesh())
    params = jax.device_put(unflatten_dict(tensors, sep="/"), on_all)
    digest = weight_files.digest_of(tensors)
    return Extractor(network, dimension, min_frames, digest, resize, module, params)


@cache
def make_extractors(protocol: Protocol) -> dict[str, Extractor]:
    """The networks of a protocol by name, made once; raises as `make_extractor`."""
    return {name: make_extractor(name, resize=protocol.resize) for name in protocol.networks}


# Compiled once for a shape, however many extractors there are.
@partial(jax.jit, static_argnames=("network", "resize"))
def _preprocess(network: str, resize: str, params: dict, videos: jax.Array) -> jax.Array:
    if network == "i3d":
        return preprocessing.i3d_input(videos, resize)
    if network == "inception":
        return preprocessing.inception_input(videos, resize)
    convention = "aligned_corners" if resize == "reference" else resize
    return preprocessing.c3d_input(videos, params["preprocessing"]["mean"], convention)


@partial(jax.jit, static_argnames="module")
def _apply(module: nn.Module, params: dict, inputs: jax.Array) -> dict[str, jax.Array]:
    outputs = module.apply({"params": params}, inputs)
    # I3D's features are its logits.
    features, logits = outputs if isinstance(outputs, tuple) else (outputs, outputs)
    if logits is None:
        return {"features": features}
    return {"features": features, "probabilities": jax.nn.softmax(logits)}
