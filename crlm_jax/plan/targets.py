"""What a step can be compiled for: TPU slices and GPUs, which need not be here, or this CPU."""

import contextlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from crlm_jax.errors import UserError
from crlm_jax.plan import gpus, tpus
from crlm_jax.plan.chip import Chip
from crlm_jax.plan.gpus import GPUS, Gpu
from crlm_jax.plan.tpus import TPUS, Tpu

CHIPS: dict[str, Chip] = {**TPUS, **GPUS}
EXAMPLES = {**tpus.EXAMPLES, **{name: f"{name}:8" for name in GPUS}}

# The TPU library asks Google's metadata server which TPU the machine has, and complains if there is
# none. It also lets only one process at a time use the TPU.
_NO_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True)
class Target:
    """What a step is compiled for. `chip` is None on the CPU."""

    name: str
    chip: Chip | None
    shape: tuple[int, ...]
    devices: Sequence[jax.Device]

    @property
    def platform(self) -> str:
        """JAX's name for the kind of device."""
        return self.chip.platform if self.chip else "cpu"

    @property
    def compiler_options(self) -> dict[str, Any]:
        """XLA's options.

        A GPU that is not there cannot try which algorithm is the fastest. XLA's own products of
        matrices (Triton) need that, cuBLAS's do not.
        """
        gpu = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
        return gpu if self.platform == "gpu" else {}


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """Splits a name such as v5e:2x2 or h100:8 into the chip and the numbers of chips.

    Raises:
      UserError: the chip or the numbers are wrong; the message lists the known chips.
    """
    chip = CHIPS.get(topology.partition(":")[0])
    if isinstance(chip, Tpu):
        return chip, tpus.parse_shape(topology, chip)
    if isinstance(chip, Gpu):
        return chip, gpus.parse_count(topology, chip)
    known = ", ".join(f"{name} (as in {example})" for name, example in EXAMPLES.items())
    raise UserError(f"topology {topology!r}: the chips are {known}, and cpu")


def find_target(name: str) -> Target:
    """Returns the devices of a topology such as v5e:2x2, which need not exist, or of `cpu`.

    Raises:
      UserError: the topology is not known, or its compiler refuses it or is not installed.
    """
    if name == "cpu":
        return Target(name, None, (1,), jax.devices("cpu")[:1])
    chip, shape = parse(name)
    find = _find_tpu if isinstance(chip, Tpu) else _find_gpu
    try:
        found = find(name, chip, shape)  # type: ignore[arg-type]
    except jax.errors.JaxRuntimeError as error:
        kind, reason = chip.platform.upper(), " ".join(str(error).split())
        raise UserError(f"topology {name}: the {kind} compiler refuses it: {reason}") from error
    return Target(f"{chip.name}:{'x'.join(map(str, shape))}", chip, shape, found.devices)


def _find_tpu(name: str, chip: Tpu, shape: tuple[int, ...]) -> topologies.TopologyDescription:
    _check_installed(name, "TPU", "libtpu", "plan")
    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = dict(chip.options)
    if max(shape) == 1:  # the compiler's default is four chips on a host
        options["chips_per_host_bounds"] = (1, 1, 1)
    return topologies.get_topology_desc(name, "tpu", **options)


def _find_gpu(name: str, chip: Gpu, shape: tuple[int, ...]) -> topologies.TopologyDescription:
    _check_installed(name, "GPU", "jax_plugins.xla_cuda13", "plan-gpu")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # nothing runs on a GPU
    return topologies.get_topology_desc(
        name, "cuda", target_config=chip.target(), topology=f"1x1x{shape[0]}"
    )


def _check_installed(name: str, kind: str, module: str, extra: str) -> None:
    """Raises UserError unless the compiler of a kind of chip is installed."""
    found = None
    with contextlib.suppress(ModuleNotFoundError):  # of the package around the module
        found = importlib.util.find_spec(module)
    if found is None:
        raise UserError(
            f"topology {name}: the {kind} compiler is not installed; "
            f"pip install 'crlm_jax[{extra}]'"
        )
