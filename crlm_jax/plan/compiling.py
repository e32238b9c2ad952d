"""Plans a training on Cloud TPU with no TPU at hand: memory, FLOPs, communication, time, cost.

    python -m crlm_jax.plan --config configs/cross_pre.py:scale=paper \\
        --topology v5e:2x2,v5e:16x16,v6e:4x4,v5p:2x2x1 --out plan
    python -m crlm_jax.plan --config configs/cross_pre.py --topology cpu --measure

The train step of `crlm_jax.train`, the very one that a run takes, is compiled ahead of time by the
TPU compiler for each topology, and its report is read; nothing runs. So every figure is a compiler
estimate. Weights change no cost and are random here. The compiler is PyPI's libtpu
(`pip install 'crlm_jax[plan]'`).

Weak scaling keeps the batch of a chip, that of the configuration on the first topology; strong
scaling keeps the configuration's batch, where the chips can share it evenly.
"""

import copy
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from crlm_jax.config.schema import Config, validate
from crlm_jax.errors import UserError
from crlm_jax.method.networks import Networks
from crlm_jax.method.step import TrainState, create_state, make_train_step
from crlm_jax.plan import chips, measuring
from crlm_jax.plan.chips import Chip
from crlm_jax.plan.hlo import Program
from crlm_jax.system import parallel

# The TPU library asks a virtual machine of Google's which TPU it has, and complains without one;
# it also lets one process alone have the TPU.
_NO_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class PlanError(UserError):
    """What was asked for cannot be planned."""


@dataclass(frozen=True)
class Target:
    """What a step is compiled for. `chip` is None on the CPU."""

    name: str
    chip: Chip | None
    shape: tuple[int, ...]
    devices: Sequence[jax.Device]


@dataclass(frozen=True)
class Step:
    """The networks and the state of a configuration, to be compiled for any topology."""

    config: Config
    networks: Networks
    state: TrainState


def find_target(name: str) -> Target:
    """Returns the devices of a topology such as v5e:2x2, which need not be there, or of `cpu`.

    Raises:
      UserError: the topology is not known.
      PlanError: the TPU compiler is not installed, or refuses it.
    """
    if name == "cpu":
        return Target(name, None, (1,), jax.devices("cpu")[:1])
    chip, shape = chips.parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise PlanError(
            f"topology {name}: the TPU compiler is not installed; pip install 'crlm_jax[plan]'"
        )
    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    options = dict(chip.options)
    if max(shape) == 1:  # a host has four chips unless it is said otherwise
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(name, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise PlanError(f"topology {name}: the TPU compiler refuses it: {error}") from error
    return Target(name, chip, shape, found.devices)


def make_step(config: Config) -> Step:
    """Builds networks and state on the CPU, with random weights: they change no cost."""
    config = copy.deepcopy(config)
    config.critic.weights = config.transunet.weights = "random"
    validate(config)
    return Step(config, *create_state(config, parallel.make_mesh(jax.devices("cpu")[:1])))


def compile_step(step: Step, target: Target, batch: int) -> jax.stages.Compiled:
    """Compiles the train step for a global batch of so many slices.

    Raises:
      jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED where it does not fit the chip's memory.
    """
    mesh, size = parallel.make_mesh(target.devices), step.config.data.image_size
    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)

    def described(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(lambda x: described(x.shape, x.dtype, everywhere), step.state)
    slices = described((batch, size, size, 1), jnp.uint8, split)
    photometric = described((batch, 6), jnp.float32, split)
    # The number of steps enters the learning rate alone.
    train_step = make_train_step(step.config, step.networks, mesh, steps=1000)
    inputs = {"image": slices, "mask": slices, "photometric": photometric}
    return train_step.lower(state, inputs).compile()


def read(compiled: jax.stages.Compiled, target: Target, batch: int) -> dict[str, Any]:
    """Returns the compiler's report of a step, per chip: bytes, FLOPs, cycles, collectives."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    program = Program(compiled.as_text(), len(target.devices))
    kinds = {}
    for one in program.collectives():
        kind = kinds.setdefault(one.kind, {"count": 0, "bytes": 0, "sent_bytes": 0.0})
        kind["count"] += one.times
        kind["bytes"] += one.times * one.size
        kind["sent_bytes"] += one.times * one.sent
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    total = sum(parts.values()) - 2 * parts["aliased"]  # outputs in the place of arguments
    return {
        "topology": target.name,
        "chip": target.chip.name if target.chip else "cpu",
        "chips": len(target.devices),
        "batch": batch,
        "memory_bytes": parts | {"total": total},
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "cycles": program.cycles(),
        "collectives": kinds,
    }


def _too_large(error: jax.errors.JaxRuntimeError) -> str:
    """Returns what the compiler says of a step beyond the chip's memory; raises another error."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    return text[:300]


def estimate(config: Config, name: str, batch: int, measured: bool = False) -> dict[str, Any]:
    """Compiles the step of a configuration for a topology and a global batch.

    Returns:
      What `read` does and `compile_seconds`, for the CPU also `measured` if it is asked for; or
      `refused`, the compiler's words, where the step does not fit the memory.
    """
    jax.config.update("jax_platforms", "cpu")  # this may be a process of its own
    step, target, start = make_step(config), find_target(name), time.perf_counter()
    try:
        compiled = compile_step(step, target, batch)
    except jax.errors.JaxRuntimeError as error:
        return {"refused": _too_large(error)}
    row = read(compiled, target, batch) | {"compile_seconds": time.perf_counter() - start}
    if measured:
        row["measured"] = measuring.measure(step.state, config.data.image_size, compiled, batch)
    return row


def in_subprocess(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Calls a function in a process of its own, and returns what it does.

    The TPU compiler keeps some 2 GiB of every step that it compiled until its process ends.

    Raises:
      PlanError: the process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise PlanError(
                "the compiler was killed, probably for want of memory: the paper's step takes up "
                "to 12 GiB; free it, or plan a smaller one"
            ) from error
