"""C3D equals the same network in Keras, layer by layer."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
import keras

from vdm.metrics.features import make_extractor
from vdm.metrics.networks import preprocessing
from vdm.metrics.networks.c3d import C3D
from vdm.metrics.weights import naming
from vdm.metrics.weights.files import store_weights

POOLS = {"conv1a": (1, 2, 2), "conv2a": 2, "conv3b": 2, "conv4b": 2, "conv5b": 2}


@pytest.fixture(scope="module")
def tensors():
    generator = np.random.default_rng(0)

    def random(name, shape):
        value = generator.standard_normal(shape, np.float32)
        return value * np.float32(np.sqrt(2 / np.prod(shape[:-1])) if "kernel" in name else 0.1)

    return {name: random(name, shape) for name, shape in naming.expected_shapes("c3d").items()}


def test_layers_equal_keras(tensors):
    videos = jnp.asarray(np.random.default_rng(1).standard_normal((1, 16, 112, 112, 3)), "float32")
    _, state = jax.jit(
        lambda params: C3D().apply(
            {"params": params}, videos, capture_intermediates=True, mutable=["intermediates"]
        )
    )(unflatten_dict(tensors, sep="/"))
    ours = flatten_dict(state["intermediates"], sep="/")

    inputs = h = keras.Input((16, 112, 112, 3))
    before_relu = {}
    for name in ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"):
        features = tensors[f"{name}/bias"].size
        before_relu[name] = keras.layers.Conv3D(
            features, 3, padding="same", kernel_initializer="zeros", name=name
        )(h)
        h = keras.layers.ReLU()(before_relu[name])
        if name in POOLS:
            h = keras.layers.MaxPool3D(POOLS[name], padding="same")(h)
    assert h.shape == (None, 1, 4, 4, 512)
    h = keras.layers.Flatten()(keras.layers.Permute((4, 1, 2, 3))(h))
    for name in ("fc6", "fc7", "fc8"):
        before_relu[name] = keras.layers.Dense(
            tensors[f"{name}/bias"].size, kernel_initializer="zeros", name=name
        )(h)
        h = keras.layers.ReLU()(before_relu[name])
    model = keras.Model(inputs, before_relu)
    for name in before_relu:
        model.get_layer(name).set_weights([tensors[f"{name}/kernel"], tensors[f"{name}/bias"]])
    for name, expected in model.predict(videos, verbose=0).items():
        h = ours[f"{name}/__call__"][0]
        assert np.abs(h - expected).max() <= 1e-4 * np.abs(expected).max(), name
    features, logits = ours["__call__"][0]
    assert (features == jax.nn.relu(ours["fc7/__call__"][0])).all()
    assert (logits == ours["fc8/__call__"][0]).all()


def test_the_input_is_bgr_minus_the_mean():
    # 112 pixels are not resized; from 223, aligned corners take every second pixel.
    videos = np.random.default_rng(0).integers(256, size=(1, 16, 223, 112, 3), dtype=np.uint8)
    mean = np.random.default_rng(1).random((16, 112, 112, 3), np.float32)
    prepared = preprocessing.c3d_input(jnp.asarray(videos), jnp.asarray(mean))
    red = videos[0, :, ::2, :, 0] - mean[..., 2]
    assert np.abs(prepared[0, ..., 2] - red).max() <= 1e-4


@pytest.mark.slow
def test_features_and_probabilities(tensors, monkeypatch, tmp_path):
    monkeypatch.setenv("VDM_CACHE", str(tmp_path))
    store_weights("c3d", tensors, "")
    extractor = make_extractor("c3d")
    videos = np.random.default_rng(2).integers(256, size=(1, 16, 20, 30, 3), dtype=np.uint8)
    outputs = extractor(videos)
    assert outputs["features"].shape == (1, extractor.dimension) == (1, 4096)
    assert (outputs["features"] >= 0).all() and outputs["probabilities"].shape == (1, 101)
    assert abs(outputs["probabilities"].sum() - 1) < 1e-5
    with pytest.raises(ValueError, match="C3D needs 16 frames"):
        extractor(videos[:, :15])
