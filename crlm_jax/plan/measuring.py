"""A step on the CPU that it was planned for: what the compiler's report is compared with."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crlm_jax.method.step import TrainState
from crlm_jax.system import parallel


def measure(
    state: TrainState, size: int, compiled: jax.stages.Compiled, batch: int, runs: int = 5
) -> dict[str, Any]:
    """Runs a step compiled for the CPU; returns what its report is to be compared with.

    Args:
      state: to start from; it is kept.
      size: side of a slice, pixels.
      compiled: the step, for a batch of so many slices.
      batch: slices.
      runs: that are timed.

    Returns:
      `step_seconds` is the median of the runs after a first; `matmul_flops`, 1/s, what this CPU
      reaches in a product of float32 matrices; `argument_bytes` the sizes of the arrays put in.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 1), np.uint8)
    photometric = np.repeat(np.float32([[1, 1, 1, 0, 0, 0]]), batch, 0)
    mesh = parallel.make_mesh(jax.devices("cpu")[:1])
    inputs = {"image": images, "mask": images // 128, "photometric": photometric}
    inputs = parallel.to_global(inputs, mesh)
    state = jax.tree.map(jnp.copy, state)  # the step uses its state up
    used = sum(x.nbytes for x in jax.tree.leaves((state, inputs)))

    def run():
        nonlocal state
        state, terms = compiled(state, inputs)
        return state, terms

    return {
        "argument_bytes": used,
        "step_seconds": float(np.median(_seconds(run, runs))),
        "matmul_flops": _matmul_flops(),
    }


def _matmul_flops(n: int = 1024, runs: int = 5) -> float:
    """FLOP/s of the CPU in products of float32 matrices, n by n, the best of the runs."""
    a = jax.device_put(np.ones((n, n), np.float32), jax.devices("cpu")[0])
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / min(_seconds(lambda: product(a, a), runs))


def _seconds(run: Callable[[], Any], runs: int) -> list[float]:
    """How long each of the runs takes, after a first."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds[1:]
