"""Runs a compiled step on the CPU, to compare it with the compiler's report."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from crlm_jax.method.step import TrainState
from crlm_jax.plan.rows import MeasuredStep
from crlm_jax.system import parallel


def measure_step(
    state: TrainState,
    compiled: jax.stages.Compiled,
    shape: tuple[int, int, int, int],
    runs: int = 5,
) -> MeasuredStep:
    """Runs and times a step that was compiled for the CPU.

    Args:
      state: to start from; it is kept.
      compiled: the step, for a batch of that shape.
      shape: (B, S, S, C) of the slices.
      runs: that are timed.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, np.uint8)
    photometric = np.repeat(np.array([[1, 1, 1, 0, 0, 0]], np.float32), len(images), 0)
    mesh = parallel.make_mesh(jax.devices("cpu")[:1])
    slices = {"image": images, "mask": images[..., :1] // 128, "photometric": photometric}
    inputs = parallel.to_global(slices, mesh)
    current = jax.tree.map(jnp.copy, state)  # the step uses its state up
    used = sum(x.nbytes for x in jax.tree.leaves((current, inputs)))

    def run() -> object:
        nonlocal current
        current, terms = compiled(current, inputs)
        return current, terms

    return MeasuredStep(used, float(np.median(_seconds(run, runs))), _matmul_flops())


def _matmul_flops(n: int = 1024, runs: int = 5) -> float:
    """Measures the CPU's FLOP/s in products of float32 matrices, n by n; the best of the runs."""
    a = jax.device_put(np.ones((n, n), np.float32), jax.devices("cpu")[0])
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / min(_seconds(lambda: product(a, a), runs))


def _seconds(run: Callable[[], object], runs: int) -> list[float]:
    """Times each of the runs after a first, which is not counted."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds[1:]
