"""The picture of an explained lesion."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crlm_jax.config.notices import marks
from crlm_jax.explain.scan import ExplainedScan, Maps
from crlm_jax.imaging import overlay
from crlm_jax.method.attribution import upsample_stage_map

_SIGNED, _POSITIVE = "RdBu_r", "cividis"  # told apart by the colour-blind too


def _frame(inside: np.ndarray, pixel: np.ndarray, least: float = 0.25) -> tuple[np.ndarray, float]:
    """Top left corner and side in mm of a square with a lesion in its middle third, or so."""
    size, places = inside.shape * pixel, np.argwhere(inside) * pixel
    low, high = places.min(axis=0), places.max(axis=0) + pixel
    side = min(max(3 * (high - low).max(), least * size.max()), size.min())
    return np.clip((low + high - side) / 2, 0, size - side), side


def draw_lesion(
    task: ExplainedScan, numbers: dict[str, Any], maps: dict[str, Maps], stages: dict[int, Maps]
) -> Figure:
    """Draws the slice in which a lesion is longest, with its contour, and the maps beside it."""
    z, number = numbers["slice"], numbers["lesion"]
    pixel, inside = np.array(task.volume.spacing[1:]), task.prediction.labels[z] == number
    height, width = inside.shape * pixel
    extent, ((top, left), side) = (0, width, height, 0), _frame(inside, pixel)  # mm
    panels = _panels(task, z, maps, stages)
    rows = math.ceil(len(panels) / 4)
    columns = math.ceil(len(panels) / rows)
    size = (3.8 * columns, rows * (3.2 * height / width + 0.3) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    every = np.ravel(figure.subplots(rows, columns))
    for axes in every:
        axes.set_axis_off()
    for axes, (title, values, colours, near) in zip(every, panels, strict=False):
        picture = axes.imshow(values, extent=extent, **colours)
        axes.set_title(title, fontsize=9)
        if colours["cmap"] != "gray":
            figure.colorbar(picture, ax=axes, shrink=0.8)
        if task.reference is not None:
            overlay.contour(axes, task.reference[z], extent, overlay.REFERENCE)
        shown = task.prediction.mask[z] if colours["cmap"] == _POSITIVE else inside
        colour = {_SIGNED: "#000", _POSITIVE: "#fff"}.get(colours["cmap"], overlay.PREDICTION)
        overlay.contour(axes, shown, extent, colour, "--")
        if near:
            axes.set(xlim=(left, left + side), ylim=(top + side, top))
    figure.suptitle(headline(task, numbers), fontsize=10)
    return figure


def _panels(
    task: ExplainedScan, z: int, maps: dict[str, Maps], stages: dict[int, Maps]
) -> list[tuple[str, np.ndarray, dict[str, Any], bool]]:
    """Lists title, picture, colours, and whether the lesion alone is shown, of what is drawn."""
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255}
    panels = [("R    slice    L", task.grey[z], grey, False), ("lesion", task.grey[z], grey, True)]
    for name, by_slice in maps.items():
        most = np.abs(by_slice[z]).max() or 1.0
        colours = {"cmap": _SIGNED, "vmin": -most, "vmax": most}
        title = f"{name.replace('_', ' ')} (logits)"
        panels.append((title, by_slice[z], colours, False))
        if name == "integrated_gradients":
            panels.append(("the same, lesion", by_slice[z], colours, True))
    random = ", random weights" if task.segmenter.config.critic.weights == "random" else ""
    for stage, by_slice in stages.items():
        values = upsample_stage_map(by_slice[z], task.slices.shape[1])
        panels.append((f"critic, stage {stage}{random}", values, {"cmap": _POSITIVE}, False))
    return panels


def headline(task: ExplainedScan, numbers: dict[str, Any]) -> str:
    """Says what a lesion's picture shows, and whether its attributions add up."""
    words = [*marks(task.segmenter.config), f"lesion {numbers['lesion']}", task.condition]
    words.append(f"slice {numbers['slice']}")
    if "complete" in numbers:
        errors = (numbers["completeness_error"], numbers["worst_slice_error"])
        said, worst = ("infinite" if e is None else f"{100 * e:.2g} %" for e in errors)
        words.append(f"completeness error {said} (worst slice: {worst})")
        if not numbers["complete"]:
            words.append("NOT COMPLETE")
    return " · ".join(words)
