"""Attention in tiles that fit a CPU's cache, without storing all attention weights.

The forward pass saves the log-sum-exp of each query's logits, from which the backward pass
recomputes tiles of weights (FlashAttention, Dao et al. 2022, arXiv 2205.14135, algorithms 1 and 4).
Here a tile has whole rows, so no rescaling is needed. On CPUs this is three times as fast as
products of whole arrays, which spend most of their time on memory traffic.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Bytes of a float32 tile of logits, for the whole batch. On two cores with 1 MiB of L2 cache each,
# sizes from 2 to 8 MiB are within 10 % of the fastest.
_TILE_BYTES = 4 * 2**20

_Tokens = Float[Array, "batch items tokens head_dim"]


@jax.custom_vjp
def attend_in_tiles(query: _Tokens, key: _Tokens, value: _Tokens) -> _Tokens:
    """Returns softmax(query key^T) value, separately for each item (frame and head).

    The loops are over items and tokens, never over the batch, which is sharded over devices.

    Args:
      query: queries, already scaled by head_dim ** -0.5.
      key: keys.
      value: values.

    Returns:
      The attended values, in the shape and dtype of `value`.
    """
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    items, rows = _tile(query.shape)

    def attend(arrays):
        query, key, value = arrays

        def attend_rows(query):
            logits = _products(query, key)
            largest = logits.max(-1, keepdims=True)
            weights = jnp.exp(logits - largest)
            total = weights.sum(-1, keepdims=True)
            attended = jnp.einsum("bnqk,bnkd->bnqd", weights.astype(value.dtype), value)
            return (attended / total).astype(value.dtype), largest + jnp.log(total)

        result = jax.lax.map(attend_rows, _split(query, 2, rows))
        return tuple(_joined(part, 2) for part in result)

    parts = tuple(_split(array, 1, items) for array in (query, key, value))
    attended, log_sum = (_joined(part, 1) for part in jax.lax.map(attend, parts))
    return attended, (query, key, value, attended, log_sum)


def _backward(saved, gradient):
    query, key, value, attended, log_sum = saved
    items, rows = _tile(query.shape)
    # Equals sum_k weight_qk grad_weight_qk, computed without the weights.
    correction = jnp.sum((attended * gradient).astype(jnp.float32), axis=-1, keepdims=True)

    def differentiate(arrays):
        query, key, value, gradient, log_sum, correction = arrays
        log_sum, correction = _transposed(log_sum), _transposed(correction)

        def differentiate_rows(grad_query, key_and_value):
            # Keys are the rows of a tile, so that no product contracts over the rows of two large
            # arrays: XLA on CPU has no fast kernel for that.
            key, value = key_and_value
            weights = jnp.exp(_products(key, query) - log_sum)
            grad_logits = weights * (_products(value, gradient) - correction)
            weights, grad_logits = (array.astype(key.dtype) for array in (weights, grad_logits))
            grad_value = jnp.einsum("bnkq,bnqd->bnkd", weights, gradient)
            grad_key = jnp.einsum("bnkq,bnqd->bnkd", grad_logits, query)
            grad_query += jnp.einsum("bndk,bnkq->bndq", _transposed(key), grad_logits)
            return grad_query, (grad_key, grad_value)

        zeros = jnp.zeros_like(_transposed(query))
        parts = (_split(key, 2, rows), _split(value, 2, rows))
        grad_query, grads = jax.lax.scan(differentiate_rows, zeros, parts)
        return _transposed(grad_query), *(_joined(part, 2) for part in grads)

    arrays = (query, key, value, gradient, log_sum, correction)
    grads = jax.lax.map(differentiate, tuple(_split(array, 1, items) for array in arrays))
    return tuple(_joined(part, 1) for part in grads)


attend_in_tiles.defvjp(_forward, _backward)


def _tile(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the number of items in a tile of logits, and the number of rows per item."""
    batch, items, tokens, _ = shape
    rows = _TILE_BYTES // (4 * batch * tokens)
    return _largest_divisor(items, rows // tokens), _largest_divisor(tokens, rows)


def _largest_divisor(number: int, limit: int) -> int:
    return max(n for n in range(1, number + 1) if number % n == 0 and n <= max(1, limit))


def _products(a, b):
    return jnp.einsum("bnqd,bnkd->bnqk", a, b, preferred_element_type=jnp.float32)


def _transposed(array):
    return array.swapaxes(-1, -2)


def _split(array, axis, size):
    """Splits an axis into parts of `size`, and moves the parts to a new first axis to loop over."""
    shape = array.shape
    parts = array.reshape(*shape[:axis], -1, size, *shape[axis + 1 :])
    return jnp.moveaxis(parts, axis, 0)


def _joined(parts, axis):
    """The inverse of `_split`."""
    array = jnp.moveaxis(parts, 0, axis)
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])
