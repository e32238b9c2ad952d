"""Two checks: the device computes what the CPU does, and the pipeline keeps the device busy."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import flags

from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.data.phantom.cohort import make_phantom
from crlm_jax.data.pipeline import Batch, train_batches
from crlm_jax.data.slice_cache import prepare
from crlm_jax.data.slices import SliceSource
from crlm_jax.system import parallel
from tests.benchmarks.gpu_kit import steps
from tests.benchmarks.gpu_kit.options import Part

# Products in float32 but for the order of sums: terms differ in the last digits. The gradient is
# one of ReLUs, of maxima and of absolute differences: a value within rounding of a kink falls to
# the other side, which moves a layer's gradient by up to 1 % (`tests.benchmarks.parity`).
# TF32 rounds factors to 11 bits, 2^-12 each, where float32 has 2^-25: more values change sides.
TOLERANCES = {"highest": (1e-4, 2e-2), "default": (1e-2, 2e-1)}  # of the terms, of the gradient


def parity(part: Part) -> None:
    """Loss and gradient on the device against those of the CPU, in one process."""
    batch, size = part.sizes.parity
    config = steps.configure(dataclasses.replace(part.sizes, image=size), batch, "float32")
    config.optimizer.weight_decay = 0.0  # the momentum of the first step is then the gradient
    terms, gradient = _one_step(config, jax.devices("cpu")[0])
    for products in ("default", "highest"):
        part.attempt(
            _compare, config, products, terms, gradient, products=products, batch=batch, size=size
        )


def _one_step(config: Any, device: jax.Device) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    with jax.default_device(device):
        built = steps.build(config, device=device)
        found = {name: float(value) for name, value in built.run().items()}
    trace = optax.tree_utils.tree_get(built.state.opt_state, "trace")
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(trace))[0]
    return found, {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves
    }


def _compare(
    config: Any, products: str, terms: dict[str, float], gradient: dict[str, np.ndarray]
) -> dict[str, Any]:
    exact = jax.default_matmul_precision("highest") if products == "highest" else None
    with exact or contextlib.nullcontext():
        ours, found = _one_step(config, jax.devices()[0])
    off = {name: abs(ours[name] - value) / abs(value) for name, value in terms.items()}
    del off["grad_norm"]
    wanted, had = (np.concatenate([g[k].ravel() for k in gradient]) for g in (gradient, found))
    norm = float(np.linalg.norm(wanted))
    layers = {
        name: float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
        for name, value in gradient.items()
        if np.linalg.norm(value) > 1e-3 * norm  # others are rounding alone
    }
    difference = float(np.linalg.norm(had - wanted)) / norm
    of_terms, of_gradient = TOLERANCES[products]
    worst = max(layers, key=layers.__getitem__)
    return {
        "terms": off,
        "gradient": difference,
        "cosine": float(had @ wanted / np.linalg.norm(had) / norm),
        "worst_layer": [worst, layers[worst]],
        "tolerances": [of_terms, of_gradient],
        "agrees": max(off.values()) <= of_terms and difference <= of_gradient,
    }


def pipeline(part: Part) -> None:
    """Slices/s of the project's own pipeline, and of a step that it feeds."""
    flags.FLAGS.mark_as_parsed()  # Grain's workers look at them
    batch = part.sizes.batches[0]
    source = phantom_source(part)
    cores = len(os.sched_getaffinity(0))
    for workers in sorted({0, min(8, max(1, cores - 1))}):
        part.attempt(_rate, part, source, batch, workers, batch=batch, workers=workers)
    rates = {row["workers"]: row.get("slices_per_second", 0.0) for row in part.rows}
    best = max(rates, key=rates.__getitem__)
    part.attempt(_fed, part, source, batch, best, batch=batch, workers=best, precision="auto")


def phantom_source(part: Part) -> SliceSource:
    """Makes phantom patients and cuts them into slices, as a training does."""
    folder = part.work / f"phantom_{part.sizes.patients}"
    table = make_phantom(folder, patients=part.sizes.patients, conditions=("pre_dwi",))
    config = steps.configure(part.sizes, part.sizes.batches[0], "float32")
    config.data.cache = str(part.work)
    cases = read_cohort(Path(table), conditions=("pre_dwi",))
    everyone = [dataclasses.replace(case, split="train") for case in cases]
    return prepare(everyone, config.data).source("train")


@contextlib.contextmanager
def _batches(source: SliceSource, batch: int, workers: int) -> Iterator[Iterator[Batch]]:
    config = steps.configure(steps.Sizes(), batch, "float32")
    made = train_batches(source, config.augment, batch_size=batch, seed=0, workers=workers)
    with contextlib.closing(made):
        next(made)  # starts the workers
        yield made


def _rate(part: Part, source: SliceSource, batch: int, workers: int) -> dict[str, Any]:
    with _batches(source, batch, workers) as made:
        for _ in range(20):  # those that were made while nobody asked
            next(made)
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < part.sizes.seconds / 2:
            next(made)
            count += batch
    return {"slices_per_second": count / elapsed, "records": len(source)}


def _fed(part: Part, source: SliceSource, batch: int, workers: int) -> dict[str, Any]:
    """The loop of a training without its log: batch, to the device, step; waits at the end."""
    built = steps.build(steps.configure(part.sizes, batch, "auto"))

    def seconds(make: Any, count: int) -> float:
        for done in range(count + 3):
            if done == 3:  # the first warm up
                jax.block_until_ready(built.state)
                start = time.perf_counter()
            built.batch = make() or built.batch
            built.run()
        jax.block_until_ready(built.state)
        return (time.perf_counter() - start) / count

    def fetch(made: Iterator[Batch]) -> dict[str, jax.Array]:
        found = next(made)
        found.pop("record")
        return parallel.to_global(found, built.mesh)

    count = 2 * part.sizes.steps
    with _batches(source, batch, workers) as made:
        fed = seconds(lambda: fetch(made), count)
    alone = seconds(lambda: None, count)
    return {
        "slices_per_second": batch / fed,
        "step_alone_slices_per_second": batch / alone,
        "fed_to_alone": alone / fed,
        "keeps_up": alone / fed > 0.95,
    }
