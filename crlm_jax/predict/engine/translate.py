"""A JAX function as an OpenVINO model, operation by operation.

What does not depend on the input is computed by JAX, and is a constant of the model.

OpenVINO's own reader of JAX functions fails with this JAX (2026.4 with 0.10). ONNX on the way there
takes ten times as long, many packages, and two transpositions around each convolution.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import openvino
from jax.extend import core
from openvino import opset13 as ops

from crlm_jax.predict.engine.choice import EngineError
from crlm_jax.predict.engine.rules import RULES
from crlm_jax.predict.engine.values import Array, Value, in_plain_order, plain

_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint"}


def to_openvino(function: Callable[[Any], Any], shape: Sequence[int], dtype: str) -> openvino.Model:
    """Translates a function of one array that returns one array.

    Args:
      function: of JAX, in float32.
      shape: of its argument; the model takes this shape alone.
      dtype: of its argument, such as "uint8".

    Raises:
      EngineError: the function has an operation that is not translated.
    """
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype)))
    parameter = ops.parameter(list(shape), np.dtype(dtype), name="slices")
    value = Value(parameter, tuple(shape), plain(len(shape)))
    (result,) = _translate(closed.jaxpr, closed.consts, [value])
    return openvino.Model([ops.result(in_plain_order(result))], [parameter], "segmenter")


def _translate(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Array]) -> list[Array]:
    """Translates a function's equations, one after the other."""
    known: dict[Any, Array] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Array:
        if isinstance(variable, core.Literal):
            aval: Any = variable.aval
            return np.asarray(variable.val, aval.dtype)
        return known[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        known.update(zip(equation.outvars, _apply(equation, inputs), strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _apply(equation: Any, inputs: Sequence[Array]) -> list[Array]:
    """Returns the results of an equation."""
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        inner = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
        if isinstance(inner, core.ClosedJaxpr):
            return _translate(inner.jaxpr, inner.consts, inputs)
        return _translate(inner, (), inputs)
    if not any(isinstance(array, Value) for array in inputs):
        return _compute(equation, inputs)
    if name not in RULES:
        raise EngineError(f"OpenVINO: JAX's operation {name} is not translated")
    try:
        return [RULES[name](inputs, params, equation.outvars[0].aval.shape)]
    except (NotImplementedError, RuntimeError) as error:  # OpenVINO raises the latter
        reason = " ".join(str(error).split())
        raise EngineError(f"OpenVINO: {name} is not translated ({reason})") from error


def _compute(equation: Any, inputs: Sequence[Any]) -> list[Array]:
    """Computes what depends on constants alone."""
    if equation.primitive.name == "broadcast_in_dim":
        # Without copies: an image of a bias would fill the model.
        shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
        sides = [1] * len(shape)
        for side, axis in zip(inputs[0].shape, axes, strict=True):
            sides[axis] = side
        return [np.broadcast_to(np.reshape(inputs[0], sides), shape)]
    found = equation.primitive.bind(*inputs, **equation.params)
    many = equation.primitive.multiple_results
    return [np.asarray(array) for array in (found if many else [found])]
