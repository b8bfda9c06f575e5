"""FLOP counts against products computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.models.attention import TemporalAttention, independent_images_mask
from vdm.models.convolution import FrameConv
from vdm.planning.flops import count_flops


def _count(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.jit(function).trace(*arguments).jaxpr)


def test_product_loop_and_branch():
    assert _count(lambda a, b: a @ b, (3, 4, 5), (3, 5, 7)) == 2 * 3 * 4 * 5 * 7
    loop = _count(lambda a: jax.lax.scan(lambda h, _: (h @ a, None), a, length=6)[0], (4, 4))
    assert loop == 6 * 2 * 4**3
    branch = _count(lambda a: jax.lax.cond(a[0, 0] > 0, lambda: a @ a, lambda: a), (4, 4))
    assert branch == 2 * 4**3


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_its_gradients_count_existing_pixels(stride):
    side, channels, features = 8, 3, 5
    conv = FrameConv(features, stride=stride)
    z = jnp.zeros((2, 4, side, side, channels))
    params = jax.eval_shape(conv.init, jax.random.key(0), z)

    def forward(params, z):
        return conv.apply(params, z)

    def gradients(params, z):
        return jax.grad(lambda p, z: conv.apply(p, z).sum(), (0, 1))(params, z)

    # Pairs of a kernel tap and a pixel along one axis. Stride 1 pads one pixel on both sides,
    # stride 2 of an even length pads the far side only.
    pairs = 3 * side - 2 if stride == 1 else 3 * side // 2 - 1
    forward_flops = 2 * (2 * 4) * pairs**2 * channels * features
    count = [count_flops(jax.jit(f).trace(params, z).jaxpr) for f in (forward, gradients)]
    assert count == [forward_flops, 2 * forward_flops]


def test_temporal_attention():
    batch, frames, side, channels, head_dim = 2, 6, 3, 8, 4
    attention = TemporalAttention(head_dim, max_relative_distance=4)
    h = jnp.zeros((batch, frames, side, side, channels))
    rest = (jnp.arange(frames), independent_images_mask(4, 2))
    params = jax.eval_shape(attention.init, jax.random.key(0), h, *rest)
    count = count_flops(jax.jit(attention.apply).trace(params, h, *rest).jaxpr)
    tokens = batch * side**2 * frames
    projections = 2 * tokens * channels * 4 * channels
    # Queries with keys and relative keys, weights with values and relative values.
    attention_flops = 4 * 2 * tokens * frames * channels
    assert count == projections + attention_flops


def test_agrees_with_the_compiler():
    function = jax.jit(lambda a, b: jnp.tanh(a @ b) @ b.T)
    traced = function.trace(*(jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (32, 64)))
    by_compiler = traced.lower().compile().cost_analysis()["flops"]
    np.testing.assert_allclose(count_flops(traced.jaxpr), by_compiler, rtol=0.02)
