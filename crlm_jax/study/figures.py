"""The pictures of a study: subsets of stages, and the same slice under every system."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crlm_jax.imaging import overlay
from crlm_jax.measures.view import READERS, CaseView
from crlm_jax.stats.comparison import Numbers

_ABREAST = 8
# Green and red as in the paper's figure, in shades that colour-blind readers distinguish; the lines
# differ too.
_GREEN, _RED = "#2ee6a8", "#ff5a36"


def upset(means: Mapping[frozenset[int], Numbers], mark: str = "") -> Figure:
    """Draws the DSC of subsets of stages, best first, above dots that show the stages of each.

    Args:
      means: by subset, with an interval or without.
      mark: above the picture.
    """
    defined = {s: mean for s, value in means.items() if (mean := value["mean"]) is not None}
    ranked = sorted(defined, key=lambda subset: -defined[subset])
    stages = sorted({stage for subset in ranked for stage in subset})
    size = (1.5 + 0.5 * len(ranked), 3.2 + 0.3 * len(stages))
    figure = Figure(figsize=size, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, max(1, len(stages) * 0.3)))
    for place, subset in enumerate(ranked):
        mean, value = defined[subset], means[subset]
        low = mean if value["ci_low"] is None else value["ci_low"]
        high = mean if value["ci_high"] is None else value["ci_high"]
        above.plot([place, place], [low, high], color="#0072b2")
        above.plot(place, mean, "o", color="#0072b2" if subset else "#d55e00")
        for row, stage in enumerate(stages):
            colour = "black" if stage in subset else "#d4d4d8"
            below.plot(place, row, "o", color=colour, markersize=8)
    above.set(ylabel="DSC (95 % CI)")
    above.grid(axis="y", alpha=0.25)
    above.spines[["top", "right"]].set_visible(False)
    below.set_yticks(range(len(stages)), [f"stage {stage}" for stage in stages])
    below.set(ylim=(len(stages) - 0.5, -0.5), xticks=[])
    below.spines[:].set_visible(False)
    figure.suptitle(f"{mark} · constrained stages; none: orange".strip(" ·"), fontsize=10)
    return figure


def contours(
    shown: Mapping[tuple[str, str], Sequence[tuple[str, CaseView]]], mark: str = ""
) -> Figure:
    """Draws the same slice under every system, with both outlines, one row a condition.

    Args:
      shown: by experiment and condition, the systems with their view of the same case. A line has
        at most eight systems.
      mark: above the picture.
    """
    lines = [
        (experiment, cases, cases[start : start + _ABREAST])
        for (experiment, _), cases in shown.items()
        for start in range(0, len(cases), _ABREAST)
    ]
    columns = max(len(part) for _, _, part in lines)
    figure = Figure(figsize=(2.1 * columns + 0.4, 2.35 * len(lines) + 0.4), facecolor="#111")
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for row, (experiment, cases, part) in zip(grid, lines, strict=True):
        for axes in row:
            axes.set_axis_off()
        view = cases[0][1]
        square = _square_around_all([case for _, case in cases], view.first_slice)
        for axes, (system, own) in zip(row, part, strict=False):
            _draw_case(axes, own, view.first_slice, square)
            axes.set_title(system, color="w", fontsize=9, pad=3)
        label = f"{experiment}\n{view.title}, slice {view.first_slice + 1}"
        row[0].text(-0.03, 0.5, label, color="w", fontsize=6.5, rotation=90, va="center",
                    ha="right", transform=row[0].transAxes)  # fmt: skip
    title = f"{mark} · the median case of {lines[0][1][0][0]} · reference green, prediction red"
    figure.suptitle(title.strip(" ·"), color="w", fontsize=9, y=0.995, va="top")
    height = figure.get_figheight()
    left, top = 0.4 / figure.get_figwidth(), 1 - 0.45 / height
    figure.subplots_adjust(left, 0.05 / height, 0.995, top, wspace=0.03, hspace=0.12)
    return figure


def _square_around_all(views: Sequence[CaseView], z: int) -> overlay.Square:
    """Returns the square that holds the outlines of all views in a slice."""
    layers = [layer.voxels[z] for view in views for layer in view.layers if layer.kind in READERS]
    pixel = views[0].spacing[1:]
    return overlay.square_around(np.any(layers, axis=0), pixel, scale=1.3, least=0.5)


def _draw_case(axes: Axes, view: CaseView, z: int, square: overlay.Square) -> None:
    height, width = (
        n * size for n, size in zip(view.grey.shape[1:], view.spacing[1:], strict=True)
    )
    extent = (0.0, width, height, 0.0)
    axes.imshow(view.grey[z], cmap="gray", vmin=0, vmax=255, extent=extent)
    for layer in view.layers:
        if layer.kind == "reference":
            overlay.contour(axes, layer.voxels[z], extent, _GREEN)
        elif layer.kind == "prediction":
            overlay.contour(axes, layer.voxels[z], extent, _RED, "--")
    left, top, side = square
    axes.set(xlim=(left, left + side), ylim=(top + side, top))


def differences(shown: Mapping[str, tuple[Sequence[float], Numbers]], mark: str = "") -> Figure:
    """Draws the difference of each system from the reference, a dot a run, with its interval.

    Args:
      shown: by system, the runs' mean differences in DSC, and that of all with its interval, from
        `stats.crossed_difference`.
      mark: above the picture.
    """
    figure = Figure(figsize=(6.0, 1.2 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for row, (runs, value) in enumerate(shown.values()):
        axes.plot(runs, [row] * len(runs), "o", color="#b4b4bb", markersize=5)
        if value["ci_low"] is not None and value["ci_high"] is not None:
            axes.plot([value["ci_low"], value["ci_high"]], [row, row], color="#0072b2")
        if value["mean"] is not None:
            axes.plot(value["mean"], row, "D", color="#0072b2", markersize=5)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel="difference in DSC, clinical protocol (95 % CI)")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{mark} · a grey dot a run".strip(" ·"), fontsize=10)
    return figure
