"""The picture of a plan: step time, memory and scaling."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crlm_jax.plan.rows import PlanRow, Times

_COLOURS = {
    "v4": "#cc79a7", "v5e": "#0072b2", "v5p": "#009e73", "v6e": "#d55e00",
    "a100": "#e69f00", "h100": "#000000", "h200": "#7f7f7f", "l4": "#56b4e9",
}  # fmt: skip
_STYLES = {"weak": "o-", "strong": "s--"}  # by scaling

Timed = list[tuple[PlanRow, Times]]


def draw(rows: Sequence[PlanRow], title: str) -> Figure:
    """Draws the step time and its parts, the memory, and images/s over the number of chips.

    Args:
      rows: of a plan; at least one has times, and those without are left out.
      title: above the picture.
    """
    timed = [(row, row.times) for row in rows if row.times]
    figure = Figure(figsize=(11, 2.4 + 0.32 * len(timed)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_times(left, timed)
    _draw_memory(middle, [100 * times.hbm_share for _, times in timed])
    for axes in (left, middle):
        axes.set_ylim(len(timed) - 0.3, -0.7)
    _draw_scaling(right, timed)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_times(axes: Axes, timed: Timed) -> None:
    """Stacks the parts of a step's time, a bar a row."""
    places, start = range(len(timed)), [0.0] * len(timed)
    parts = {
        "compute": ("#0072b2", [row.compiled.compute_seconds for row, _ in timed if row.compiled]),
        "transfer": ("#e69f00", [times.transfer_seconds for _, times in timed]),
        "latency": ("#d55e00", [times.latency_seconds for _, times in timed]),
    }
    for part, (colour, seconds) in parts.items():
        values = [1e3 * value for value in seconds]
        axes.barh(places, values, left=start, height=0.6, color=colour, label=part)
        start = [a + b for a, b in zip(start, values, strict=True)]
    labels = [f"{row.topology}, batch {row.batch:,}" for row, _ in timed]
    axes.set(xlabel="ms a step", yticks=places, yticklabels=labels)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(-0.1, 1))


def _draw_memory(axes: Axes, percents: Sequence[float]) -> None:
    bars = axes.barh(range(len(percents)), percents, height=0.6, color="#56b4e9")
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set(xlabel="memory, % of a chip's HBM", yticks=range(len(percents)), yticklabels=[])
    axes.set_xlim(0, 1.2 * max(percents))


def _draw_scaling(axes: Axes, timed: Timed) -> None:
    """Draws images/s over the chips: a line for each chip and scaling, and the ideal, dotted."""
    for chip, colour in _COLOURS.items():
        for scaling, style in _STYLES.items():
            points = sorted(
                (row.chips, times.images_per_second)
                for row, times in timed
                if row.compiled and row.compiled.chip == chip and scaling in row.scaling
            )
            if not points or (scaling == "strong" and len(points) < 2):
                continue
            chips, rates = zip(*points, strict=True)
            axes.loglog(chips, rates, style, color=colour, label=f"{chip}, {scaling}")
            if scaling == "weak" and len(points) > 1:
                ends = [chips[0], chips[-1]]
                ideal = [rates[0] * n / chips[0] for n in ends]
                axes.loglog(ends, ideal, ":", color=colour, alpha=0.7)
    counts = sorted({row.chips for row, _ in timed})
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set(xlabel="chips", ylabel="images/s (dotted: ideal)")
    axes.legend(frameon=False, fontsize=8)
