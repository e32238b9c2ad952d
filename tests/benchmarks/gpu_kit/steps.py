"""One training step of this project on one device: built, compiled, counted, timed."""

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from crlm_jax.config.precision import with_precision
from crlm_jax.config.schema import Config
from crlm_jax.method.step import TrainState, create_state, make_train_step
from crlm_jax.models import forms
from crlm_jax.models.forms import Forms
from crlm_jax.system import parallel
from tests.benchmarks import train_step
from tests.benchmarks.gpu_kit.cards import CARDS
from tests.benchmarks.gpu_kit.options import Sizes

GIB = 2**30


def configure(sizes: Sizes, batch: int, precision: str) -> Config:
    """The benchmark's config, of the paper's scale unless the sizes are tiny."""
    config = train_step.make_config(
        argparse.Namespace(stages=sizes.stages, batch=batch, size=sizes.image, precision=precision)
    )
    config.segmenter.widths, config.critic.width = sizes.widths, sizes.critic
    return with_precision(config, jax.devices()[0].platform)


def make_batch(config: Config, seed: int = 0) -> train_step.Batch:
    """Noise and discs, as the other benchmark of the step has them."""
    named = argparse.Namespace(batch=config.train.batch_size, size=config.data.image_size)
    return train_step.make_batch(named, seed)


@dataclasses.dataclass
class Built:
    """A compiled step with its state, which every run replaces."""

    mesh: Mesh
    compiled: jax.stages.Compiled
    state: TrainState
    batch: dict[str, jax.Array]
    compile_seconds: float

    def run(self) -> dict[str, jax.Array]:
        """Starts a step; waits for no device."""
        self.state, terms = self.compiled(self.state, self.batch)
        return terms

    def program_bytes(self) -> int | None:
        """Memory of the step as the compiler plans it: arguments, results and temporaries."""
        memory = self.compiled.memory_analysis()
        if memory is None:
            return None
        parts = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return parts + memory.temp_size_in_bytes - memory.alias_size_in_bytes


@contextlib.contextmanager
def with_forms(form: Forms | None) -> Iterator[None]:
    """Steps built inside have these forms instead of their platform's; None: the platform's."""
    platform = jax.devices()[0].platform
    before = forms.of_platform(platform)
    forms.FORMS[platform] = form or before
    try:
        yield
    finally:
        forms.FORMS[platform] = before


def build(config: Config, form: Forms | None = None, device: jax.Device | None = None) -> Built:
    """Compiles the step that a run takes, for the device that JAX has by default, or for one."""
    mesh = parallel.make_mesh(1 if device is None else [device])
    with with_forms(form):
        networks, state = create_state(config, mesh)
        batch = parallel.to_global(make_batch(config), mesh)
        lowered = make_train_step(config, networks, mesh, steps=1000).lower(state, batch)
        start = time.perf_counter()
        compiled = lowered.compile()
    return Built(mesh, compiled, state, batch, time.perf_counter() - start)


def count_flops(config: Config) -> float | None:
    """FLOPs of the plain step, by XLA's count before it changes anything; None: it does not tell.

    Plain: whatever form a platform computes in, work that the form adds does not count.
    """
    mesh = parallel.make_mesh(1)
    with with_forms(forms.PLAIN):
        networks, state = create_state(config, mesh)
        batch = parallel.to_global(make_batch(config), mesh)
        lowered = make_train_step(config, networks, mesh, steps=1000).lower(state, batch)
    try:
        cost: Any = lowered.cost_analysis()
        return float(cost["flops"]) or None
    except Exception:  # a backend need not have it
        return None


def count_bytes(compiled: jax.stages.Compiled) -> float | None:
    """Bytes that the compiled step reads and writes, by XLA's estimate; None: it does not tell."""
    try:
        cost: Any = compiled.cost_analysis()
        return float(cost["bytes accessed"]) or None
    except Exception:
        return None


def time_steps(run: Callable[[], Any], sizes: Sizes, wait: Callable[[Any], Any]) -> dict[str, Any]:
    """Times steps one by one, each until it is done, after three that warm up."""
    for _ in range(3):
        wait(run())
    seconds: list[float] = []
    end = time.monotonic() + sizes.seconds
    while len(seconds) < sizes.steps and (len(seconds) < 3 or time.monotonic() < end):
        start = time.perf_counter()
        wait(run())
        seconds.append(time.perf_counter() - start)
    return {
        "median_seconds": statistics.median(seconds),
        "least_seconds": min(seconds),
        "most_seconds": max(seconds),
        "timed": len(seconds),
    }


def peak_bytes() -> int | None:
    """The most memory of the device that this process has had; None: the backend does not tell."""
    stats = jax.devices()[0].memory_stats()
    return stats.get("peak_bytes_in_use") if stats else None


def products(precision: str) -> str:
    """In which format the step multiplies, on this device."""
    device = jax.devices()[0]
    card = CARDS.get(device.device_kind)
    if device.platform == "cpu":
        segmenter = precision
    elif card is None:
        segmenter = f"{precision} by XLA's default"
    else:
        segmenter = card.product(precision)[0]
    return f"segmenter {segmenter}, critic float32"


def shares(config: Config, seconds: float, flops: tuple[float, float] | None) -> dict[str, Any]:
    """FLOP/s, and shares of the card's peak.

    Args:
      config: of the step.
      seconds: of a step.
      flops: of the whole step, and of its segmenter alone.
    """
    card = CARDS.get(jax.devices()[0].device_kind)
    if flops is None:
        return {"peak": "XLA does not count FLOPs here"}
    found: dict[str, Any] = {"flops": flops[0], "flops_per_second": flops[0] / seconds}
    if card is None:
        return found | {"peak": f"{jax.devices()[0].device_kind} is not in the table of cards"}
    name, peak = card.product(config.train.precision)
    least = flops[1] / peak + (flops[0] - flops[1]) / card.float32
    return found | {
        "peak": f"{name}, {peak / 1e12:g} TFLOP/s",
        "peak_share": flops[0] / seconds / peak,
        "share_of_units_used": least / seconds,  # the critic's at the peak of exact float32
    }


def bandwidth(seconds: float, traffic: float | None) -> dict[str, Any]:
    """Bytes/s and the share of the bandwidth; a share above 1 means that caches served some."""
    card = CARDS.get(jax.devices()[0].device_kind)
    if traffic is None:
        return {}
    found = {"bytes": traffic, "bytes_per_second": traffic / seconds}
    return found | ({"bandwidth_share": traffic / seconds / card.bandwidth} if card else {})
