"""Feature extractors: convert uint8 videos to the features that metrics are computed from."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from vdm.metrics.networks import c3d, i3d, inception, preprocessing
from vdm.metrics.protocols import METRICS, RESIZES, Protocol
from vdm.metrics.weights.files import digest_of, load_weights
from vdm.metrics.weights.naming import HEAD
from vdm.parallel.mesh import batch_sharding, local_mesh, replicated

Features = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A feature network with its weights and its preprocessing.

    A call compiles once per shape, so callers pad the last batch. For the choices of `name` and
    `resize`, see `make_extractor`.
    """

    name: str
    dimension: int  # number of features
    min_frames: int  # C3D takes exactly this number; 1 for Inception, which takes images
    digest: str  # `digest_of` the weights
    resize: str
    has_classes: bool  # whether calls return 'probabilities'
    _module: nn.Module = dataclasses.field(repr=False)
    _params: dict = dataclasses.field(repr=False)

    def __call__(self, videos: np.ndarray) -> Features:
        """Returns features of uint8 videos [n, frames, height, width, 3]; Inception takes images.

        Returns:
          'features' float32 [n, dimension], and 'probabilities' float32 [n, classes] if the
          weights have a classifier.

        Raises:
          ValueError: the shape, the dtype or the number of frames is invalid.
        """
        axes = ["n", "height", "width", "3"]
        if self.name != "inception":
            axes.insert(1, "frames")
        if videos.dtype != np.uint8 or videos.ndim != len(axes) or videos.shape[-1] != 3:
            raise ValueError(
                f"the input of {self.name} is {videos.dtype} {list(videos.shape)}, and must be "
                f"uint8 [{', '.join(axes)}]"
            )
        inputs = _preprocess(self.name, self.resize, self._params, self._sharded(videos))
        return self.of_preprocessed(inputs)

    def of_preprocessed(self, inputs: np.ndarray | jax.Array) -> Features:
        """Returns the result of `__call__` for already preprocessed inputs, of any floating dtype.

        Raises:
          ValueError: the size or the number of frames is invalid.
        """
        inputs = self._sharded(jnp.asarray(inputs, jnp.float32))
        return jax.tree.map(np.asarray, _apply(self._module, self._params, inputs))

    def _sharded(self, inputs: np.ndarray | jax.Array) -> jax.Array:
        """Shards the inputs over all devices if the batch divides evenly, else replicates them."""
        mesh = jax.tree.leaves(self._params)[0].sharding.mesh
        divides = len(inputs) % mesh.size == 0
        return jax.device_put(inputs, batch_sharding(mesh) if divides else replicated(mesh))


def make_extractor(network: str, *, resize: str = "reference") -> Extractor:
    """Loads a feature network with its published weights.

    - 'i3d': 400 logits of Kinetics-400, averaged over time; probabilities are their softmax.
    - 'inception': 2,048 features of an image; probabilities over 1,008 classes if the weights
      have the head.
    - 'c3d': 4,096 features of 16 frames; probabilities over UCF101's 101 classes.

    With resize 'reference', frames are resized as in the network's reference implementation; with
    'half_pixel', as in TensorFlow 2, PyTorch and many later papers.

    Raises:
      FileNotFoundError: the weights are missing; the message says how to install them.
      ValueError: the network or the resize is unknown.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}, and must be one of {', '.join(RESIZES)}")
    tensors = load_weights(network)
    module, dimension, min_frames = {
        "i3d": (i3d.I3D(), i3d.NUM_CLASSES, i3d.MIN_FRAMES),
        "inception": (inception.InceptionV3(HEAD in tensors), inception.NUM_FEATURES, 1),
        "c3d": (c3d.C3D(), c3d.NUM_FEATURES, c3d.NUM_FRAMES),
    }[network]
    params = jax.device_put(unflatten_dict(tensors, sep="/"), replicated(local_mesh()))
    has_classes = network != "inception" or HEAD in tensors
    return Extractor(
        network, dimension, min_frames, digest_of(tensors), resize, has_classes, module, params
    )


class Extractors(dict[str, Any]):
    """Networks of a protocol by name, as `Extractor`.

    Attributes:
      missing: {name: reason} of networks without weights, which are not in the dict.
    """

    def __init__(self, extractors: Mapping[str, Any], missing: Mapping[str, str]):
        super().__init__(extractors)
        self.missing = missing


def measurable(protocol: Protocol, extractors: Mapping[str, Any]) -> tuple[Protocol, list[str]]:
    """Drops the metrics of a protocol that the installed weights do not support.

    `extractors` are networks by name, as returned by `make_extractors`.

    Returns:
      (protocol, warnings): one sentence per network with dropped metrics.

    Raises:
      ValueError: no metric is left.
    """
    warnings = []
    for network, reason in getattr(extractors, "missing", {}).items():
        dropped = [metric for metric in protocol.metrics if METRICS[metric][0] == network]
        warnings.append(f"{', '.join(dropped)} left out: {reason}")
        protocol = _without(protocol, dropped)
    for network, extractor in extractors.items():
        scores = [m for m in protocol.metrics if m.startswith("is_") and METRICS[m][0] == network]
        if scores and not extractor.has_classes:
            warnings.append(
                f"{', '.join(scores)} left out: the Inception Score needs the classifier of "
                f"{network}, which its weights lack; import weights with a classifier by "
                "python -m vdm.metrics.import_weights"
            )
            protocol = _without(protocol, scores)
    if not protocol.metrics:
        raise ValueError(f"protocol {protocol.name}: {'; '.join(warnings)}")
    return protocol, warnings


def _without(protocol: Protocol, metrics: Sequence[str]) -> Protocol:
    left = tuple(metric for metric in protocol.metrics if metric not in metrics)
    return dataclasses.replace(protocol, metrics=left)


def make_extractors(protocol: Protocol) -> Extractors:
    """Loads the networks of a protocol, except those without weights, which `measurable` reports.

    Raises:
      FileNotFoundError: no metric of the protocol can be measured without the missing weights.
      ValueError: as in `make_extractor`.
    """
    found, missing = {}, {}
    for name in protocol.networks:
        try:
            found[name] = _cached(name, resize=protocol.resize)
        except FileNotFoundError as error:
            missing[name] = str(error)
    if missing and all(METRICS[metric][0] in missing for metric in protocol.metrics):
        raise FileNotFoundError("; ".join(missing.values()))
    return Extractors(found, missing)


_cached = cache(make_extractor)


# Compiled once per shape, even for several extractors.
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
