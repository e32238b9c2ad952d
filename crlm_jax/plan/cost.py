"""What a step costs on a chip: the compiler's counts and the chip's figures as time and hours."""

from dataclasses import replace
from typing import Any

from crlm_jax.config.schema import Config
from crlm_jax.errors import UserError
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.method.step import total_steps
from crlm_jax.plan import chips
from crlm_jax.plan.chips import Chip

# Slices with tumour of the paper's training patients (Xia et al. 2025): of 2,546 in four MRI
# conditions, 66 of 111 patients train; of the CT collection's 3,593, these.
MRI_SLICES, CT_SLICES = 2546 / 4 * 66 / 111, 2142


def add_times(
    row: dict[str, Any], chip: Chip | None, shape: tuple[int, ...], config: Config, slices: int
) -> dict[str, Any]:
    """Adds what follows from the compiler's report of a step (`plan.read`) and the chip's figures.

    `compute_seconds` is the sum of the cycles over the clock. A collective takes the bytes that a
    chip sends over its bandwidth, and `chips.HOP_SECONDS` a hop, both ways for an all-reduce; it
    runs beside no computation. `step_seconds` is the sum, and `roofline_seconds` the least that
    FLOPs and memory traffic allow. A training has `train.epochs` passes over `slices`; its hours
    are of its steps alone, without reading, validation, checkpoints and compiling.
    """
    if chip is None:
        return row
    batch, compute = row["batch"], row["cycles"] / chip.clock
    sent = sum(kind["sent_bytes"] for kind in row["collectives"].values())
    runs = sum(
        kind["count"] * (2 if name == "all-reduce" else 1)
        for name, kind in row["collectives"].items()
    )
    transfer = sent / chip.send_bandwidth(shape) if sent else 0.0
    latency = runs * chip.hops(shape) * chips.HOP_SECONDS
    seconds = compute + transfer + latency
    longer = replace(config, train=replace(config.train, batch_size=batch))
    steps = total_steps(longer, slices)
    return row | {
        "hbm_share": row["memory_bytes"]["total"] / chip.hbm_bytes,
        "compute_seconds": compute,
        "transfer_seconds": transfer,
        "latency_seconds": latency,
        "step_seconds": seconds,
        "roofline_seconds": max(
            row["flops"] / chip.peak_flops, row["bytes_accessed"] / chip.hbm_bandwidth
        ),
        "peak_share": row["flops"] / seconds / chip.peak_flops,
        "collective_share": (transfer + latency) / seconds,
        "images_per_second": batch / seconds,
        "steps": steps,
        "hours": steps * seconds / 3600,
        "chip_hours": steps * seconds / 3600 * row["chips"],
    }


def paper_slices(config: Config) -> int:
    """Training slices that the paper's cohort has under the configuration's conditions.

    Its training patients less the share that the configuration validates on.

    Raises:
      UserError: the paper has no such condition.
    """
    total = 0.0
    for condition in config.data.conditions:
        if condition in ("pre_dwi", "post_dwi", "pre_t2wi", "post_t2wi"):
            total += MRI_SLICES
        elif is_ct(condition):
            total += CT_SLICES
        else:
            raise UserError(f"{condition} is not in the paper's cohort; give --slices N")
    return round(total * (1 - config.data.validation_fraction))
