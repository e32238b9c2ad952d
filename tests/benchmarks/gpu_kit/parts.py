"""The kit's parts, one a process: `python -m tests.benchmarks.gpu_kit.parts NAME --result …`."""

import dataclasses
import gc
import os
import statistics
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from tests.benchmarks.gpu_kit.options import Part, parse


def machine(part: Part) -> None:
    """The card, its driver, and the versions."""
    import jax

    device, stats = jax.devices()[0], jax.devices()[0].memory_stats()
    names = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "torch")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    part.add(
        card=device.device_kind,
        platform=device.platform,
        driver=_driver() if device.platform == "gpu" else None,
        backend=device.client.platform_version,
        memory_bytes=stats.get("bytes_limit") if stats else None,
        cores=len(os.sched_getaffinity(0)),
        python=sys.version.split()[0],
        versions=found,
    )


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def step(part: Part) -> None:
    """`step-BATCH-PRECISION`: time, slices/s, shares of peak and bandwidth, peak memory."""
    _, batch, precision = part.name.split("-")
    part.attempt(_step, part, int(batch), precision, batch=int(batch), precision=precision)


def _step(part: Part, batch: int, precision: str) -> dict[str, Any]:
    import jax

    from tests.benchmarks.gpu_kit import steps

    config = steps.configure(part.sizes, batch, precision)
    built = steps.build(config)
    first = float(built.run()["loss"])
    found = steps.time_steps(built.run, part.sizes, jax.block_until_ready)
    memory, seconds = steps.peak_bytes(), found["median_seconds"]
    terms = {name: float(value) for name, value in built.run().items()}
    return {
        **found,
        "slices_per_second": batch / seconds,
        "resolved": config.train.precision,
        "products": steps.products(config.train.precision),
        "compile_seconds": built.compile_seconds,
        "program_bytes": built.program_bytes(),
        "peak_bytes": memory,
        "first_loss": first,  # of the weights and slices that PyTorch begins with too
        "loss": terms["loss"],
        **steps.shares(config, seconds, _flops(part, batch)),
        **steps.bandwidth(seconds, steps.count_bytes(built.compiled)),
    }


def _flops(part: Part, batch: int) -> tuple[float, float] | None:
    """FLOPs of the plain step and of its segmenter; they grow with the batch, so one is counted."""
    from tests.benchmarks.gpu_kit import steps

    for row in (row for rows in part.known.values() for row in rows):
        if "flops_of_a_slice" in row:
            return tuple(batch * value for value in row["flops_of_a_slice"])
    without_critic = dataclasses.replace(part.sizes, stages=())
    counted = [
        steps.count_flops(steps.configure(sizes, batch, "float32"))
        for sizes in (part.sizes, without_critic)
    ]
    if None in counted:
        return None
    part.add(flops_of_a_slice=[value / batch for value in counted])
    return counted[0], counted[1]


def forms(part: Part) -> None:
    """`forms` and `variants`: the platform's forms beside the plain ones, and beside others."""
    from crlm_jax.models.forms import FORMS, PLAIN

    own = FORMS["gpu"]
    if part.name == "forms":
        for precision in ("auto", "float32"):
            part.attempt(_forms, part, precision, {"gpu": own, "plain": PLAIN}, precision=precision)
        return
    changes: list[dict[str, Any]] = [
        {"statistics": "two_passes"}, {"cancelled_gradient": True}, {"pooling": "windows"},
        {"upsampling": "products"}, {"inputs": "summed"},
    ]  # fmt: skip
    for change in changes:
        name = ", ".join(f"{key}={value}" for key, value in change.items())
        if part.left < 20 and not part.tiny:
            part.add(precision="auto", skipped=f"{name}: no time left")
            continue
        both = {"gpu": own, name: dataclasses.replace(own, **change)}
        part.attempt(_forms, part, "auto", both, precision="auto")


