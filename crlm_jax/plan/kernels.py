"""The kernels of a step that XLA compiled for a GPU: the FLOPs and the bytes of each.

XLA's GPU compiler estimates no time, and without a GPU says nothing of FLOPs. Both follow from the
program's text: an operation of ENTRY is a kernel, a convolution is a call of cuDNN, and a product
of matrices a call of cuBLAS, or a `dot`, mostly within a fusion.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crlm_jax.plan.hlo import Operation, Program, array_bytes, array_shape

_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "partition-id"}
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->\w+")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')
_CONVOLUTION, _MATRICES = '"__cudnn$conv', '"__cublas$'


@dataclass(frozen=True)
class Kernel:
    """One launch on the GPU."""

    name: str
    flops: float  # of products alone; 2 for a multiplication and an addition
    bytes: int  # of operands and result
    precision: str  # of the products: "bfloat16", "tf32" or "float32"


def kernels(program: Program) -> list[Kernel]:
    """Returns the kernels of a step in their order; the body of a loop once for each trip."""
    return list(_kernels(program, program.entry, 1))


def _kernels(program: Program, computation: str, times: int) -> Iterator[Kernel]:
    operations = program.computations.get(computation, ())
    shapes = {operation.name: operation.shape for operation in operations}
    for operation in operations:
        if operation.opcode in ("while", "call", "conditional"):
            inner = times * (operation.trips if operation.opcode == "while" else 1)
            for name in operation.called():
                yield from _kernels(program, name, inner)
        elif operation.opcode not in _FREE:
            moved = _result_bytes(operation) + sum(
                array_bytes(shapes.get(name, "")) for name in operation.operands
            )
            flops, precision = _products(program, operation, shapes)
            yield from [Kernel(operation.name, flops, moved, precision)] * times


def _result_bytes(operation: Operation) -> int:
    """Bytes of what an operation returns; a library's call also returns its workspace."""
    if _CONVOLUTION in operation.rest or _MATRICES in operation.rest:
        return array_bytes(operation.shape.partition("]")[0] + "]")
    return array_bytes(operation.shape)


def _products(
    program: Program, operation: Operation, shapes: Mapping[str, str]
) -> tuple[float, str]:
    """Returns the FLOPs of an operation's products, and their precision."""
    if _CONVOLUTION in operation.rest:
        return _convolution(operation, shapes), _precision(operation, shapes)
    if operation.opcode == "dot" or _MATRICES in operation.rest:
        return _dot(operation, shapes), _precision(operation, shapes)
    total, precision = 0.0, "float32"
    for name in operation.called("calls"):
        inside = program.computations.get(name, ())
        known = {inner.name: inner.shape for inner in inside}
        for inner in inside:
            flops, its_precision = _products(program, inner, known)
            total, precision = total + flops, its_precision if flops else precision
    return total, precision


def _precision(operation: Operation, shapes: Mapping[str, str]) -> str:
    """Of a float32 product, the tensor cores keep TF32's ten bits unless "highest" is asked for."""
    if any(shapes.get(name, "").startswith(("bf16", "f16")) for name in operation.operands[:2]):
        return "bfloat16"
    highest = "operand_precision={highest", 'operand_precision":["HIGHEST"'
    return "float32" if any(text in operation.rest for text in highest) else "tf32"


def _convolution(operation: Operation, shapes: Mapping[str, str]) -> float:
    """Two FLOPs for each result of the forward convolution and each weight that goes into it."""
    first, second = (array_shape(shapes[name]) for name in operation.operands[:2])
    result = array_shape(operation.shape)
    if "$convBackwardFilter" in operation.rest:
        forward, kernel = second, result
    elif "$convBackwardInput" in operation.rest:
        forward, kernel = first, second
    else:
        forward, kernel = result, second
    found = _LABELS.search(operation.rest)
    assert found is not None  # every convolution has them
    outputs = kernel[found[1].index("o")]
    return 2.0 * math.prod(forward) * math.prod(kernel) / outputs


def _dot(operation: Operation, shapes: Mapping[str, str]) -> float:
    found = _CONTRACTED.search(operation.rest)
    lengths = array_shape(shapes[operation.operands[0]])
    axes = re.findall(r"\d+", found[1]) if found else []
    contracted = math.prod(lengths[int(axis)] for axis in axes)
    return 2.0 * math.prod(array_shape(operation.shape)) * contracted
