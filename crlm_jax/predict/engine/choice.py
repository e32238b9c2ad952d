"""Which engine computes a prediction, and in which precision. JAX is not loaded."""

import dataclasses
import importlib.metadata
import importlib.util
import os
from typing import TYPE_CHECKING, Literal

from crlm_jax.errors import UserError

if TYPE_CHECKING:
    import jax

Asked = Literal["auto", "xla", "openvino"]


class EngineError(UserError):
    """The engine that was asked for cannot compute here; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """What computes the network; see `choose`."""

    name: Literal["XLA", "OpenVINO"] = "XLA"
    precision: str = "float32"
    note: str = ""  # what the user should know about the choice

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"


XLA = Engine()


def choose(asked: Asked, device: "jax.Device | None" = None) -> Engine:
    """Chooses the engine of a prediction.

    Args:
      asked: "auto": OpenVINO in bfloat16 where the prediction is computed on a CPU with units for
        bfloat16 and OpenVINO is installed; otherwise XLA.
      device: that the user named; None: JAX's first.

    Returns:
      The engine; the precision of XLA on a GPU or TPU is that of the run, which is not known here.

    Raises:
      EngineError: OpenVINO is asked for, but is not installed, or a GPU or TPU is.
    """
    if asked == "xla":
        return XLA
    if asked == "openvino":
        if device is not None and device.platform != "cpu":
            raise EngineError(
                f"--engine openvino computes on the CPU, not on {device.platform}; give "
                "--device cpu, or --engine xla"
            )
        if not _is_installed():
            raise EngineError(
                "--engine openvino: the package openvino is missing; "
                "pip install 'crlm_jax[engine]', or give --engine xla"
            )
        if _has_bfloat16_units():
            return Engine("OpenVINO", "bfloat16")
        note = "this CPU has no units for bfloat16, so OpenVINO computes in float32"
        return Engine("OpenVINO", "float32", note)
    if _is_installed() and _computes_on_cpu(device) and _has_bfloat16_units():
        return Engine("OpenVINO", "bfloat16")
    return XLA


def _is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _has_bfloat16_units() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AMX or AVX-512), as OpenVINO finds it."""
    from openvino import Core

    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _computes_on_cpu(device: "jax.Device | None") -> bool:
    """Whether JAX would compute on the CPU; JAX is asked only if it might have another device."""
    if device is not None:
        return device.platform == "cpu"
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        return True
    from crlm_jax.predict import engine

    return engine.xla.find_device().platform == "cpu"
