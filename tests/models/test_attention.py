"""Attention against a direct evaluation of Shaw et al.'s equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.models.attention import SpatialAttention, TemporalAttention, independent_images_mask

HEADS, HEAD_DIM, LIMIT = 2, 4, 3


def _params(module, *inputs):
    variables = module.init(jax.random.key(0), *inputs)
    leaves, tree = jax.tree.flatten(variables)
    generator = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [generator.normal(size=leaf.shape) for leaf in leaves])


def _normalise(h, group_norm):
    """Group normalisation with one group of 4 channels each, of single frames."""
    groups = h.reshape(*h.shape[:-1], -1, 4)
    mean = groups.mean(axis=(2, 3, 5), keepdims=True)
    variance = groups.var(axis=(2, 3, 5), keepdims=True)
    normal = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(h.shape)
    return normal * group_norm["scale"] + group_norm["bias"]


def _attend_one(tokens, params, mask, positions=None):
    """Tokens [n, channels], one query, head and key at a time."""
    n, channels = tokens.shape
    query, key, value = np.split(_dense(tokens, params["qkv"]), 3, axis=-1)
    out = np.zeros((n, channels))
    for head in range(HEADS):
        part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        for i in range(n):
            logits, values = [], []
            for j in range(n):
                k, v = key[j, part], value[j, part]
                if positions is not None:
                    offset = np.clip(positions[j] - positions[i], -LIMIT, LIMIT) + LIMIT
                    k = k + params["relative_key"][offset]
                    v = v + params["relative_value"][offset]
                logits.append(query[i, part] @ k / np.sqrt(HEAD_DIM) if mask[i, j] else -np.inf)
                values.append(v)
            weights = np.exp(np.array(logits) - max(logits))
            out[i, part] = (weights / weights.sum()) @ np.array(values)
    return _dense(out, params["out"])


def _dense(h, params):
    return h @ params["projection"]["kernel"] + params["projection"]["bias"]


def test_temporal_attention_is_equations_3_and_4_of_shaw():
    video_frames, images = 5, 2
    frames = video_frames + images
    h = np.random.default_rng(1).normal(size=(2, frames, 2, 3, HEADS * HEAD_DIM))
    positions = np.array([0, 1, 2, 4, 9, 5, 6])
    mask = independent_images_mask(video_frames, images)
    module = TemporalAttention(HEAD_DIM, LIMIT)
    inputs = (jnp.array(h, jnp.float32), jnp.array(positions), mask)
    variables = _params(module, *inputs)
    params = variables["params"]
    expected = h.copy()
    normal = _normalise(h, params["norm"]["group_norm"])
    for b, y, x in np.ndindex(2, 2, 3):
        expected[b, :, y, x] += _attend_one(normal[b, :, y, x], params, np.array(mask), positions)
    np.testing.assert_allclose(module.apply(variables, *inputs), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("in_tiles", [False, True])
def test_spatial_attention_is_softmax_attention_within_each_frame(in_tiles):
    h = np.random.default_rng(1).normal(size=(2, 3, 2, 3, HEADS * HEAD_DIM))
    module = SpatialAttention(HEAD_DIM, in_tiles=in_tiles)
    variables = _params(module, jnp.array(h, jnp.float32))
    params = variables["params"]
    expected = h.copy()
    normal = _normalise(h, params["norm"]["group_norm"])
    for b, f in np.ndindex(2, 3):
        tokens = normal[b, f].reshape(6, -1)
        expected[b, f] += _attend_one(tokens, params, np.ones((6, 6), bool)).reshape(2, 3, -1)
    actual = module.apply(variables, jnp.array(h, jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_mask_is_the_identity_for_images():
    np.testing.assert_array_equal(
        independent_images_mask(2, 2),
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    )