def _forms(part: Part, precision: str, named: dict[str, Any]) -> dict[str, Any]:
    """Times steps that take turns."""
    import jax

    from tests.benchmarks.gpu_kit import steps

    config = steps.configure(part.sizes, part.sizes.batches[0], precision)
    built = {name: steps.build(config, form) for name, form in named.items()}
    seconds: dict[str, list[float]] = {name: [] for name in built}
    end, sizes = time.monotonic() + part.sizes.seconds, part.sizes
    for turn in range(3 + sizes.steps):
        for name, one in built.items():
            start = time.perf_counter()
            jax.block_until_ready(one.run())
            seconds[name].append(time.perf_counter() - start)
        if turn > 4 and time.monotonic() > end:
            break
    timed = {name: values[3:] for name, values in seconds.items()}
    first, second = timed
    return {
        "batch": config.train.batch_size,
        "median_seconds": {name: statistics.median(values) for name, values in timed.items()},
        "least_seconds": {name: min(values) for name, values in timed.items()},
        "ratio": statistics.median(timed[first]) / statistics.median(timed[second]),
        "program_bytes": {name: one.program_bytes() for name, one in built.items()},
    }


def largest(part: Part) -> None:
    """`largest-PRECISION`: the largest batch that fits, and its step.

    The memory of the steps that were measured tells about how many slices fit; that is tried, then
    less until one fits, and then more while there is time.
    """
    precision = part.name.removeprefix("largest-")
    known = [
        row for rows in part.known.values() for row in rows if row.get("precision") == precision
    ]
    batch, fits, fails = _expected(known, part.sizes.most), 0, part.sizes.most + 1
    while batch > fits and batch < fails:
        if part.rows and part.left < 1.2 * max(row["seconds"] for row in part.rows):
            part.add(precision=precision, skipped=f"batch {batch}: no time left", seconds=0.0)
            break
        gc.collect()
        start = time.monotonic()
        part.attempt(_step, part, batch, precision, batch=batch, precision=precision)
        row = part.rows[-1]
        if fails <= part.sizes.most and "peak_bytes" in row:
            row["peak_bytes"] = None  # it would be that of the try that failed
        row["seconds"] = time.monotonic() - start
        if "error" not in row:
            fits = batch
        elif row["error"] == "out of memory":
            fails = batch
        else:
            break
        batch = min(_eighths(fits * 1.15), fails - 8) if fits else _eighths(batch * 0.85)
    failed = fails if fails <= part.sizes.most else None
    part.add(precision=precision, largest=fits, smallest_that_fails=failed, seconds=0.0)


def _eighths(batch: float) -> int:
    """Rounds down to a multiple of 8, if there is one."""
    return int(batch) // 8 * 8 or int(batch)


def _expected(known: list[dict[str, Any]], most: int) -> int:
    """The batch that would fill the memory, along the line through two measured steps."""
    import jax

    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    points = sorted((r["batch"], r["peak_bytes"]) for r in known if r.get("peak_bytes"))
    if not limit or len(points) < 2:
        return min(most, 2 * points[-1][0] if points else most)
    (b0, m0), (b1, m1) = points[0], points[-1]
    slope = (m1 - m0) / (b1 - b0)
    return min(most, _eighths(0.97 * (limit - m0) / slope + b0)) if slope > 0 else most


def run(part: Part) -> None:
    """Runs the part of this name."""
    group = part.name.partition("-")[0]
    if group in ("machine", "step", "largest"):
        {"machine": machine, "step": step, "largest": largest}[group](part)
    elif group in ("forms", "variants"):
        forms(part)
    elif group == "parity":
        from tests.benchmarks.gpu_kit.checks import parity

        parity(part)
    elif group == "pipeline":
        from tests.benchmarks.gpu_kit.checks import pipeline

        pipeline(part)
    elif group == "torch":
        from tests.benchmarks.gpu_kit.beside import torch_steps

        torch_steps(part)
    else:
        from tests.benchmarks.gpu_kit.training import train

        train(part)


if __name__ == "__main__":
    run(parse())
