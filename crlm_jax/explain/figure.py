"""The picture of an explained lesion."""

import dataclasses
import math

import numpy as np
from matplotlib.figure import Figure

from crlm_jax.config.notices import marks
from crlm_jax.explain.scan import ExplainedLesion, ExplainedScan, Maps
from crlm_jax.imaging import overlay
from crlm_jax.method.attribution import error_text, upsample_stage_map

_GREY, _SIGNED, _POSITIVE = "gray", "RdBu_r", "cividis"  # colour maps, safe for the colour-blind
_OUTLINES = {_GREY: overlay.PREDICTION, _SIGNED: "#000", _POSITIVE: "#fff"}  # by colour map


def draw_lesion(
    explained: ExplainedScan, lesion: ExplainedLesion, stages: dict[int, Maps]
) -> Figure:
    """Draws the slice in which a lesion is longest, with its contour, and the maps beside it."""
    z, prediction = lesion.slice, explained.prediction
    pixel, inside = explained.volume.spacing[1:], prediction.labels[z] == lesion.number
    height, width = inside.shape[0] * pixel[0], inside.shape[1] * pixel[1]
    extent = (0.0, width, height, 0.0)  # mm
    left, top, side = overlay.square_around(inside, pixel, scale=3, least=0.25)
    panels = _panels(explained, lesion, stages)
    rows = math.ceil(len(panels) / 4)
    columns = math.ceil(len(panels) / rows)
    size = (3.8 * columns, rows * (3.2 * height / width + 0.3) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    every = np.ravel(figure.subplots(rows, columns))
    for axes in every:
        axes.set_axis_off()
    for axes, panel in zip(every, panels, strict=False):
        picture = axes.imshow(
            panel.values, extent=extent, cmap=panel.colours, vmin=panel.low, vmax=panel.high
        )
        axes.set_title(panel.title, fontsize=9)
        if panel.colours != _GREY:
            figure.colorbar(picture, ax=axes, shrink=0.8)
        if explained.reference is not None:
            overlay.contour(axes, explained.reference[z], extent, overlay.REFERENCE)
        shown = prediction.mask[z] if panel.colours == _POSITIVE else inside
        overlay.contour(axes, shown, extent, _OUTLINES[panel.colours], "--")
        if panel.lesion_alone:
            axes.set(xlim=(left, left + side), ylim=(top + side, top))
    figure.suptitle(headline(explained, lesion), fontsize=10)
    return figure


@dataclasses.dataclass(frozen=True)
class _Panel:
    title: str
    values: np.ndarray  # of the slice
    colours: str
    low: float | None = None
    high: float | None = None
    lesion_alone: bool = False  # the square around the lesion, not the whole slice


def _panels(
    explained: ExplainedScan, lesion: ExplainedLesion, stages: dict[int, Maps]
) -> list[_Panel]:
    z = lesion.slice
    grey = explained.grey[z]
    panels = [
        _Panel("R    slice    L", grey, _GREY, 0, 255),
        _Panel("lesion", grey, _GREY, 0, 255, lesion_alone=True),
    ]
    for name, by_slice in lesion.maps.items():
        values = by_slice[z]
        most = float(np.abs(values).max()) or 1.0
        title = name.replace("_", " ")
        panels.append(_Panel(f"{title} (logits)", values, _SIGNED, -most, most))
        if name == "integrated_gradients":
            panels.append(
                _Panel(f"{title}, lesion", values, _SIGNED, -most, most, lesion_alone=True)
            )
    random = ", random weights" if explained.segmenter.config.critic.weights == "random" else ""
    for stage, by_slice in stages.items():
        values = upsample_stage_map(by_slice[z], explained.side)
        panels.append(_Panel(f"critic, stage {stage}{random}", values, _POSITIVE))
    return panels


def headline(explained: ExplainedScan, lesion: ExplainedLesion) -> str:
    """Returns the title of a lesion's picture, with the error of its attributions' sum."""
    words = [*marks(explained.segmenter.config), f"lesion {lesion.number}", explained.condition]
    words.append(f"slice {lesion.slice}")
    if scores := lesion.scores:
        errors = (scores.completeness_error, scores.worst_slice_error)
        total, worst = map(error_text, errors)
        words.append(f"completeness error {total} (worst slice: {worst})")
        if not scores.complete:
            words.append("NOT COMPLETE")
    return " · ".join(words)
