"""Counts the FLOPs of matrix products and convolutions in the jaxpr of a traced function.

The count is independent of the compiler's, and is the total over all devices. A multiply-add is two
operations; elementwise operations count zero. Convolutions count only products of a kernel tap with
an actual pixel, not with padding or the zeros of a dilated input. Dead code is not counted.
"""

import math

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def count_flops(jaxpr: ClosedJaxpr) -> float:
    """Returns the FLOPs of one call of a traced function, `jax.jit(f).trace(...).jaxpr`.

    Loop bodies count once per iteration, except in a `while` of unknown length; branches count as
    the most expensive one.
    """
    return _count_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))[0]


def _count_jaxpr(jaxpr: Jaxpr, used_outputs: list[bool]) -> tuple[float, list[bool]]:
    """Returns the FLOPs of computing the used outputs, and a mask of the inputs they depend on."""
    needed = {
        variable
        for variable, is_used in zip(jaxpr.outvars, used_outputs, strict=True)
        if is_used and not isinstance(variable, Literal)
    }
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        outputs = [variable in needed for variable in equation.outvars]
        if any(outputs):
            flops, inputs = _count_equation(equation, outputs)
            total += flops
            needed |= {
                variable
                for variable, is_needed in zip(equation.invars, inputs, strict=True)
                if is_needed and not isinstance(variable, Literal)
            }
    return total, [variable in needed for variable in jaxpr.invars]


def _count_equation(equation, used_outputs: list[bool]) -> tuple[float, list[bool]]:
    needed_inputs = [True] * len(equation.invars)
    name = equation.primitive.name
    if name == "dot_general":
        return _product_flops(equation), needed_inputs
    if name == "conv_general_dilated":
        return _convolution_flops(equation), needed_inputs
    inner = _inner_jaxprs(equation.params)
    if name in ("scan", "while", "cond"):  # any input may reach any output in a later iteration
        counts = [_count_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inner]
        if name == "cond":
            return max(counts), needed_inputs
        return sum(counts) * equation.params.get("length", 1), needed_inputs
    total = 0.0
    for jaxpr in inner:
        one_to_one = len(jaxpr.outvars) == len(used_outputs) and len(jaxpr.invars) == len(
            needed_inputs
        )
        outputs = used_outputs if one_to_one else [True] * len(jaxpr.outvars)
        flops, inputs = _count_jaxpr(jaxpr, outputs)
        total += flops
        if one_to_one and len(inner) == 1:
            needed_inputs = inputs
    return total, needed_inputs


def _inner_jaxprs(params: dict) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found


def _product_flops(equation) -> float:
    (left_axes, _), _ = equation.params["dimension_numbers"]
    contracted = math.prod(equation.invars[0].aval.shape[axis] for axis in left_axes)
    return 2.0 * contracted * equation.outvars[0].aval.size


def _convolution_flops(equation) -> float:
    params = equation.params
    left, right, out = params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    result = equation.outvars[0].aval.shape
    pairs = 1.0  # (pixel, kernel tap) pairs, summed over all output positions
    for axis in range(len(params["window_strides"])):
        pairs *= _pairs_along_axis(
            size=image[left[2 + axis]],
            window=kernel[right[2 + axis]],
            out=result[out[2 + axis]],
            stride=params["window_strides"][axis],
            low=params["padding"][axis][0],
            dilation=params["lhs_dilation"][axis],
            window_dilation=params["rhs_dilation"][axis],
        )
    # rhs_spec is (output features, input features per group, ...).
    return 2.0 * pairs * result[out[0]] * result[out[1]] * kernel[right[1]]


def _pairs_along_axis(*, size, window, out, stride, low, dilation, window_dilation) -> int:
    positions = np.arange(out)[:, None] * stride + np.arange(window) * window_dilation - low
    inside = (positions >= 0) & (positions < (size - 1) * dilation + 1)
    return int(np.sum(inside & (positions % dilation == 0)))
