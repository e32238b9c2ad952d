"""Time and hours of a step on a chip, from the compiler's report and the chip's figures."""

from dataclasses import replace

from crlm_jax.config.length import total_steps
from crlm_jax.config.schema import Config
from crlm_jax.errors import UserError
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.plan.chip import Chip
from crlm_jax.plan.rows import StepReport, Times

# Slices with tumour of the paper's training patients (Xia et al. 2025): of 2,546 in four MRI
# conditions, 66 of 111 patients train; of the CT collection's 3,593, these.
MRI_SLICES, CT_SLICES = 2546 / 4 * 66 / 111, 2142


def estimate_times(
    report: StepReport, chip: Chip, shape: tuple[int, ...], config: Config, slices: int
) -> Times:
    """Estimates what a training takes on a slice of chips.

    A collective takes the bytes that a chip sends over its
    bandwidth, and the chip's latency, both ways for an all-reduce; it does not overlap with
    computation. `step_seconds` is the sum, and `roofline_seconds` the least
    that FLOPs and memory traffic allow. The hours are those of the steps alone, without reading,
    validation, checkpoints and compiling.

    Args:
      report: the compiler's.
      chip: that the step is compiled for.
      shape: chips along each axis of the slice.
      config: a training has `train.epochs` passes.
      slices: in a pass.
    """
    sent = sum(traffic.sent_bytes for traffic in report.collectives.values())
    runs = sum(
        traffic.count * (2 if kind == "all-reduce" else 1)
        for kind, traffic in report.collectives.items()
    )
    transfer = sent / chip.send_bandwidth(shape) if sent else 0.0
    latency = runs * chip.latency(shape)
    seconds = report.compute_seconds + transfer + latency
    steps = total_steps(
        replace(config, train=replace(config.train, batch_size=report.batch)), slices
    )
    return Times(
        hbm_share=report.memory_bytes.total / chip.hbm_bytes,
        transfer_seconds=transfer,
        latency_seconds=latency,
        step_seconds=seconds,
        roofline_seconds=max(
            report.flops / chip.peak_flops, report.bytes_accessed / chip.hbm_bandwidth
        ),
        peak_share=report.flops / seconds / chip.peak_flops,
        useful_share=report.useful_flops / seconds / chip.peak_flops,
        collective_share=(transfer + latency) / seconds,
        images_per_second=report.batch / seconds,
        steps=steps,
        hours=steps * seconds / 3600,
        chip_hours=steps * seconds / 3600 * report.chips,
    )


def paper_slices(config: Config) -> int:
    """Returns the training slices that the paper's cohort has under the config's conditions.

    These are the slices of its training patients, less the share that the config validates on.

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
