"""I3D equals the FVD network: outputs in TensorFlow, and layers in Keras."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
import keras

from vdm.metrics.features import make_extractor
from vdm.metrics.networks import layers, preprocessing
from vdm.metrics.networks.i3d import I3D
from vdm.metrics.weights.files import PUBLISHED


def close(ours, theirs, tolerance=2e-4):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= tolerance


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data("golden/i3d_golden.npz")) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def extractor():
    try:
        return make_extractor("i3d")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_logits_equal_tensorflow(golden, extractor):
    videos = golden["videos_u8"]
    for pair in (slice(0, 2), slice(4, 6), slice(6, 8)):
        outputs = extractor(videos[pair])
        assert close(outputs["features"], golden["logits"][pair])
        exponentials = np.exp(golden["logits"][pair].astype(np.float64))
        probabilities = exponentials / exponentials.sum(1, keepdims=True)
        assert close(outputs["probabilities"], probabilities, 1e-5)
    for frames in (11, 15):  # odd padding at a stride
        short = extractor(videos[3:5, :frames])["features"]
        assert close(short, golden[f"logits_first{frames}"][3:5])
    assert extractor.digest == PUBLISHED["i3d"].digest
    assert (extractor.dimension, extractor.min_frames) == (400, 9)


def test_half_pixel_resize_equals_tensorflow_2(golden, extractor):
    half_pixel = make_extractor("i3d", resize="half_pixel")
    assert close(
        half_pixel(golden["videos_u8"][3:5])["features"],
        golden["logits_tf2_halfpixel_resize"][3:5],
    )


def test_preprocessed_inputs_equal_universome(golden, extractor):
    for seed, name in ((1, "fake"), (2, "real")):
        videos = np.random.RandomState(seed).rand(2, 16, 224, 224, 3)
        features = extractor.of_preprocessed(videos)["features"]
        assert close(features, golden[f"universome_feats_{name}"][:2])


def test_preprocessing_equals_tensorflow(golden):
    videos = jnp.asarray(golden["videos_u8"][:, :1])
    reference = preprocessing.i3d_input(videos)
    half_pixel = preprocessing.i3d_input(videos, "half_pixel")
    assert close(reference[4, 0], golden["pre_video4_frame0"], 1e-6)
    assert close(reference[0, 0, :8], golden["pre_video0_frame0_row"], 1e-6)
    assert close(half_pixel[4, 0], golden["pre_video4_frame0_tf2_halfpixel"], 1e-6)


@pytest.mark.slow
def test_endpoints_equal_tensorflow(golden, extractor):
    video = preprocessing.i3d_input(jnp.asarray(golden["videos_u8"][4:5]))
    _, state = jax.jit(
        lambda params, video: I3D().apply(
            {"params": params}, video, capture_intermediates=True, mutable=["intermediates"]
        )
    )(extractor._params, video)
    endpoints = state["intermediates"]
    assert close(endpoints["Mixed_5c"]["__call__"][0], golden["mixed5c_video4"])
    names = [name.split("/")[2] for name in golden["endpoint_names"]]
    for name, expected in zip(names, golden["endpoint_mean_maxabs_std"][4], strict=True):
        if name == "Logits":  # its average pool is not a module
            continue
        h = np.asarray(endpoints[name]["__call__"][0], np.float64)
        assert np.allclose([h.mean(), np.abs(h).max(), h.std()], expected, rtol=1e-4)


@pytest.mark.parametrize("frames, side", [(9, 7), (10, 8), (3, 12)])
@pytest.mark.parametrize("size, stride", [(7, 2), (3, 1), (3, 2), (1, 1)])
def test_convolution_equals_keras(size, stride, frames, side):
    generator = np.random.default_rng(0)
    h = generator.standard_normal((2, frames, side, side + 1, 3), np.float32)
    kernel = generator.standard_normal((size, size, size, 3, 4), np.float32)
    theirs = keras.ops.conv(h, kernel, stride, padding="same")
    assert close(layers.convolve(jnp.asarray(h), jnp.asarray(kernel), stride), theirs, 1e-4)


@pytest.mark.parametrize("frames, side", [(4, 7), (5, 8)])
@pytest.mark.parametrize(
    "window, strides", [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (2, 2, 2))]
)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_max_pool_equals_keras(window, strides, frames, side, padding):
    h = -np.random.default_rng(0).random((2, frames, side, side + 1, 3), np.float32)
    theirs = keras.ops.max_pool(h, window, strides, padding=padding.lower())
    assert close(layers.max_pool(jnp.asarray(h), window, strides, padding), theirs, 0)


@pytest.mark.parametrize("size, out_size", [(5, 12), (12, 5), (7, 7)])
@pytest.mark.parametrize(
    "convention, position",
    [
        ("reference", lambda i, size, out_size: i * size / out_size),
        ("half_pixel", lambda i, size, out_size: (i + 0.5) * size / out_size - 0.5),
        ("aligned_corners", lambda i, size, out_size: i * (size - 1) / (out_size - 1)),
    ],
)
def test_resize_equals_numpy_interpolation(convention, position, size, out_size):
    images = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    at = position(np.arange(out_size), size, out_size)

    def along(axis, values):
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(size), line), axis, values)

    ours = preprocessing.resize_bilinear(jnp.asarray(images), out_size, out_size, convention)
    assert close(ours, along(1, along(2, images)), 1e-6)


def test_invalid_inputs_are_errors(extractor):
    with pytest.raises(ValueError, match="at least 9 frames, not 8"):
        extractor(np.zeros((1, 8, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"uint8 \[n, frames, height, width, 3\]"):
        extractor(np.zeros((1, 16, 64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="224x224 pixels, not 64x64"):
        extractor.of_preprocessed(np.zeros((1, 16, 64, 64, 3)))
    with pytest.raises(ValueError, match="resize is 'bicubic'"):
        make_extractor("i3d", resize="bicubic")
