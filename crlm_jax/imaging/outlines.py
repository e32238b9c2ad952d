"""Traces the outlines of a mask as polygons: the way back from `polygons.fill_polygons`.

An outline runs halfway between the pixels inside and those outside, so that whoever counts the
pixels whose centres it encloses gets the mask back. A hole is cut out by the keyhole technique
(PS3.3 C.8.8.6.3): the outline goes along a line of no width from its outer edge to the hole, round
the hole, and back. So one polygon is enough for a part with holes, and means the same to a program
that joins the polygons of a slice and to one that takes a polygon within another for a hole.
"""

import itertools
from typing import cast

import contourpy
import numpy as np

# Of each part its lines, one after the other (N, 2), and where each begins.
_Filled = tuple[list[np.ndarray], list[np.ndarray]]


def trace_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Traces the parts of a mask (H, W) bool.

    Returns:
      A closed polygon for each part, corners (N, 2) as (x, y), the first of which is not repeated;
      whole numbers are the centres of pixels. Pixels that only share a corner may be two parts.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    corner = np.array([columns[0], rows[0]]) - 1.0
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    generator = contourpy.contour_generator(
        z=np.pad(box, 1).astype(float), name="serial", fill_type="OuterOffset"
    )
    parts, offsets = cast(_Filled, generator.filled(0.5, 2.0))
    outlines = []
    for points, ends in zip(parts, offsets, strict=True):
        # contourpy repeats the first corner of each line.
        rings = [points[a : b - 1] for a, b in itertools.pairwise(ends)]
        outlines.append(_drop_straight(_cut_holes(rings, box)) + corner)
    return outlines


def _cut_holes(rings: list[np.ndarray], box: np.ndarray) -> np.ndarray:
    """Joins an outer line and the holes in it, (N, 2) in the padded box, to one polygon.

    The line to a hole begins at the hole's leftmost corner and goes left along the centres of
    pixels inside, to the first corner of another line, which is joined already.
    """
    outline, *holes = rings
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        start = int(hole[:, 0].argmin())
        x, y = hole[start]
        row = box[round(y) - 1, : round(x - 0.5)]  # from the edge to the pixel left of the hole
        outside = np.flatnonzero(~row)
        there = (outside[-1] + 1 if len(outside) else 0) + 0.5, y
        at = int(np.flatnonzero((outline == there).all(axis=1))[0])
        around = np.roll(hole, -start, axis=0)
        outline = np.concatenate([outline[: at + 1], around, around[:1], outline[at:]])
    return outline


def _drop_straight(outline: np.ndarray) -> np.ndarray:
    """Leaves out corners (N, 2) at which a line goes straight on."""
    before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    ahead = (before * after).sum(axis=1)
    kept: np.ndarray = outline[(turn != 0) | (ahead <= 0)]
    return kept
