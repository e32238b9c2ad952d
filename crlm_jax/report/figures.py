"""The figures of a report, as matplotlib draws them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from crlm_jax.config.selection import LABELS
from crlm_jax.imaging import overlay
from crlm_jax.measures.calibration import BINS
from crlm_jax.measures.froc import FrocPoint
from crlm_jax.measures.table import BY_NAME
from crlm_jax.measures.view import CaseView
from crlm_jax.runs.rows import CaseRow

_TERMS = {  # of `train.jsonl`
    "loss": "total loss",
    "bce": "BCE",
    "dice": "Dice loss",
    "feature": "feature distance",
}
_SHOWN = ("dsc_paper", "dsc", "nsd_2mm", "hd95")  # in the picture of distributions
# Okabe and Ito's colours; more groups begin again with the first.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _mark(figure: Figure, mark: str) -> None:
    if mark:
        figure.suptitle(mark, color="#b45309")


def training(log: Sequence[Mapping[str, Any]], mark: str = "") -> Figure:
    """Draws the terms of the loss and the validation DSC over the steps."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, style, names in ((left, "-", _TERMS), (right, ".-", LABELS)):
        for name, label in names.items():
            points = np.array([(line["step"], line[name]) for line in log if name in line])
            if len(points):
                axes.plot(*points.T, style, label=label)
    left.set(xlabel="step", title="loss and its terms", yscale="log")
    if left.lines:
        left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=4, fontsize=9)
    if right.lines:
        right.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=9)
    else:
        right.text(0.5, 0.5, "no validation patient with a tumour slice", ha="center", va="center")
        right.set_xticks([])
    right.set(xlabel="step", title="mean DSC of the validation patients", ylim=(0, 1))
    _mark(figure, mark)
    for axes in (left, right):
        _plain(axes)
    return figure


