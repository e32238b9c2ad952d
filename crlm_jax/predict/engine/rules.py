"""JAX's operations in OpenVINO's: those that the segmenters consist of when they predict.

A rule takes the operation's inputs (one of them a `Value` at least), its parameters and the shape
of its result. What is not in the table, or is used in a way that no segmenter does, is refused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from openvino import Node, opset1
from openvino import opset13 as ops

from crlm_jax.predict.engine.values import (
    CHANNELS_FIRST,
    Array,
    Value,
    alike,
    as_value,
    constant,
    integers,
    ordered,
    plain,
    regroup,
    reshaped,
    whole,
)

Params = Mapping[str, Any]
Shape = tuple[int, ...]
Rule = Callable[[Sequence[Array], Params, Shape], Value]


def _elementwise(make: Callable[..., Node]) -> Rule:
    """Makes a rule of a function of nodes."""

    def rule(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
        values, order = alike(inputs)
        return Value(make(*(value.node for value in values)), shape, order)

    return rule


def _same(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    return as_value(inputs[0])


def _select(chosen: Node, *cases: Node) -> Node:
    no, yes = cases  # False is 0, hence the first
    return ops.select(chosen, yes, no)


def _one(node: Node) -> Node:
    return ops.constant(1, node.get_element_type())


def _power(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    value = as_value(inputs[0])
    exponent = ops.constant(params["y"], value.node.get_element_type())
    return Value(ops.power(value.node, exponent), shape, value.order)


def _convert(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    value = as_value(inputs[0])
    return Value(ops.convert(value.node, np.dtype(params["new_dtype"])), shape, value.order)


def _broadcast(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    """Notes the new sides; memory grows where an operation needs it to."""
    value, places = as_value(inputs[0]), params["broadcast_dimensions"]
    order = tuple(places[axis] for axis in value.order)
    others = tuple(axis for axis in range(len(shape)) if axis not in places)
    return Value(reshaped(value.node, [1] * len(others) + list(value.sides)), shape, others + order)


def _reshape(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    value = as_value(inputs[0])
    if value.pair and (woven := _interleaved(*value.pair, shape)):
        return woven
    return regroup(value, shape)


def _interleaved(even: Value, odd: Value, new: int, shape: Shape) -> Value | None:
    """Two arrays that take turns along an axis, as when a map is doubled.

    Each is repeated and a constant says which is taken: a concatenation of single places, as which
    JAX writes it, takes half as long as all convolutions. None: the shape is another.
    """
    axis, sides = new - 1, list(even.shape)
    if axis < 0 or len(sides) != 4:
        return None
    sides[axis] *= 2
    if tuple(sides) != shape:
        return None
    place = even.order.index(axis)
    is_odd = np.arange(shape[axis]) % 2 == 1
    mask = constant(is_odd.reshape([-1 if i == place else 1 for i in range(4)]))
    nodes = [
        ops.interpolate(
            whole(value).node, constant(np.array([2.0], np.float32)), "nearest", "scales",
            axes=integers([place]), nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
        for value in (odd, even)
    ]  # fmt: skip
    return Value(ops.select(mask, *nodes), shape, even.order)


def _transpose(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    value, moves = as_value(inputs[0]), list(params["permutation"])
    return Value(value.node, shape, tuple(moves.index(axis) for axis in value.order))


def _concatenate(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    values, order = alike(inputs)
    nodes = [whole(value).node for value in values]
    return Value(ops.concat(nodes, order.index(params["dimension"])), shape, order)


def _stack(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    values, order = alike(inputs)
    new = params["axis"]
    order = tuple(axis + (axis >= new) for axis in order)
    # Beside the axis after it, with which it is merged when rows or columns are interleaved.
    place = order.index(new + 1) if new + 1 in order else len(order)
    place = order.index(new - 1) + 1 if new else place
    nodes = [ops.unsqueeze(whole(value).node, integers([place])) for value in values]
    pair = (values[0], values[1], new) if len(values) == 2 else None
    return Value(ops.concat(nodes, place), shape, (*order[:place], new, *order[place:]), pair)


def _slice(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    value = whole(as_value(inputs[0]))
    starts, stops = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    cut = [
        a for a in range(len(shape)) if (starts[a], stops[a], steps[a]) != (0, value.shape[a], 1)
    ]
    if not cut:
        return value
    lists = [integers([numbers[a] for a in cut]) for numbers in (starts, stops, steps)]
    places = integers([value.order.index(a) for a in cut])
    return Value(ops.slice(value.node, *lists, places), shape, value.order)


def _reverse(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    value, axes = whole(as_value(inputs[0])), params["dimensions"]
    lists = [integers([number] * len(axes)) for number in (-1, np.iinfo(np.int64).min, -1)]
    places = integers([value.order.index(axis) for axis in axes])
    return Value(ops.slice(value.node, *lists, places), shape, value.order)


def _pad(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    value, config = whole(as_value(inputs[0])), params["padding_config"]
    if any(inside or min(low, high) < 0 for low, high, inside in config):
        raise NotImplementedError("padding inside, or a cut")
    low, high = (integers([config[a][i] for a in value.order]) for i in (0, 1))
    node = ops.pad(value.node, low, high, "constant", as_value(inputs[1]).node)
    return Value(node, shape, value.order)


def _reduction(make: Callable[..., Node]) -> Rule:
    def rule(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
        value, axes = whole(as_value(inputs[0])), params["axes"]
        places = integers([value.order.index(axis) for axis in axes])
        left = [axis for axis in value.order if axis not in axes]
        order = tuple(sorted(left).index(axis) for axis in left)
        return Value(make(value.node, places, keep_dims=False), shape, order)

    return rule


def _convolution(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    """A convolution of any layout, by a constant kernel."""
    numbers, kernel = params["dimension_numbers"], inputs[1]
    many = params["feature_group_count"] != 1 or params["batch_group_count"] != 1
    if isinstance(kernel, Value) or many or set(params["lhs_dilation"]) != {1}:
        raise NotImplementedError("a computed kernel, groups, or a dilated input")
    image = whole(ordered(as_value(inputs[0]), tuple(numbers.lhs_spec)))
    low, high = zip(*params["padding"], strict=True)
    node = ops.convolution(
        image.node, constant(kernel.transpose(numbers.rhs_spec)), list(params["window_strides"]),
        list(low), list(high), list(params["rhs_dilation"]),
    )  # fmt: skip
    return Value(node, shape, tuple(numbers.out_spec))


def _product(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    """A sum of products over any axes."""
    (summed, batch), (left, right) = params["dimension_numbers"], inputs
    if by_pixel := _product_by_pixel(left, right, summed, batch, shape):
        return by_pixel
    sides = []
    for array, over, beside in zip((left, right), summed, batch, strict=True):
        free = [axis for axis in range(len(array.shape)) if axis not in (*over, *beside)]
        value = whole(ordered(as_value(array), (*beside, *free, *over)))
        counts = [math.prod(array.shape[axis] for axis in axes) for axes in (free, over)]
        sides.append(reshaped(value.node, [*(array.shape[axis] for axis in beside), *counts]))
    node = ops.matmul(*sides, False, True)  # (…, M, K) by (…, N, K)
    return Value(reshaped(node, shape), shape, plain(len(shape)))


def _product_by_pixel(
    left: Array, right: Array, summed: Any, batch: Any, shape: Shape
) -> Value | None:
    """The product of a map (B, H, W, I), channels first in memory, with constants (I, …).

    Either may be the first factor. It is a convolution of one pixel; None: there is no such map.
    """
    if batch[0] or len(summed[0]) != 1:
        return None
    first = isinstance(left, Value)
    image, weight = (left, right) if first else (right, left)
    (over,), (axis,) = summed if first else summed[::-1]
    if not isinstance(image, Value) or isinstance(weight, Value):
        return None
    if len(image.shape) != 4 or image.order[:2] != (0, over):
        return None
    kernel = np.moveaxis(weight, axis, -1)
    others, kernel = kernel.shape[:-1], kernel.reshape(-1, kernel.shape[-1], 1, 1)
    node = ops.convolution(whole(image).node, constant(kernel), [1, 1], [0, 0], [0, 0], [1, 1])
    # In memory: slice, the weight's other axes, rows and columns. In JAX: first the first factor's.
    start = len(others) if not first else 0
    rest = [a for a in range(4) if a != over]  # the map's axes that stay, as JAX has them
    at = {axis: start + i for i, axis in enumerate(rest)}
    new = range(3, 3 + len(others)) if first else range(len(others))
    order = (at[0], *new, *(at[axis] for axis in image.order[2:]))
    return Value(reshaped(node, [shape[axis] for axis in order]), shape, order)


def _pool(inputs: Sequence[Array], params: Params, shape: Shape) -> Value:
    """The largest of each window of rows and columns."""
    value = whole(ordered(as_value(inputs[0]), CHANNELS_FIRST))
    names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    window, strides, *dilations = (list(params[name]) for name in names)
    padding = params["padding"]
    outside = [*(window[a] for a in (0, 3)), *np.ravel(dilations), *np.ravel(padding[::3])]
    if set(outside) - {0, 1}:
        raise NotImplementedError("windows over slices or channels, or dilated ones")
    low, high = ([padding[axis][i] for axis in (1, 2)] for i in (0, 1))
    # The first version, since later ones also return places.
    node = opset1.max_pool(value.node, strides[1:3], low, high, window[1:3])
    return Value(node, shape, CHANNELS_FIRST)


ELEMENTWISE: dict[str, Callable[..., Node]] = {
    "abs": ops.abs, "add": ops.add, "add_any": ops.add, "and": ops.logical_and, "div": ops.divide,
    "eq": ops.equal, "erf": ops.erf, "erfc": lambda x: ops.subtract(_one(x), ops.erf(x)),
    "exp": ops.exp, "ge": ops.greater_equal, "gt": ops.greater, "le": ops.less_equal,
    "log": ops.log, "logistic": ops.sigmoid, "lt": ops.less, "max": ops.maximum,
    "min": ops.minimum, "mul": ops.multiply, "ne": ops.not_equal, "neg": ops.negative,
    "not": ops.logical_not, "or": ops.logical_or,
    "rsqrt": lambda x: ops.divide(_one(x), ops.sqrt(x)), "select_n": _select, "sqrt": ops.sqrt,
    "square": lambda x: ops.multiply(x, x), "sub": ops.subtract, "tanh": ops.tanh,
}  # fmt: skip
RULES: dict[str, Rule] = {
    **{name: _elementwise(make) for name, make in ELEMENTWISE.items()},
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "dot_general": _product,
    "integer_pow": _power,
    "pad": _pad,
    "reduce_max": _reduction(ops.reduce_max),
    "reduce_min": _reduction(ops.reduce_min),
    "reduce_sum": _reduction(ops.reduce_sum),
    "reduce_window_max": _pool,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _same,
    "transpose": _transpose,
}
