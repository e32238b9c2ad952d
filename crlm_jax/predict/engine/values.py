"""Arrays of an OpenVINO model, each with the order of its axes in memory.

The networks have channels last, OpenVINO's convolutions channels first. So a transposition changes
the order that is noted here, and memory is moved only where an operation needs another order. With
two transpositions around each convolution, a network took half as long again.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from openvino import Node
from openvino import opset13 as ops

CHANNELS_FIRST = (0, 3, 1, 2)  # as JAX's axes (B, H, W, C) lie in memory


@dataclasses.dataclass(frozen=True)
class Value:
    """An array that depends on the model's input.

    An axis may have one place in memory where `shape` says more: it is repeated where that matters.
    """

    node: Node
    shape: tuple[int, ...]  # as JAX has it
    order: tuple[int, ...]  # which of JAX's axes each axis in memory is
    pair: tuple["Value", "Value", int] | None = None  # two arrays and the axis they are stacked on

    @property
    def sides(self) -> tuple[int, ...]:
        """The shape in memory."""
        return tuple(self.node.output(0).shape)


Array = Value | np.ndarray  # an ndarray is a constant


def plain(rank: int) -> tuple[int, ...]:
    """The order of axes that JAX has."""
    return tuple(range(rank))


def constant(array: np.ndarray) -> Node:
    """Makes a constant, in which a repeated axis has one place."""
    short = tuple(slice(None, 1) if step == 0 else slice(None) for step in array.strides)
    return ops.constant(np.array(array[short]))


def integers(numbers: Sequence[int]) -> Node:
    """Makes a list of axes or sides."""
    return ops.constant(np.array(numbers, np.int64))


def as_value(array: Array, order: tuple[int, ...] | None = None) -> Value:
    """Makes a value of a constant, in an order; a value is left alone."""
    if isinstance(array, Value):
        return array
    order = plain(array.ndim) if order is None else order
    return Value(constant(array.transpose(order)), array.shape, order)


def reshaped(node: Node, sides: Sequence[int]) -> Node:
    """Gives a node other sides, its memory left as it is."""
    if tuple(node.output(0).shape) == tuple(sides):
        return node
    return ops.reshape(node, integers(sides), special_zero=False)


def ordered(value: Value, order: tuple[int, ...]) -> Value:
    """Moves the memory of a value into another order of axes."""
    moves = [value.order.index(axis) for axis in order]
    long = [place for place in moves if value.sides[place] != 1]
    if long == sorted(long):  # only axes with one place move
        node = reshaped(value.node, [value.sides[place] for place in moves])
    else:
        node = ops.transpose(value.node, integers(moves))
    return Value(node, value.shape, order)


def whole(value: Value) -> Value:
    """Repeats the axes that have one place in memory, but more in `shape`."""
    sides = [value.shape[axis] for axis in value.order]
    if tuple(sides) == value.sides:
        return value
    return dataclasses.replace(value, node=ops.broadcast(value.node, integers(sides)))


def in_plain_order(array: Array) -> Node:
    """Returns the whole array as JAX has it."""
    value = as_value(array)
    return whole(ordered(value, plain(len(value.shape)))).node


def alike(arrays: Sequence[Array]) -> tuple[list[Value], tuple[int, ...]]:
    """Gives arrays of one rank the order of the largest; scalars stay."""
    values = [array for array in arrays if isinstance(array, Value) and array.shape]
    largest = max(values, key=lambda value: math.prod(value.sides))
    order = largest.order
    return [
        ordered(as_value(array, order), order) if array.shape else as_value(array)
        for array in arrays
    ], order


def regroup(value: Value, shape: tuple[int, ...]) -> Value:
    """Reshapes as JAX does; memory moves only where axes that merge do not lie side by side."""
    value, groups = whole(value), _groups(value.shape, shape)
    place = {axis: at for at, axis in enumerate(value.order)}
    lies = [[place[axis] for axis in old if value.shape[axis] != 1] for old, _ in groups]
    together = all(at == list(range(at[0], at[0] + len(at))) for at in lies if at)
    if together:
        sequence = sorted(range(len(groups)), key=lambda i: lies[i][0] if lies[i] else -1)
    else:  # channels stay first
        sequence = list(CHANNELS_FIRST if len(groups) == 4 else range(len(groups)))
        value = ordered(value, tuple(axis for i in sequence for axis in groups[i][0]))
    order = tuple(axis for i in sequence for axis in groups[i][1])
    return Value(reshaped(value.node, [shape[axis] for axis in order]), shape, order)


def _groups(
    old: tuple[int, ...], new: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Splits the axes of two shapes of one size into the shortest groups of one product."""
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        before, after = (*old, 1)[i], (*new, 1)[j]
        to_i, to_j = min(i + 1, len(old)), min(j + 1, len(new))
        while before != after:
            if before < after:
                before, to_i = before * old[to_i], to_i + 1
            else:
                after, to_j = after * new[to_j], to_j + 1
        groups.append((tuple(range(i, to_i)), tuple(range(j, to_j))))
        i, j = to_i, to_j
    return groups
