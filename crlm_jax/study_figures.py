"""The pictures of a study: subsets of stages, and the same slice under every system."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crlm_jax import overlay
from crlm_jax.viewer import CaseView


def upset(means: Mapping[frozenset[int], Mapping[str, Any]], mark: str = "") -> Figure:
    """Draws the DSC of subsets of stages, best first, over the dots that say which stages they are.

    Args:
      means: from `stats.bootstrap_mean`, by subset.
      mark: above the picture.
    """
    ranked = sorted((s for s in means if means[s]["mean"] is not None),
                    key=lambda s: -means[s]["mean"])  # fmt: skip
    stages = sorted({stage for subset in ranked for stage in subset})
    size = (1.5 + 0.5 * len(ranked), 3.2 + 0.3 * len(stages))
    figure = Figure(figsize=size, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, max(1, len(stages) * 0.3)))
    for place, subset in enumerate(ranked):
        value = means[subset]
        low = value["mean"] if value["ci_low"] is None else value["ci_low"]
        high = value["mean"] if value["ci_high"] is None else value["ci_high"]
        above.plot([place, place], [low, high], color="#0072b2")
        above.plot(place, value["mean"], "o", color="#0072b2" if subset else "#d55e00")
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


def contours(shown: Sequence[tuple[str, CaseView]], mark: str = "") -> Figure:
    """Draws the same slice under every system, with both outlines."""
    view = shown[0][1]
    z, pixel = view.first_slice, view.spacing[1:]
    height, width = view.grey.shape[1] * pixel[0], view.grey.shape[2] * pixel[1]
    columns = min(len(shown), 6)
    rows = math.ceil(len(shown) / columns)
    size = (2.4 * columns, rows * (2.4 * height / width + 0.25) + 0.5)
    figure = Figure(figsize=size, layout="constrained", facecolor="#111")
    every = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in every:
        axes.set_axis_off()
    extent = (0, width, height, 0)
    for axes, (system, own) in zip(every, shown, strict=False):
        axes.imshow(own.grey[z], cmap="gray", vmin=0, vmax=255, extent=extent)
        for layer in own.layers:
            if layer.kind == "reference":
                overlay.contour(axes, layer.voxels[z], extent, overlay.REFERENCE)
            elif layer.kind == "prediction":
                overlay.contour(axes, layer.voxels[z], extent, overlay.PREDICTION, "--")
        axes.set_title(system, color="w", fontsize=9)
    title = " · ".join(filter(None, (mark, view.title, f"slice {z + 1} of {len(view.grey)}")))
    figure.suptitle(f"{title} · reference blue, prediction orange", color="w", fontsize=9)
    return figure
