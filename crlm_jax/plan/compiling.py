"""Compiles the train step for TPUs that are not there, and reads the compiler's report.

The step is `method.step.make_train_step`, the very one that a run takes. The TPU compiler (PyPI's
libtpu, `pip install 'crlm_jax[plan]'`) compiles it ahead of time for a topology; nothing runs. So
every figure is a compiler estimate. Weights change no cost and are random here.
"""

import copy
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Sharding
from jax.typing import DTypeLike

from crlm_jax.config.precision import with_precision
from crlm_jax.config.schema import Config, validate
from crlm_jax.errors import UserError
from crlm_jax.method.networks import Networks
from crlm_jax.method.step import TrainState, create_state, make_train_step
from crlm_jax.plan import chips, measuring
from crlm_jax.plan.chips import Chip
from crlm_jax.plan.hlo import Program
from crlm_jax.plan.rows import Memory, Refusal, StepReport, Traffic
from crlm_jax.system import parallel

_Result = TypeVar("_Result")

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


@dataclass(frozen=True)
class Step:
    """The networks and the state of a configuration, to be compiled for any topology."""

    config: Config
    networks: Networks
    state: TrainState


def find_target(name: str) -> Target:
    """Returns the devices of a topology such as v5e:2x2, which need not exist, or of `cpu`.

    Raises:
      UserError: the topology is not known, or the TPU compiler refuses it or is not installed.
    """
    if name == "cpu":
        return Target(name, None, (1,), jax.devices("cpu")[:1])
    chip, shape = chips.parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"topology {name}: the TPU compiler is not installed; pip install 'crlm_jax[plan]'"
        )
    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = dict(chip.options)
    if max(shape) == 1:  # the compiler's default is four chips on a host
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(name, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"topology {name}: the TPU compiler refuses it: {reason}") from error
    return Target(name, chip, shape, found.devices)


def make_step(config: Config, platform: str) -> Step:
    """Builds networks and state on the CPU, with random weights, which change no cost."""
    config = copy.deepcopy(with_precision(config, platform))
    config.critic.weights = config.transunet.weights = "random"
    validate(config)
    return Step(config, *create_state(config, parallel.make_mesh(jax.devices("cpu")[:1])))


def compile_step(step: Step, target: Target, batch: int) -> jax.stages.Compiled:
    """Compiles the train step for a global batch of so many slices.

    Raises:
      jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED if it does not fit the chip's memory.
    """
    mesh, size = parallel.make_mesh(target.devices), step.config.data.image_size
    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)

    def described(
        shape: tuple[int, ...], dtype: DTypeLike, sharding: Sharding
    ) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(lambda x: described(x.shape, x.dtype, everywhere), step.state)
    slices = described((batch, size, size, 1), jnp.uint8, split)
    photometric = described((batch, 6), jnp.float32, split)
    # The number of steps affects nothing but the learning rate.
    train_step = make_train_step(step.config, step.networks, mesh, steps=1000)
    assert isinstance(train_step, jax.stages.Wrapped)
    inputs = {"image": slices, "mask": slices, "photometric": photometric}
    return train_step.lower(state, inputs).compile()


def read_report(
    compiled: jax.stages.Compiled, target: Target, batch: int, seconds: float
) -> StepReport:
    """Reads the compiler's report of a step.

    Args:
      compiled: the step.
      target: that it is compiled for.
      batch: slices, on all devices together.
      seconds: that compiling took.
    """
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    assert memory is not None  # these compilers report all three
    assert cost is not None
    assert text is not None
    program = Program(text, len(target.devices))
    kinds: dict[str, Traffic] = {}
    for one in program.collectives():
        before = kinds.get(one.kind, Traffic(0, 0, 0.0))
        kinds[one.kind] = Traffic(
            before.count + one.times,
            before.bytes + one.times * one.size,
            before.sent_bytes + one.times * one.sent,
        )
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    total = sum(parts.values()) - 2 * parts["aliased"]  # they take no memory of their own
    return StepReport(
        topology=target.name,
        chip=target.chip.name if target.chip else "cpu",
        chips=len(target.devices),
        batch=batch,
        memory_bytes=Memory(**parts, total=total),
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        cycles=program.cycles(),
        collectives=kinds,
        compile_seconds=seconds,
    )


def _refusal(error: jax.errors.JaxRuntimeError) -> Refusal:
    """Returns the compiler's words on a step beyond the chip's memory; raises any other error."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    return Refusal(text[:300])


def estimate(config: Config, name: str, batch: int, measured: bool = False) -> StepReport | Refusal:
    """Compiles the step of a configuration for a topology and a global batch.

    Args:
      config: of the training.
      name: of the topology, or `cpu`.
      batch: slices, on all devices together.
      measured: also run the step; on the CPU only.

    Raises:
      UserError: the topology cannot be used (`find_target`).
    """
    jax.config.update("jax_platforms", "cpu")  # this may be a process of its own
    target, start = find_target(name), time.perf_counter()
    step = make_step(config, "tpu" if target.chip else "cpu")
    try:
        compiled = compile_step(step, target, batch)
    except jax.errors.JaxRuntimeError as error:
        return _refusal(error)
    report = read_report(compiled, target, batch, time.perf_counter() - start)
    if not measured:
        return report
    size = config.data.image_size
    return replace(report, measured=measuring.measure_step(step.state, size, compiled, batch))


def in_subprocess(function: Callable[..., _Result], *args: object) -> _Result:
    """Calls a function in a process of its own, and returns its result.

    The TPU compiler keeps some 2 GiB of every compiled step until its process ends.

    Raises:
      UserError: the process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise UserError(
                "the compiler was killed, probably because the machine ran out of memory: the "
                "paper's step takes up to 12 GiB; free some, or plan a smaller step"
            ) from error
