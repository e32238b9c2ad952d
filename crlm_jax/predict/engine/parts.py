"""A model in bfloat16 whose masks are those of float32: what it has to compute in float32.

Two things, both measured (docs/results/measured.md). Most of what rounding to bfloat16 changes in a
mask comes from the first products, whose error all later ones see, and few multiplications are
theirs: they stay in float32. And a slice in which a lesion hangs on the threshold is computed again
in float32, so that none appears or vanishes.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np
import openvino
from openvino import Node
from openvino import opset13 as ops

from crlm_jax.predict.engine.doubt import Network, Rounded

FIRST = 0.2  # most of the multiplications that stay in float32
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_PRODUCTS = ("Convolution", "MatMul")


def compile_exactly(model: openvino.Model) -> Network:
    """Compiles a model of one input and one output in float32."""
    run = _compile(model, "float32")
    return lambda slices: run(slices)[0]


def compile_in_bfloat16(model: openvino.Model, threshold: float) -> Rounded:
    """Compiles a model in bfloat16, but for what decides its mask.

    Args:
      model: from `to_openvino`, which may be changed.
      threshold: probability above which a pixel is tumour.
    """
    exactly = functools.cache(functools.partial(compile_exactly, model.clone()))
    first, rest = split(model, FIRST)
    names = [result.get_friendly_name() for result in first.get_results()]
    wanted = [names.index(p.get_friendly_name()) for p in rest.get_parameters()]
    run_first, run_rest = _compile(first, "float32"), _compile(rest, "bfloat16")

    def fast(slices: np.ndarray) -> np.ndarray:
        between = run_first(slices, share_inputs=True)
        found: np.ndarray = run_rest([between[i] for i in wanted], share_inputs=True)[0]
        return found

    return Rounded(fast, lambda slices: exactly()(slices), threshold)


def _compile(model: openvino.Model, precision: str) -> openvino.CompiledModel:
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
    return openvino.Core().compile_model(model, "CPU", hints)


def split(model: openvino.Model, share: float) -> tuple[openvino.Model, openvino.Model]:
    """Splits a model after its first products, those that fewest products come before.

    Args:
      model: is taken apart.
      share: of all multiplications; the first part has no more.

    Returns:
      Two models; the results of the first have the names of the second one's parameters.
    """
    nodes = model.get_ordered_ops()
    depth: dict[str, int] = {}
    for node in nodes:
        before = max((depth[_name(n)] for n in _sources(node)), default=0)
        depth[_name(node)] = before + _is_product(node)
    most = _depth_of(share, [(depth[_name(n)], _work(n)) for n in nodes if _is_product(n)])
    later = {n for n, d in depth.items() if d > most} | {_name(r) for r in model.get_results()}
    crossing: dict[str, Node] = {}
    parameters: dict[str, Node] = {}
    for node in nodes:
        for port in node.inputs() if _name(node) in later else ():
            source = port.get_source_output()
            name = f"{_name(source.get_node())}:{source.get_index()}"
            if source.get_node().get_type_name() == "Constant" or _name(source.get_node()) in later:
                continue
            if name not in parameters:
                shape, kind = list(source.shape), source.get_element_type()
                parameters[name] = ops.parameter(shape, kind, name=name)
                crossing[name] = ops.result(source, name=name)
            port.replace_source_output(parameters[name].output(0))
    first = openvino.Model(list(crossing.values()), model.get_parameters(), "first")
    return first, openvino.Model(model.get_results(), list(parameters.values()), "rest")


def _depth_of(share: float, products: Iterable[tuple[int, int]]) -> int:
    """Returns the largest depth up to which products have at most a share of all work."""
    work: dict[int, int] = {}
    for depth, amount in products:
        work[depth] = work.get(depth, 0) + amount
    total, done, most = sum(work.values()), 0, 0
    for depth in sorted(work):
        done += work[depth]
        if done > share * total:
            break
        most = depth
    return most


def _work(product: Node) -> int:
    """Returns how many multiplications a product takes, for one slice."""
    places = math.prod(product.output(0).shape)
    if product.get_type_name() == "Convolution":
        return places * math.prod(tuple(product.input_value(1).shape)[1:])
    return places * tuple(product.input_value(0).shape)[-1]


def _is_product(node: Node) -> bool:
    return node.get_type_name() in _PRODUCTS


def _sources(node: Node) -> list[Node]:
    return [value.get_node() for value in node.input_values()]


def _name(node: Node) -> str:
    name: str = node.get_friendly_name()
    return name
