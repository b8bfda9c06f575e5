"""Inception-v3 equals the FID network: features in TensorFlow, and all layers in Keras."""

import os
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
import keras

from vdm.metrics.features import make_extractor
from vdm.metrics.networks import preprocessing
from vdm.metrics.networks.inception import InceptionV3
from vdm.metrics.networks.layers import ConvUnit
from vdm.metrics.weights import naming
from vdm.metrics.weights.files import is_published, load_weights


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data("golden/inception_golden.npz")) as arrays:
        return dict(arrays)


def test_features_equal_tensorflow(golden):
    try:
        extractor = make_extractor("inception")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    outputs = extractor(golden["images_u8"])
    assert np.abs(outputs["features"] - golden["features"]).max() <= 2e-4
    assert is_published("inception", load_weights("inception"))
    assert (extractor.dimension, extractor.min_frames) == (2048, 1)


def test_resize_equals_tensorflow(golden):
    image = jnp.asarray(golden["images_u8"][2:3])
    resized = 128 * preprocessing.inception_input(image) + 128
    assert np.abs(resized[0, :4] - golden["resized_img2_rows0_4"]).max() <= 1e-4


def random_tensors(generator):
    """Yields random weights that preserve the scale of activations."""
    for name, shape in naming.expected_shapes("inception").items():
        value = generator.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            value *= np.sqrt(2 / np.prod(shape[:-1]))
        elif name.endswith("variance"):
            value = 0.5 + value**2
        yield name, value if name.endswith(("kernel", "variance")) else 0.1 * value


@pytest.mark.slow
def test_network_and_head_equal_keras():
    tensors = dict(random_tensors(np.random.default_rng(0)))
    images = np.random.default_rng(1).uniform(-1, 1, (1, 299, 299, 3)).astype(np.float32)
    order, outputs = [], {}

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        path = context.module.path
        if isinstance(context.module, ConvUnit):
            order.append("/".join(path))
        if len(path) == 1:
            outputs[path[0]] = output
        return output

    def ours(params, images):
        with nn.intercept_methods(record):
            results = InceptionV3(head=True).apply({"params": params}, images)
        return *results, dict(outputs)

    features, logits, outputs = jax.jit(ours)(unflatten_dict(tensors, sep="/"), jnp.asarray(images))

    trunk = keras.applications.InceptionV3(include_top=False, weights=None)
    # Keras numbers layers in the order of creation, which is our order of calls.
    numbered = {}
    for kind, leaves in (
        (keras.layers.Conv2D, ["kernel"]),
        (keras.layers.BatchNormalization, ["beta", "mean", "variance"]),
    ):
        numbered[kind] = sorted(
            (layer for layer in trunk.layers if type(layer) is kind),
            key=lambda layer: int(re.search(r"\d*$", layer.name)[0] or 0),
        )
        for layer, module in zip(numbered[kind], order, strict=True):
            layer.set_weights([tensors[f"{module}/{leaf}"] for leaf in leaves])
    blocks = [trunk.get_layer(f"mixed{index}").output for index in range(11)]
    # The last pool is an average in Keras, and a maximum in the release of 2015.
    conv, norm = (layers[-1] for layers in numbered.values())
    pooled = keras.layers.MaxPool2D(3, 1, "same")(blocks[9])
    pooled = keras.layers.ReLU()(norm(conv(pooled)))
    blocks[10] = keras.layers.Concatenate()([blocks[10][..., : -pooled.shape[-1]], pooled])

    theirs = keras.Model(trunk.input, blocks).predict(images, verbose=0)
    for index, expected in enumerate(theirs):
        h = outputs[f"mixed_{index}" if index else "mixed"]
        assert np.abs(h - expected).max() <= 1e-4 * np.abs(expected).max()
    expected = theirs[-1].mean((1, 2))
    assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()
    head = keras.layers.Dense(1008, use_bias=False)
    head.build((None, 2048))
    head.set_weights([tensors[naming.HEAD]])
    expected = np.asarray(head(expected))
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
