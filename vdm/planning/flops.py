"""Floating-point operations of the products and convolutions of a function, from its jaxpr.

A second route beside the compiler's own count: before the compiler, of what was written, and of all
devices together. An addition and a multiplication are two operations, elementwise work is none. A
convolution has the products of its kernel with pixels that exist: neither those with padding, nor
those with the zeros between the pixels of a dilated input. What no result needs is not counted.
"""

import math

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def count_flops(jaxpr: ClosedJaxpr) -> float:
    """Operations of one call of a traced function, `jax.jit(function).trace(...).jaxpr`."""
    return _of_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))[0]


def _of_jaxpr(jaxpr: Jaxpr, wanted: list[bool]) -> tuple[float, list[bool]]:
    """Operations for the wanted outputs, and which inputs they depend on."""
    needed = {
        variable
        for variable, is_wanted in zip(jaxpr.outvars, wanted, strict=True)
        if is_wanted and not isinstance(variable, Literal)
    }
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        outputs = [variable in needed for variable in equation.outvars]
        if any(outputs):
            flops, inputs = _of_equation(equation, outputs)
            total += flops
            needed |= {
                variable
                for variable, is_needed in zip(equation.invars, inputs, strict=True)
                if is_needed and not isinstance(variable, Literal)
            }
    return total, [variable in needed for variable in jaxpr.invars]


def _of_equation(equation, wanted: list[bool]) -> tuple[float, list[bool]]:
    every_input = [True] * len(equation.invars)
    name = equation.primitive.name
    if name == "dot_general":
        return _of_product(equation), every_input
    if name == "conv_general_dilated":
        return _of_convolution(equation), every_input
    inner = _inner_jaxprs(equation.params)
    if name in ("scan", "while", "cond"):  # whose inputs may reach any output in another turn
        flops = [_of_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inner]
        if name == "cond":
            return max(flops), every_input
        return sum(flops) * equation.params.get("length", 1), every_input
    total = 0.0
    for jaxpr in inner:
        one_to_one = len(jaxpr.outvars) == len(wanted) and len(jaxpr.invars) == len(every_input)
        flops, inputs = _of_jaxpr(jaxpr, wanted if one_to_one else [True] * len(jaxpr.outvars))
        total += flops
        if one_to_one and len(inner) == 1:
            every_input = inputs
    return total, every_input


def _inner_jaxprs(params: dict) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found


def _of_product(equation) -> float:
    (left_axes, _), _ = equation.params["dimension_numbers"]
    contracted = math.prod(equation.invars[0].aval.shape[axis] for axis in left_axes)
    return 2.0 * contracted * equation.outvars[0].aval.size


def _of_convolution(equation) -> float:
    params = equation.params
    left, right, out = params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    result = equation.outvars[0].aval.shape
    pairs = 1.0  # of a pixel and a place in the kernel, over all places of the result
    for axis in range(len(params["window_strides"])):
        pairs *= _pairs_along(
            size=image[left[2 + axis]],
            window=kernel[right[2 + axis]],
            out=result[out[2 + axis]],
            stride=params["window_strides"][axis],
            low=params["padding"][axis][0],
            dilation=params["lhs_dilation"][axis],
            window_dilation=params["rhs_dilation"][axis],
        )
    # rhs_spec is (output features, input features of a group, ...).
    return 2.0 * pairs * result[out[0]] * result[out[1]] * kernel[right[1]]


def _pairs_along(*, size, window, out, stride, low, dilation, window_dilation) -> int:
    places = np.arange(out)[:, None] * stride + np.arange(window) * window_dilation - low
    inside = (places >= 0) & (places < (size - 1) * dilation + 1)
    return int(np.sum(inside & (places % dilation == 0)))
