"""The peer's two attentions, with gradients that keep nothing but the layer's input.

Both work on a part of the tokens at a time, which stays in a cache, and their backward passes
compute the forward one again: projections of 768 channels for every pixel are what fills memory.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_LAYER_NORM_EPSILON = 1e-5
_ROTARY_BASE = 10_000.0
_BUCKETS, _MAX_DISTANCE = 32, 32
_TOKENS_AT_A_TIME = 4096
_PROJECTIONS = ("query", "key", "value")


def layer_norm(gamma: Float[Array, " channels"], h: Float[Array, "... channels"]):
    """Over channels, with a gain and no bias."""
    centred = h - h.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + _LAYER_NORM_EPSILON) * gamma


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def in_parts(layer, tokens_at_a_time: int, params, h: Float[Array, "groups tokens channels"]):
    """layer(params, h) on some of its groups at a time, one after the other."""
    split = _split(h, tokens_at_a_time)
    if split.shape[0] == 1:
        return layer(params, h)
    return jax.lax.map(partial(layer, params), split).reshape(h.shape)


def _split(h, tokens_at_a_time):
    groups, tokens, _ = h.shape
    parts = max(1, min(groups, groups * tokens // tokens_at_a_time))
    while groups % parts:
        parts -= 1
    return h.reshape(parts, groups // parts, *h.shape[1:])


def _in_parts_forward(layer, tokens_at_a_time, params, h):
    return in_parts(layer, tokens_at_a_time, params, h), (params, h)


def _in_parts_backward(layer, tokens_at_a_time, saved, gradient):
    params, h = saved

    def pull_back(part, part_gradient):
        return jax.vjp(layer, params, part)[1](part_gradient)

    def step(total, part):
        towards_params, towards_part = pull_back(*part)
        return jax.tree.map(jnp.add, total, towards_params), towards_part

    parts = _split(h, tokens_at_a_time), _split(gradient, tokens_at_a_time)
    if parts[0].shape[0] == 1:
        return pull_back(h, gradient)
    towards_params, towards_h = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, params), parts)
    return towards_params, towards_h.reshape(h.shape)


in_parts.defvjp(_in_parts_forward, _in_parts_backward)


# Linear attention in space.


def linear_attention(params, h: Float[Array, "frames pixels channels"], heads: int):
    """h plus softmax_d(q) (softmax_pixels(k)^T v), projected, of the normalised h.

    Values are never made: k^T v = (k^T t) W_v for tokens t, and the output projection is applied to
    the small matrices k^T v rather than to every pixel.
    """
    layer = partial(_linear_attention, heads)
    return in_parts(layer, _TOKENS_AT_A_TIME, params, h)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear_attention(heads, params, h):
    return _linear_forward(heads, params, h)[0]


def _linear_forward(heads, params, h):
    _tokens, query, _key, context = _linear_parts(heads, params, h)
    update = jnp.einsum("npd,ndc->npc", query, _linear_output(heads, params, context))
    return h + update + params["out_bias"], (params, h)


def _linear_parts(heads, params, h):
    """Tokens, queries, keys, and k^T t transposed, [frames, channels, heads * head_dim]."""
    tokens = layer_norm(params["gamma"], h)
    width = params["query"].shape[1]
    head_dim = width // heads
    flat = tokens.reshape(-1, tokens.shape[-1])
    query = (flat @ params["query"]).reshape(-1, heads, head_dim)
    query = jax.nn.softmax(query, axis=-1) * head_dim**-0.5
    query = query.reshape(*h.shape[:2], width)
    key = jax.nn.softmax((flat @ params["key"]).reshape(*h.shape[:2], width), axis=1)
    return tokens, query, key, jnp.einsum("npc,npd->ncd", tokens, key)


def _linear_output(heads, params, context):
    """(k^T t) W_v W_out, a head at a time: [frames, heads * head_dim, channels]."""
    frames, channels, width = context.shape
    by_head = context.reshape(frames, channels, heads, -1)
    value = params["value"].reshape(channels, heads, -1)
    out = params["out"].reshape(heads, -1, channels)
    mixed = jnp.einsum("nchd,che->nhde", by_head, value)
    return jnp.einsum("nhde,hec->nhdc", mixed, out).reshape(frames, width, channels)


def _linear_backward(heads, saved, gradient):
    params, h = saved
    tokens, query, key, context = _linear_parts(heads, params, h)
    output, pull_back = jax.vjp(partial(_linear_output, heads), params, context)
    head_dim = query.shape[-1] // heads

    towards_output = jnp.einsum("npc,npd->ncd", gradient, query).swapaxes(1, 2)
    towards_params, towards_context = pull_back(towards_output)
    towards_query = jnp.einsum("npc,ndc->npd", gradient, output)
    products = (towards_query * query).reshape(-1, heads, head_dim)
    along = jnp.repeat(products.sum(-1), head_dim, axis=-1).reshape(query.shape)
    towards_query = query * (towards_query - along * head_dim**0.5)

    towards_key = jnp.einsum("npc,ncd->npd", tokens, towards_context)
    along = (context * towards_context).sum(1, keepdims=True)  # of softmax(k) and its gradient
    towards_key = key * (towards_key - along)

    flat, flat_query, flat_key = (
        a.reshape(-1, a.shape[-1]) for a in (tokens, towards_query, towards_key)
    )
    towards_tokens = flat_query @ params["query"].T + flat_key @ params["key"].T
    towards_tokens = towards_tokens.reshape(h.shape)
    towards_tokens += jnp.einsum("npd,ncd->npc", key, towards_context)
    _, normalise = jax.vjp(layer_norm, params["gamma"], h)
    towards_gamma, towards_h = normalise(towards_tokens)
    towards_params |= {
        "gamma": towards_gamma,
        "query": flat.T @ flat_query,
        "key": flat.T @ flat_key,
        "out_bias": gradient.sum((0, 1)),
    }
    return towards_params, gradient + towards_h


_linear_attention.defvjp(_linear_forward, _linear_backward)


# Attention in time, and the full one in space, which has neither rotation nor bias.


def attention(params, h: Float[Array, "groups tokens channels"], *, rotary: bool):
    """h plus attention of the normalised h over its tokens, a head after the other.

    params: gamma, query, key, value [heads, channels, head_dim], out [heads, head_dim, channels],
    and, with rotary, bias [heads, tokens, tokens]; the bias is an input like the others.
    """
    return in_parts(partial(_attention, rotary), _TOKENS_AT_A_TIME, params, h)


def _rotation(tokens: int, head_dim: int):
    """cos and sin [tokens, head_dim] of the angles, and the matrix that turns (a, b) to (-b, a)."""
    frequencies = _ROTARY_BASE ** -(np.arange(0, head_dim, 2) / head_dim)
    angles = np.repeat(np.arange(tokens)[:, None] * frequencies, 2, axis=-1).astype(np.float32)
    turn = np.kron(np.eye(head_dim // 2), [[0, 1], [-1, 0]]).astype(np.float32)
    return np.cos(angles), np.sin(angles), turn


def _rotate(vectors, rotation):
    cos, sin, turn = rotation
    turned = (vectors.reshape(-1, vectors.shape[-1]) @ turn).reshape(vectors.shape)
    return vectors * cos + turned * sin


def _rotate_back(vectors, rotation):
    cos, sin, turn = rotation
    turned = (vectors * sin).reshape(-1, vectors.shape[-1]) @ turn.T
    return vectors * cos + turned.reshape(vectors.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(rotary, params, h):
    return _attention_forward(rotary, params, h)[0]


def _heads(params):
    names = (*_PROJECTIONS, "out", "bias")
    return {name: params[name] for name in names if name in params}


def _head(rotary, flat, shape, head):
    """Query, key, value and weights of one head, [groups, tokens, head_dim or tokens]."""
    head_dim = head["query"].shape[-1]
    query, key, value = ((flat @ head[name]).reshape(*shape[:2], head_dim) for name in _PROJECTIONS)
    query *= head_dim**-0.5
    if rotary:
        rotation = _rotation(shape[1], head_dim)
        query, key = _rotate(query, rotation), _rotate(key, rotation)
    logits = jnp.einsum("nqd,nkd->nqk", query, key)
    if "bias" in head:
        logits += head["bias"]
    return query, key, value, jax.nn.softmax(logits)


def _attention_forward(rotary, params, h):
    flat = layer_norm(params["gamma"], h).reshape(-1, h.shape[-1])

    def add_head(total, head):
        *_, value, weights = _head(rotary, flat, h.shape, head)
        attended = jnp.einsum("nqk,nkd->nqd", weights, value)
        return total + attended.reshape(-1, attended.shape[-1]) @ head["out"], None

    total, _ = jax.lax.scan(add_head, h.reshape(flat.shape), _heads(params))
    return total.reshape(h.shape), (params, h)


def _attention_backward(rotary, saved, gradient):
    params, h = saved
    flat = layer_norm(params["gamma"], h).reshape(-1, h.shape[-1])
    flat_gradient = gradient.reshape(flat.shape)

    def add_head(total, head):
        query, key, value, weights = _head(rotary, flat, h.shape, head)
        attended = jnp.einsum("nqk,nkd->nqd", weights, value)
        head_dim = query.shape[-1]
        towards = {"out": attended.reshape(-1, head_dim).T @ flat_gradient}
        towards_attended = (flat_gradient @ head["out"].T).reshape(query.shape)
        towards_weights = jnp.einsum("nqd,nkd->nqk", towards_attended, value)
        towards_value = _product_of_transposed(weights, towards_attended)
        along = (towards_weights * weights).sum(-1, keepdims=True)
        towards_logits = weights * (towards_weights - along)
        if "bias" in head:
            towards["bias"] = towards_logits.sum(0)
        towards_query = jnp.einsum("nqk,nkd->nqd", towards_logits, key)
        towards_key = _product_of_transposed(towards_logits, query)
        if rotary:
            rotation = _rotation(h.shape[1], head_dim)
            towards_query = _rotate_back(towards_query, rotation)
            towards_key = _rotate_back(towards_key, rotation)
        # One product for three: their sums are over few channels each.
        towards_projected = jnp.concatenate(
            [towards_query * head_dim**-0.5, towards_key, towards_value], axis=-1
        ).reshape(-1, 3 * head_dim)
        projection = jnp.concatenate([head[name] for name in _PROJECTIONS], axis=-1)
        towards_projection = jnp.split(flat.T @ towards_projected, 3, axis=-1)
        towards |= dict(zip(_PROJECTIONS, towards_projection, strict=True))
        total += towards_projected @ projection.T
        return total, towards

    towards_tokens, towards_params = jax.lax.scan(add_head, jnp.zeros_like(flat), _heads(params))
    _, normalise = jax.vjp(layer_norm, params["gamma"], h)
    towards_gamma, towards_h = normalise(towards_tokens.reshape(h.shape))
    return towards_params | {"gamma": towards_gamma}, gradient + towards_h


def _product_of_transposed(weights, vectors):
    """weights^T vectors. XLA for CPUs is three times faster at it with weights transposed first."""
    transposed = jax.lax.optimization_barrier(weights.swapaxes(1, 2))
    return jnp.einsum("nkq,nqd->nkd", transposed, vectors)


_attention.defvjp(_attention_forward, _attention_backward)


def relative_position_buckets(tokens: int) -> np.ndarray:
    """T5's bucket of each pair of positions, [tokens, tokens]: exact near, logarithmic far."""
    behind = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
    half, exact = _BUCKETS // 2, _BUCKETS // 4
    distance = np.abs(behind)
    scale = (half - exact) / math.log(_MAX_DISTANCE / exact)
    far = exact + (np.log(np.maximum(distance, 1) / exact) * scale).astype(int)
    return (behind < 0) * half + np.where(distance < exact, distance, np.minimum(far, half - 1))
