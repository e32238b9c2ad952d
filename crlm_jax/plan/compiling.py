"""Compiles the train step for chips that are not there, and reads the compiler's report.

The step is `method.step.make_train_step`, the very one that a run takes. The TPU compiler (PyPI's
libtpu, the extra `plan`) or XLA's for GPUs (the extra `plan-gpu`) compiles it ahead of time for a
topology; nothing runs. So every figure is a compiler estimate. Weights change no cost and are
random here.
"""

import copy
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jax.typing import DTypeLike

from crlm_jax.config.precision import with_precision
from crlm_jax.config.schema import Config, validate
from crlm_jax.errors import UserError
from crlm_jax.method.networks import Networks
from crlm_jax.method.step import TrainState, create_state, make_train_step
from crlm_jax.plan import measuring
from crlm_jax.plan.hlo import Program
from crlm_jax.plan.kernels import kernels
from crlm_jax.plan.rows import Memory, Refusal, StepReport, Traffic
from crlm_jax.plan.targets import Target, find_target
from crlm_jax.system import parallel

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Step:
    """The networks and the state of a configuration, to be compiled for any topology."""

    config: Config
    networks: Networks
    state: TrainState


def make_step(config: Config, platform: str) -> Step:
    """Builds networks and state on the CPU, with random weights, which change no cost."""
    config = copy.deepcopy(with_precision(config, platform))
    config.critic.weights = config.transunet.weights = "random"
    validate(config)
    return Step(config, *create_state(config, parallel.make_mesh(jax.devices("cpu")[:1])))


def _lower(step: Step, devices: Sequence[jax.Device], batch: int) -> jax.stages.Lowered:
    """Traces the train step for a global batch of so many slices on these devices."""
    mesh, size = parallel.make_mesh(devices), step.config.data.image_size
    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)

    def described(
        shape: tuple[int, ...], dtype: DTypeLike, sharding: Sharding
    ) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(lambda x: described(x.shape, x.dtype, everywhere), step.state)
    planes = step.config.data.planes
    slices, masks = (described((batch, size, size, n), jnp.uint8, split) for n in (planes, 1))
    photometric = described((batch, 6), jnp.float32, split)
    # The number of steps affects nothing but the learning rate.
    train_step = make_train_step(step.config, step.networks, mesh, steps=1000)
    assert isinstance(train_step, jax.stages.Wrapped)
    return train_step.lower(state, {"image": slices, "mask": masks, "photometric": photometric})


def compile_step(step: Step, target: Target, batch: int) -> jax.stages.Compiled:
    """Compiles the train step for a global batch of so many slices.

    Raises:
      jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED if it does not fit the chip's memory.
    """
    return _lower(step, target.devices, batch).compile(target.compiler_options)


def useful_flops(step: Step, batch: int) -> float:
    """Counts the FLOPs of the plain step, whatever forms a platform gives its operations.

    XLA counts them before it compiles: without the zeros of packed kernels, without what is
    computed a second time to save memory, and without products with the padding.
    """
    cost = _lower(step, jax.devices("cpu")[:1], batch).cost_analysis()
    assert isinstance(cost, dict)
    return float(cost["flops"])


def read_report(
    compiled: jax.stages.Compiled, step: Step, target: Target, batch: int, seconds: float
) -> StepReport:
    """Reads the compiler's report of a step.

    Args:
      compiled: the step.
      step: that was compiled.
      target: that it is compiled for.
      batch: slices, on all devices together.
      seconds: that compiling took.
    """
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None  # these compilers report both
    assert text is not None
    count, program = len(target.devices), Program(text, len(target.devices))
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
    flops, moved = _work(compiled, program)
    return StepReport(
        topology=target.name,
        chip=target.chip.name if target.chip else "cpu",
        chips=count,
        batch=batch,
        memory_bytes=Memory(**parts, total=total),
        flops=flops,
        useful_flops=useful_flops(step, batch) / count,
        bytes_accessed=moved,
        cycles=program.cycles(),
        compute_seconds=target.chip.compute_seconds(program) if target.chip else 0.0,
        narrow=_narrow(step.config, program, batch // count) if target.platform == "tpu" else {},
        collectives=kinds,
        compile_seconds=seconds,
    )


def _work(compiled: jax.stages.Compiled, program: Program) -> tuple[float, float]:
    """Returns FLOPs and bytes of a chip: the compiler's, or, of a GPU, those of the kernels."""
    if cost := compiled.cost_analysis():
        return cost["flops"], cost["bytes accessed"]
    found = kernels(program)
    return sum(kernel.flops for kernel in found), sum(kernel.bytes for kernel in found)


def _narrow(config: Config, program: Program, batch: int) -> dict[str, int]:
    """Returns the arrays of the finest level, or larger, that leave lanes of a TPU empty."""
    return program.narrow(batch * config.data.image_size**2 * config.segmenter.widths[0])


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
    step = make_step(config, target.platform)
    try:
        compiled = compile_step(step, target, batch)
    except jax.errors.JaxRuntimeError as error:
        return _refusal(error)
    report = read_report(compiled, step, target, batch, time.perf_counter() - start)
    if not measured:
        return report
    shape = (batch, config.data.image_size, config.data.image_size, config.data.planes)
    return replace(report, measured=measuring.measure_step(step.state, compiled, shape))


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
