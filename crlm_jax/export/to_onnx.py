"""The exported function as ONNX, by jax2onnx, compared with JAX in ONNX Runtime.

Needs the extra `export`.
"""

import contextlib
import logging
import math
from collections.abc import Iterator

import jax
import numpy as np

from crlm_jax import __version__
from crlm_jax.errors import UserError
from crlm_jax.export.function import Network
from crlm_jax.imaging.resize import resize

TOLERANCE = 1e-4  # of a probability, between ONNX Runtime and JAX
INPUT, OUTPUT = "grey", "probability"
_OPSET = 20  # of ONNX 1.15, which brought Gelu; the networks need nothing newer


class ExportError(UserError):
    """The segmenter cannot be exported; the message says what to do."""


def require_onnx() -> None:
    """Raises ExportError if a package that ONNX needs is missing, and says how to get it."""
    try:
        with _without_warnings():
            import jax2onnx  # noqa: F401
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"ONNX needs packages that are missing ({error}): pip install 'crlm_jax[export]', or "
            "give --format stablehlo, which needs nothing more"
        ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences logged warnings: jax2onnx warns about plugins for packages that are not used."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def to_onnx(network: Network, shape: tuple[int, ...], notes: dict[str, str]) -> bytes:
    """Serialises a network as ONNX, for any number of slices.

    Args:
      network: from `export.make_network`; float32, since ONNX Runtime lacks much of bfloat16.
      shape: of a slice, (S, S) or (S, S, 3).
      notes: metadata that viewers show.

    Returns:
      A model with one input, `grey` (B, *shape) float32, and one output, `probability` (B, S, S)
      float32.

    Raises:
      ExportError: jax2onnx cannot translate the network.
    """
    import jax2onnx
    from onnx import checker, helper

    try:
        with _without_warnings():
            model = jax2onnx.to_onnx(
                network,
                [("B", *shape)],
                model_name="segmenter",
                opset=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
    except Exception as error:  # jax2onnx raises many kinds
        reason = " ".join(str(error).split())
        raise ExportError(
            f"jax2onnx cannot translate the network ({reason}); give --format stablehlo"
        ) from error
    model.producer_name, model.producer_version = "crlm_jax", __version__
    helper.set_model_props(model, notes)
    checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def check_onnx(model: bytes, network: Network, shape: tuple[int, ...]) -> None:
    """Runs a serialised ONNX model and its JAX network on random slices, one and then three.

    Raises:
      ExportError: a probability differs by more than `TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for count in (1, 3):
        planes = math.prod(shape[2:])  # images of a slice
        blobs = resize(rng.uniform(0, 255, (count * planes, 6, 6)).astype(np.float32), shape[0])
        noisy = blobs + rng.normal(0, 12, blobs.shape)
        grey = np.rint(np.clip(noisy, 0, 255)).astype(np.float32)
        grey = np.moveaxis(grey.reshape(count, planes, *shape[:2]), 1, -1).reshape(count, *shape)
        with jax.default_matmul_precision("highest"):  # a GPU or TPU would round to fewer bits
            expected = np.asarray(jax.jit(network)(grey))
        (found,) = session.run([OUTPUT], {INPUT: grey})
        difference = np.abs(found - expected).max()
        if not difference <= TOLERANCE:  # true of NaN too
            raise ExportError(
                f"ONNX Runtime's probability differs from JAX's by {difference:.2g} (allowed: "
                f"{TOLERANCE:g}), so nothing was written; give --format stablehlo, and report this "
                "with the versions of onnx, onnxruntime and jax2onnx"
            )
