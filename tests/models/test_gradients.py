"""The layers whose gradients are written out agree with libraries that derive theirs."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vdm.models import blocked_attention, convolution
from vdm.models.attention import combine, compare, softmax
from vdm.models.convolution import PointwiseDense, convolve
from vdm.models.norm import FrameGroupNorm


def value_and_gradients(function, cotangent, *arguments):
    value, pull_back = jax.vjp(function, *arguments)
    return value, pull_back(cotangent(value.shape))


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_close(ours, theirs, relative):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        assert jnp.abs(a - b).max() <= relative * jnp.abs(b).max()


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize(
    "channels", [12, 18, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 64))]
)
def test_group_norm_is_that_of_flax(swish, film, channels):
    h = 0.5 + 2 * normal(0, 2, 3, 4, 6, channels)
    film_by = (normal(1, 2, 1, channels), normal(2, 2, 1, channels)) if film else None
    layer = FrameGroupNorm(swish=swish)
    params = {"group_norm": {"scale": normal(3, channels), "bias": normal(4, channels)}}
    groups = {3: 1, 12: 1, 18: 2, 64: 16}[channels]  # 4 channels or more each; divides 32

    def theirs(h, film_by, params):
        of_frames = h.reshape(-1, *h.shape[2:])
        y = nn.GroupNorm(num_groups=groups).apply({"params": params["group_norm"]}, of_frames)
        y = y.reshape(h.shape)
        if film_by is not None:
            y = y * (1 + film_by[0][:, :, None, None]) + film_by[1][:, :, None, None]
        return nn.swish(y) if swish else y

    def ours(h, film_by, params):
        return layer.apply({"params": params}, h, film=film_by)

    def cotangent(shape):
        return normal(5, *shape)

    assert_close(
        value_and_gradients(ours, cotangent, h, film_by, params),
        value_and_gradients(theirs, cotangent, h, film_by, params),
        2e-6,
    )


def test_group_norm_far_from_zero_has_no_nan():
    h = jnp.concatenate([jnp.full((1, 1, 2, 2, 4), 1e3), jnp.zeros((1, 1, 2, 2, 4))])
    params = {"group_norm": {"scale": jnp.full(4, 1e3), "bias": jnp.full(4, -1e3)}}
    layer = FrameGroupNorm(swish=True)
    gradient = jax.grad(lambda h: layer.apply({"params": params}, h).sum())(h)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("side", "size"),
    [(1, 3), (9, 7), *(pytest.param(side, 3, marks=pytest.mark.slow) for side in (2, 5, 6))],
)
@pytest.mark.parametrize("cached_bytes", [2**20, 2**12])
def test_convolution_is_that_of_jax(side, size, stride, cached_bytes, monkeypatch):
    """Two videos of six frames, all at once and, if they are large enough, in groups of frames."""
    monkeypatch.setattr(convolution, "_CACHED_BYTES", cached_bytes)

    def theirs(h, kernel):
        return jax.lax.conv_general_dilated(
            h, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    arguments = normal(0, 12, side, side + 1, 3), normal(1, size, size, 3, 4)
    assert_close(
        value_and_gradients(
            lambda *a: convolve(*a, stride, 6), lambda shape: normal(2, *shape), *arguments
        ),
        value_and_gradients(theirs, lambda shape: normal(2, *shape), *arguments),
        1e-6,
    )


def test_softmax_is_that_of_jax():
    logits = 4 * normal(0, 2, 3, 5)
    logits = logits.at[0, 0, 1:].set(jnp.finfo(jnp.float32).min)  # a frame that sees itself alone
    assert_close(
        value_and_gradients(softmax, lambda shape: normal(1, *shape), logits),
        value_and_gradients(jax.nn.softmax, lambda shape: normal(1, *shape), logits),
        1e-6,
    )


def test_products_of_attention_are_those_of_jax():
    query, key, value = normal(0, 2, 3, 5, 4), normal(1, 2, 3, 7, 4), normal(2, 2, 3, 7, 4)

    def ours(query, key, value):
        return combine(compare(query, key), value)

    def theirs(query, key, value):
        return query @ key.swapaxes(-1, -2) @ value

    def cotangent(shape):
        return normal(3, *shape)

    assert_close(
        jax.jit(lambda *a: value_and_gradients(ours, cotangent, *a))(query, key, value),
        value_and_gradients(theirs, cotangent, query, key, value),
        1e-6,
    )


@pytest.mark.parametrize("tile_bytes", [2**22, 2**10, 1])
def test_attention_in_tiles_is_that_of_jax(tile_bytes, monkeypatch):
    """Everything in one tile; four rows of an item; one row of an item."""
    monkeypatch.setattr(blocked_attention, "_TILE_BYTES", tile_bytes)
    query, key, value = (normal(seed, 4, 6, 16, 8) * 2 for seed in range(3))

    def theirs(*arrays):
        batch, items, *rest = query.shape
        arrays = (array.reshape(batch * items, *rest)[:, :, None] for array in arrays)
        attended = jax.nn.dot_product_attention(*arrays, scale=1.0)
        return attended.reshape(query.shape)

    def cotangent(shape):
        return normal(3, *shape)

    ours = jax.jit(partial(value_and_gradients, blocked_attention.attend_in_tiles, cotangent))
    assert_close(
        ours(query, key, value), value_and_gradients(theirs, cotangent, query, key, value), 2e-6
    )


def test_dense_is_that_of_flax():
    h = normal(0, 2, 3, 4, 5)
    params = nn.Dense(7).init(jax.random.key(1), h)

    def cotangent(shape):
        return normal(2, *shape)

    assert_close(
        *(
            jax.jit(partial(value_and_gradients, layer(7).apply, cotangent))(params, h)
            for layer in (PointwiseDense, nn.Dense)
        ),
        1e-6,
    )
