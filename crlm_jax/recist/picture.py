"""The picture to judge a registration by: both scans, before and after, with their lesions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from crlm_jax.imaging.overlay import PREDICTION, REFERENCE, contour, to_png
from crlm_jax.recist.alignment import Rigid
from crlm_jax.recist.matching import Body
from crlm_jax.recist.prepared import PreparedImage
from crlm_jax.recist.registration import Registration
from crlm_jax.system.files import write_whole

PIXEL = 1.5  # mm
FIELD = 18  # pixels, the side of a field of the chequerboard
COLUMNS = ("baseline", "follow-up, by its header", "follow-up, registered", "both, in turn")
_STAY = Rigid(np.eye(3), np.zeros(3))


class Aligned(NamedTuple):
    """A follow-up and its registration."""

    image: PreparedImage
    bodies: Sequence[Body]  # its lesions, in its own coordinates
    registration: Registration


def draw_registrations(
    baseline: PreparedImage, bodies: Sequence[Body], follow_ups: Sequence[Aligned]
) -> Figure:
    """Draws an axial and a coronal plane of every follow-up, beside those of the baseline.

    The planes lie through the largest lesion of the baseline; without one through that of the
    follow-up, or through the middle of the body. Blue and solid: lesions of the baseline. Orange
    and dashed: those of the follow-up.
    """
    figure = Figure(figsize=(13, 6.5 * len(follow_ups)), layout="constrained", facecolor="#111")
    parts = figure.subfigures(len(follow_ups), squeeze=False)[:, 0]
    for number, (part, each) in enumerate(zip(parts, follow_ups, strict=True), start=1):
        centre = _centre(baseline, bodies, each)
        planes = [_Plane(baseline, centre, down=1), _Plane(baseline, centre, down=2)]
        heights = [plane.size[plane.down] for plane in planes]
        grid = part.subplots(2, len(COLUMNS), height_ratios=heights)
        for axes, plane in zip(grid, planes, strict=True):
            _draw_row(axes, plane, baseline, bodies, each)
        for axes, name in zip(grid[0], COLUMNS, strict=True):
            axes.set_title(name, color="w", fontsize=9)
        part.set_facecolor("#111")
        colour = "#ff8080" if each.registration.doubts else "w"
        part.suptitle(_title(number, each.registration), color=colour, fontsize=10)
    return figure


def write_registrations(
    path: Path, baseline: PreparedImage, bodies: Sequence[Body], follow_ups: Sequence[Aligned]
) -> None:
    """Writes the picture of `draw_registrations` as PNG."""
    write_whole(path, to_png(draw_registrations(baseline, bodies, follow_ups)))


def _title(number: int, found: Registration) -> str:
    text = (
        f"follow-up {number}: shift {found.shift:.1f} mm, rotation {found.rotation:.1f}°, "
        f"similarity {found.similarity_before:.2f} → {found.similarity_after:.2f}"
    )
    return text + "".join(f"\nDOUBTFUL: {doubt}" for doubt in found.doubts)


def _centre(baseline: PreparedImage, bodies: Sequence[Body], after: Aligned) -> np.ndarray:
    """Returns the point (3,) in the baseline's coordinates that both planes pass through."""
    if bodies:
        return max(bodies, key=lambda body: body.volume).points.mean(axis=0)
    if after.bodies:
        largest = max(after.bodies, key=lambda body: body.volume)
        return after.registration.motion(largest.points).mean(axis=0)
    return baseline.centre


class _Plane:
    """A plane of the baseline's frame: columns run to the left, rows to the back or to the feet."""

    def __init__(self, image: PreparedImage, centre: np.ndarray, *, down: int) -> None:
        """Cuts the box around the body; `down` is the patient's axis that the rows follow: 1 or 2.

        `centre` (3,) is a point of the plane, in mm.
        """
        places = image.to_patient(np.argwhere(image.body))
        low, high = places.min(axis=0), places.max(axis=0)
        across = 3 - down
        self.centre, self.down, self.across = centre, down, across
        self.low = low
        self.size = np.maximum(np.ceil((high - low) / PIXEL).astype(int), 2)
        self.size[across] = 1
        self.low[across] = centre[across]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top in mm."""
        width, height = self.size[0] * PIXEL, self.size[self.down] * PIXEL
        return 0.0, float(width), float(height), 0.0

    def show(self, image: PreparedImage, motion: Rigid) -> tuple[np.ndarray, np.ndarray]:
        """Returns an image's grey (rows, columns) and where it has any; `motion` leads to it."""
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(motion.turn.ravel().tolist())
        transform.SetTranslation(motion.shift.tolist())
        grey = sitk.Resample(
            image.fine, self.size.tolist(), transform, sitk.sitkLinear, self.low.tolist(),
            [PIXEL] * 3, np.eye(3).ravel().tolist(), -1.0, sitk.sitkFloat32,
        )  # fmt: skip
        plane = self._upright(sitk.GetArrayFromImage(grey))
        return np.maximum(plane, 0), plane >= 0

    def outline(
        self, bodies: Sequence[Body], motion: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Returns where moved lesions lie in the plane, bool (rows, columns)."""
        mask = np.zeros(self.size[::-1], bool)
        for body in bodies:
            points = motion(body.points)
            points = points[np.abs(points - self.centre)[:, self.across] <= PIXEL]
            places = np.rint((points - self.low) / PIXEL).astype(int)[:, ::-1]
            places[:, 2 - self.across] = 0
            places = places[((places >= 0) & (places < mask.shape)).all(axis=1)]
            mask[tuple(places.T)] = True
        return ndimage.binary_closing(np.pad(self._upright(mask), 2))[2:-2, 2:-2]

    def _upright(self, array: np.ndarray) -> np.ndarray:
        """Takes the plane out of an array (z, y, x); the head is at the top."""
        plane = array.squeeze(axis=2 - self.across)
        return plane if self.down == 1 else plane[::-1]


def _draw_row(
    axes: np.ndarray, plane: _Plane, baseline: PreparedImage, bodies: Sequence[Body], after: Aligned
) -> None:
    back = after.registration.motion
    first, _ = plane.show(baseline, _STAY)
    headed, shown = plane.show(after.image, _STAY)
    moved, there = plane.show(after.image, back.inverse)
    rows, columns = np.indices(first.shape) // FIELD
    mixed = np.where(((rows + columns) % 2 == 0) | ~there, first, moved)
    own = plane.outline(bodies, _STAY)
    panels = (
        (first, None),
        (headed, plane.outline(after.bodies, _STAY)),
        (moved, plane.outline(after.bodies, back)),
        (mixed, plane.outline(after.bodies, back)),
    )
    for place, (grey, others) in enumerate(panels):
        _draw(axes[place], grey, plane.extent)
        contour(axes[place], own, plane.extent, REFERENCE)
        if others is not None:
            contour(axes[place], others, plane.extent, PREDICTION, "--")
    if not shown.any():
        axes[1].text(
            0.5,
            0.1,
            "not in the baseline's view",
            transform=axes[1].transAxes,
            color="w",
            ha="center",
        )


def _draw(axes: Axes, grey: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    bright = grey[grey > 0.02]
    low, high = np.percentile(bright, (20, 99.5)) if len(bright) else (0.0, 1.0)
    low = max(low - 0.5 * (high - low), 0.0)
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high if high > low else low + 1, extent=extent)
    axes.set_axis_off()
    for side, x, where in (("R", 0.02, "left"), ("L", 0.98, "right")):
        axes.text(x, 0.5, side, transform=axes.transAxes, color="w", ha=where, va="center")
