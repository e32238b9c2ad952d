"""A PyTorch step of the same work on the same card; JAX computes on the CPU in this process.

Rows, each with what it multiplies in:

- `eager, TF32`: PyTorch's default on a card that has TF32, for the critic too. This project's
  float32 has TF32 in the segmenter alone, so this row does a little less exact work.
- `eager, float32`: nothing is rounded; more exact than this project's float32.
- `compiled, bfloat16`: `torch.compile`, channels last, autocast for both networks; the fastest.
- `compiled, critic float32`: the same with an exact critic, as this project's bfloat16 has it.
"""

import dataclasses
import time
from typing import Any

from tests.benchmarks.gpu_kit import steps
from tests.benchmarks.gpu_kit.options import Part
from tests.benchmarks.train_step import TorchContestant, torch


@dataclasses.dataclass(frozen=True)
class Variant:
    """How PyTorch computes the step."""

    precision: str
    tf32: bool
    compiled: bool = False
    exact_critic: bool = False


VARIANTS = {
    "eager, TF32": Variant("float32", tf32=True),
    "eager, float32": Variant("float32", tf32=False),
    "compiled, bfloat16": Variant("bfloat16", tf32=True, compiled=True),
    "compiled, critic float32": Variant("bfloat16", False, compiled=True, exact_critic=True),
}


def torch_steps(part: Part) -> None:
    """`torch-BATCH`: all variants, or the word that PyTorch is not there."""
    batch = int(part.name.removeprefix("torch-"))
    if torch is None:
        part.add(batch=batch, skipped="PyTorch is not installed here")
        return
    if not torch.cuda.is_available() and not part.tiny:
        part.add(batch=batch, skipped=f"PyTorch {torch.__version__} sees no CUDA card here")
        return
    for name, variant in VARIANTS.items():
        if part.left < 15 and not part.tiny:
            part.add(batch=batch, variant=name, skipped="no time left")
            continue
        part.attempt(_measure, part, batch, variant, batch=batch, variant=name)


def _measure(part: Part, batch: int, variant: Variant) -> dict[str, Any]:
    contestant, config = _contestant(part, batch, variant)
    image, mask = contestant.place(steps.make_batch(config))
    cuda = contestant.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    terms = contestant.same_step(*contestant.normalise(image, mask))
    first = {name: value.item() for name, value in terms.items()}
    compile_seconds = time.perf_counter() - start

    def wait(_: object) -> None:
        if cuda:
            torch.cuda.synchronize()

    def run() -> object:
        return contestant.same_step(*contestant.normalise(image, mask))

    found = steps.time_steps(run, part.sizes, wait)
    return {
        **found,
        "slices_per_second": batch / found["median_seconds"],
        "first_seconds": compile_seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "first_loss": first["loss"],
        "products": _products(variant, cuda),
    }


def _contestant(part: Part, batch: int, variant: Variant) -> tuple[TorchContestant, Any]:
    """PyTorch's networks with the weights that the JAX step begins with."""
    from flax import nnx

    from crlm_jax.method.step import create_state
    from crlm_jax.system import parallel

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = variant.tf32
    torch.backends.cudnn.benchmark = True
    config = steps.configure(part.sizes, batch, "float32")
    networks, state = create_state(config, parallel.make_mesh(1))
    modules = {
        "segmenter": nnx.merge(networks.segmenter, state.params, state.batch_stats),
        "critic": nnx.merge(networks.critic, state.critic),
    }
    config.train.precision = variant.precision
    layout = torch.channels_last if variant.compiled else torch.contiguous_format
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = TorchContestant(config, modules, device, variant.exact_critic, layout)
    if variant.compiled:
        torch._dynamo.reset()
        made.loss_terms = torch.compile(made.loss_terms)
    return made, config


def _products(variant: Variant, cuda: bool) -> str:
    exact = "TF32" if variant.tf32 and cuda else "float32"
    segmenter = exact if variant.precision == "float32" else variant.precision
    return f"segmenter {segmenter}, critic {exact if variant.exact_critic else segmenter}"
