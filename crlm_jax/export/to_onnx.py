"""The exported function as ONNX, checked with ONNX Runtime. Needs the extra `export`.

jax2onnx translates the network, at the one size that it sees; what stands before and after it, with
sizes known only at run time, is beyond jax2onnx and is written here, after `export.make_function`.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from crlm_jax import __version__
from crlm_jax.errors import UserError
from crlm_jax.imaging import resize as imaging_resize

TOLERANCE = 1e-4  # of a probability, between ONNX Runtime and JAX
_OPSET = 20  # of ONNX 1.15, which brought Gelu; nothing here needs a newer one

Function = Callable[[jax.Array, jax.Array], jax.Array]


class ExportError(UserError):
    """The segmenter cannot be written; the message says what to do."""


def require_onnx() -> None:
    """Raises ExportError where a package that ONNX needs is missing, saying how to get it."""
    try:
        with _quiet():
            import jax2onnx  # noqa: F401
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"ONNX needs packages that are missing ({error}): pip install 'crlm_jax[export]', or "
            "give --format stablehlo, which needs nothing more"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back warnings: jax2onnx tells of plugins for packages that play no part here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Nodes(list):
    """The nodes of an ONNX graph, written as calls that return the name of their output."""

    def __call__(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{kind}_{len(self)}"
        self.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def taps(self, old: str, new: str) -> tuple[str, str, str]:
        """`export._taps` of two int64 scalars."""
        zero, one = self("Constant", value_int=0), self("Constant", value_int=1)
        unit, last = self("Add", new, new), self("Sub", old, one)
        index = self("Range", zero, new, one)
        odd = self("Add", self("Add", index, index), one)
        place = self("Sub", self("Mul", odd, old), new)
        place = self("Clip", place, zero, self("Mul", last, unit))
        first = self("Min", self("Div", place, unit), self("Max", self("Sub", last, one), zero))
        rest = self("Sub", place, self("Mul", first, unit))
        weight = self("Div", self("Cast", rest, to=1), self("Cast", unit, to=1))  # 1: float32
        return first, self("Min", self("Add", first, one), last), weight

    def sides(self, x: str) -> tuple[str, str]:
        """H and W of (B, H, W), int64 scalars."""
        return tuple(self("Squeeze", self("Shape", x, start=i, end=i + 1)) for i in (1, 2))

    def resize(self, x: str, rows: str, columns: str, output: str = "") -> str:
        """`export._resize`."""
        height, width = self.sides(x)
        top, bottom, down = self.taps(height, rows)
        left, right, across = self.taps(width, columns)
        down = self("Unsqueeze", down, self("Constant", value_ints=[1]))
        upper, lower = self("Gather", x, top, axis=1), self("Gather", x, bottom, axis=1)
        lines = self("Add", upper, self("Mul", self("Sub", lower, upper), down))
        before, after = self("Gather", lines, left, axis=2), self("Gather", lines, right, axis=2)
        change = self("Mul", self("Sub", after, before), across)
        return self("Add", before, change, output=output)

    def grey(self, image: str, window: str) -> str:
        """Grey levels 0 … 255 of raw slices."""
        low, high = (self("Gather", window, self("Constant", value_int=i)) for i in (0, 1))
        black, white = (self("Constant", value_float=value) for value in (0.0, 255.0))
        gain = self("Div", white, self("Sub", high, low))
        return self("Round", self("Clip", self("Mul", self("Sub", image, low), gain), black, white))


def to_onnx(network: Callable[[jax.Array], jax.Array], size: int, notes: dict[str, str]) -> bytes:
    """Serialises the whole function around `network` as ONNX, for every B, H and W.

    Args:
      network: from `export.make_network`; float32, since ONNX Runtime lacks much of bfloat16.
      size: S, pixels.
      notes: metadata that viewers show.

    Raises:
      ExportError: jax2onnx cannot translate the network.
    """
    import jax2onnx
    from onnx import TensorProto, checker, compose, helper

    try:
        with _quiet():
            inner = jax2onnx.to_onnx(
                network, [("B", size, size)], opset=_OPSET, input_names=["in"], output_names=["out"]
            )
    except Exception as error:  # it raises many kinds
        raise ExportError(
            f"jax2onnx cannot translate the network ({error}); give --format stablehlo"
        ) from error
    inner = compose.add_prefix(inner, "network_")
    nodes = _Nodes()
    side = nodes("Constant", value_int=size)
    small = nodes.resize(nodes.grey("image", "window"), side, side)
    nodes("Round", small, output="network_in")
    nodes.extend(inner.graph.node)
    nodes.resize("network_out", *nodes.sides("image"), output="probability")
    slices = ["B", "H", "W"]
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, slices),
            helper.make_tensor_value_info("window", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, slices)],
        initializer=inner.graph.initializer,
    )
    model = helper.make_model(
        graph,
        opset_imports=inner.opset_import,
        functions=inner.functions,
        ir_version=inner.ir_version,
        producer_name="crlm_jax",
        producer_version=__version__,
    )
    helper.set_model_props(model, notes)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def check_onnx(model: bytes, function: Function, size: int) -> None:
    """Runs a serialised ONNX model beside its JAX function on two images of random blobs.

    Raises:
      ExportError: a probability differs by more than `TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    window = np.array((0.1, 0.9), np.float32)
    rng = np.random.default_rng(0)
    # Factors of two: every blend of grey levels is exact, so neither side rounds another way.
    for shape in ((1, size, size), (2, 2 * size, size // 2)):
        blobs = imaging_resize.resize(rng.random((shape[0], 6, 6), np.float32), shape[1:])
        image = blobs + rng.normal(0, 0.05, shape).astype(np.float32)
        with jax.default_matmul_precision("highest"):  # a GPU or TPU would round to fewer bits
            expected = np.asarray(jax.jit(function)(image, window))
        (found,) = session.run(None, {"image": image, "window": window})
        difference = np.abs(found - expected).max()
        if not difference <= TOLERANCE:  # true of NaN too
            raise ExportError(
                f"ONNX Runtime's probability differs from JAX's by {difference:.2g} (allowed: "
                f"{TOLERANCE:g}), so nothing was written; give --format stablehlo, and report this "
                "with the versions of onnx, onnxruntime and jax2onnx"
            )