def distributions(groups: Mapping[str, Sequence[CaseRow]], mark: str = "") -> Figure:
    """Draws every case's measures: a dot a case, a box from quartile to quartile with the median.

    Args:
      groups: test cases by the label below them, such as a condition.
      mark: above the picture.
    """
    names = list(groups)
    figure = Figure(figsize=(9.5, 3.2 + 0.16 * max(map(len, names))), layout="constrained")
    rng = np.random.default_rng(0)
    measures = [BY_NAME[name] for name in _SHOWN]
    for axes, measure in zip(figure.subplots(1, len(measures)), measures, strict=True):
        for place, name in enumerate(names):
            found = (row.measures.get(measure.name) for row in groups[name])
            values = np.array([value for value in found if value is not None], float)
            colour = _COLOURS[place % len(_COLOURS)]
            spread = rng.uniform(-0.18, 0.18, len(values))
            axes.plot(place + spread, values, "o", color=colour, alpha=0.55, markersize=4)
            if len(values):
                axes.boxplot(
                    values, positions=[place], widths=0.55, showfliers=False,
                    medianprops={"color": "black"}, manage_ticks=False,
                )  # fmt: skip
        axes.set_title(measure.title, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_xlim(-0.6, len(names) - 0.4)
        if measure.share:
            axes.set_ylim(-0.03, 1.03)
        _plain(axes)
    _mark(figure, mark)
    return figure


def bland_altman(agreement: Mapping[str, Mapping[str, Any]], mark: str = "") -> Figure:
    """Draws model − reference over their mean, with the bias and the limits of agreement.

    Args:
      agreement: of one condition (`ConditionSummary.agreement`).
      mark: above the picture.
    """
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    scales = {"sum_of_diameters": ("sum of diameters", "mm", 1), "volume": ("volume", "cm³", 1e-3)}
    for axes, (name, (label, unit, scale)) in zip(
        figure.subplots(1, 2), scales.items(), strict=True
    ):
        found = agreement[name]
        prediction, reference = (
            np.array(found[who], float) * scale for who in ("prediction", "reference")
        )
        axes.plot((prediction + reference) / 2, prediction - reference, "o", color=_COLOURS[0])
        for key, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
            if found[key] is not None:
                axes.axhline(found[key] * scale, linestyle=style, color="black", linewidth=1)
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.set(
            xlabel=f"mean of model and reference ({unit})",
            ylabel=f"model − reference ({unit})",
            title=label,
        )
        _plain(axes)
    _mark(figure, mark)
    return figure


def probability(
    curve: tuple[np.ndarray, np.ndarray, np.ndarray],
    points: Sequence[FrocPoint],
    threshold: float | None,
    mark: str = "",
) -> Figure:
    """Draws whether the probability holds, and lesions found over false positives.

    Args:
      curve: mean probability, share of tumour and voxels by bin (`Reliability.curve`).
      points: of the free-response curve, from the lowest threshold on.
      threshold: of the run, whose point is ringed; None: no single one.
      mark: above the picture.
    """
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
    reliability = figure.add_subplot(grid[0, 0])
    counts = figure.add_subplot(grid[1, 0], sharex=reliability)
    _draw_reliability(reliability, counts, *curve)
    _draw_froc(figure.add_subplot(grid[:, 1]), points, threshold)
    _mark(figure, mark)
    return figure


def _draw_reliability(
    axes: Axes, counts: Axes, mean: np.ndarray, share: np.ndarray, voxels: np.ndarray
) -> None:
    axes.plot((0, 1), (0, 1), "--", color="grey", linewidth=1)
    axes.plot(mean, share, "o-", color=_COLOURS[0], markersize=4)
    axes.set(ylabel="share that is tumour", title="reliability", xlim=(0, 1), ylim=(-0.03, 1.03))
    axes.tick_params(labelbottom=False)
    middle = (np.ceil(mean * BINS).clip(1) - 0.5) / BINS
    counts.bar(middle, voxels, width=0.9 / BINS, color=_COLOURS[0])
    counts.set(xlabel="mean probability of the bin", ylabel="voxels", yscale="log")
    for each in (axes, counts):
        _plain(each)


def _draw_froc(axes: Axes, points: Sequence[FrocPoint], threshold: float | None) -> None:
    known = [
        (p.false_positives, p.sensitivity, p.threshold) for p in points if p.sensitivity is not None
    ]
    axes.set(
        xlabel="false positives a case", ylabel="lesions found", title="FROC", ylim=(-0.03, 1.03)
    )
    if known:
        x, y, at = map(np.array, zip(*known, strict=True))
        axes.plot(x, y, "o-", color=_COLOURS[1], markersize=4)
        limit = max(1.0, 1.2 * x.max())
        axes.set_xscale("symlog", linthresh=1)
        # Doubled, as FROC curves are read; the scale's own ticks are powers of ten.
        axes.set_xticks([0, 0.5, *(2**i for i in range(int(np.log2(limit)) + 1))])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0, limit)
        # Thresholds in the table have six decimals.
        own = [] if threshold is None else np.flatnonzero(np.abs(at - threshold) < 1e-6).tolist()
        axes.plot(x[own], y[own], "o", markersize=11, markerfacecolor="none", color="black")
        for i in sorted({0, *own, len(at) - 1}):
            axes.annotate(
                f"{at[i]:g}", (x[i], y[i]), xytext=(8, 6), textcoords="offset points", fontsize=8
            )
    else:
        axes.text(0.5, 0.5, "no lesion in the reference", ha="center", va="center")
    _plain(axes)


def key_slice(view: CaseView, title: str) -> Figure:
    """Draws a case's key slice: whole and plain, then magnified with both contours."""
    z = view.first_slice
    masks = {layer.kind: layer.voxels[z] for layer in view.layers}
    image, pixel = view.grey[z], view.spacing[1:]
    height, width = image.shape[0] * pixel[0], image.shape[1] * pixel[1]
    figure = Figure(figsize=(8, 4 * height / width + 0.75), layout="constrained", facecolor="#111")
    plain, magnified = figure.subplots(1, 2)
    extent = (0, width, height, 0)  # mm
    for axes in (plain, magnified):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent)
        axes.set_axis_off()
    both = masks["reference"] | masks["prediction"]
    left, top, side = overlay.square_around(both, pixel, margin=0.3, least=0.4)
    plain.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="#a1a1aa", lw=0.8))
    magnified.set(xlim=(left, left + side), ylim=(top + side, top))
    overlay.contour(magnified, masks["reference"], extent, overlay.REFERENCE, "-")
    overlay.contour(magnified, masks["prediction"], extent, overlay.PREDICTION, "--")
    lines = [
        Line2D([], [], color=overlay.REFERENCE, label="reference"),
        Line2D([], [], color=overlay.PREDICTION, linestyle="--", label="prediction"),
    ]
    magnified.legend(handles=lines, loc="lower right", fontsize=8, facecolor="#111", labelcolor="w")
    figure.suptitle(title, color="w", fontsize=10)
    return figure
