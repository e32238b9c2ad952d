"""Contours of masks on slices, as pictures."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's sky blue and orange: the colour-blind tell them apart, and both show on grey.
REFERENCE, PREDICTION = "#56b4e9", "#e69f00"


def contour(axes: Axes, mask: np.ndarray, extent: tuple, colour: str, style: str = "-") -> None:
    """Outlines a mask; the border of zeros closes contours at the edge of the slice.

    Args:
      axes: to draw on.
      mask: (H, W) bool.
      extent: left, right, bottom and top of the slice in mm.
      colour: of the line.
      style: of the line.
    """
    if mask.any():
        left, right, bottom, top = extent
        rows, columns = mask.shape
        y = (np.arange(-1, rows + 1) + 0.5) * (bottom - top) / rows
        x = (np.arange(-1, columns + 1) + 0.5) * (right - left) / columns
        axes.contour(
            x, y, np.pad(mask, 1), levels=[0.5], colors=colour, linewidths=1.5, linestyles=style
        )


def draw_slice(
    image: np.ndarray, mask: np.ndarray, pixel: tuple[float, float], title: str
) -> Figure:
    """Draws one axial slice with the outline of its mask, as a radiologist looks at it.

    Args:
      image: (H, W) uint8, from front to back and from the patient's right to left.
      mask: (H, W) bool.
      pixel: height and width of a pixel in mm.
      title: above the picture.
    """
    height, width = image.shape[0] * pixel[0], image.shape[1] * pixel[1]
    figure = Figure(figsize=(6, 6 * height / width + 0.4), layout="constrained", facecolor="#111")
    axes = figure.subplots()
    extent = (0, width, height, 0)  # mm
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent)
    axes.set_axis_off()
    contour(axes, mask, extent, PREDICTION)
    for side, x, where in (("R", 0.02, "left"), ("L", 0.98, "right")):
        axes.text(x, 0.5, side, transform=axes.transAxes, color="w", ha=where, va="center")
    figure.suptitle(title, color="w", fontsize=10)
    return figure


def to_png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()
