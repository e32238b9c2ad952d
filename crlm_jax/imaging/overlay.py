"""Pictures of slices: contours of masks, the square around a lesion, PNG files."""

import io
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's sky blue and orange, which colour-blind readers distinguish, and grey shows both.
REFERENCE, PREDICTION = "#56b4e9", "#e69f00"

Extent = tuple[float, float, float, float]  # left, right, bottom and top of a slice in mm


class Square(NamedTuple):
    """A square part of a slice, in mm from the slice's top left corner."""

    left: float
    top: float
    side: float


def square_around(
    mask: np.ndarray,
    pixel: tuple[float, float],
    *,
    scale: float = 1.0,
    margin: float = 0.0,
    least: float,
) -> Square:
    """Returns the square to magnify around a mask; it never leaves the slice.

    The square is centred on the mask's bounding box and then moved into the slice. Its side is
    max(`scale` · box + `margin` · slice, `least` · slice), at most the shorter side of the slice;
    box and slice stand for their longer sides.

    Args:
      mask: (H, W) bool; an empty mask counts as the whole slice.
      pixel: height and width of a pixel in mm.
      scale: of the bounding box.
      margin: on both sides together, as a share of the slice.
      least: side, as a share of the slice.
    """
    size = np.array(mask.shape) * pixel
    places = np.argwhere(mask if mask.any() else ~mask)
    low, high = places.min(axis=0) * pixel, (places.max(axis=0) + 1) * pixel
    side = max(scale * (high - low).max() + margin * size.max(), least * size.max())
    side = min(side, size.min())
    top, left = np.clip((low + high - side) / 2, 0, size - side)
    return Square(float(left), float(top), float(side))


def contour(axes: Axes, mask: np.ndarray, extent: Extent, colour: str, style: str = "-") -> None:
    """Outlines a mask; nothing is drawn for an empty mask.

    Args:
      axes: to draw on.
      mask: (H, W) bool.
      extent: of the slice.
      colour: of the line.
      style: of the line.
    """
    if mask.any():
        left, right, bottom, top = extent
        rows, columns = mask.shape
        y = (np.arange(-1, rows + 1) + 0.5) * (bottom - top) / rows
        x = (np.arange(-1, columns + 1) + 0.5) * (right - left) / columns
        padded = np.pad(mask, 1)  # closes the contours of a mask that reaches the slice's edge
        axes.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=1.5, linestyles=style)


def draw_slice(
    image: np.ndarray, mask: np.ndarray, pixel: tuple[float, float], title: str
) -> Figure:
    """Draws one axial slice with the outline of its mask, in the radiological view.

    Args:
      image: (H, W) uint8, from front to back and from the patient's right to left.
      mask: (H, W) bool.
      pixel: height and width of a pixel in mm.
      title: above the picture.
    """
    height, width = image.shape[0] * pixel[0], image.shape[1] * pixel[1]
    figure = Figure(figsize=(6, 6 * height / width + 0.4), layout="constrained", facecolor="#111")
    axes = figure.subplots()
    extent = (0.0, width, height, 0.0)
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
