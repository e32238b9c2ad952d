"""Fills polygons on a grid of pixels.

A pixel counts if its centre lies inside a polygon or on its line. So a contour that was traced
through the centres of a mask's outer pixels gives the same mask back, and one that was traced along
their edges too.
"""

from collections.abc import Sequence

import numpy as np

_DOUBLE = 0.2  # of an outline's area: what is left around its double
ON_LINE = 0.01  # pixels: how far a centre may lie off the line; files round to 0.01 mm or so


def fill_polygons(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Returns the pixels (H, W) bool of polygons in one plane.

    A polygon within another is a hole of it, one within that hole is an island, and so on. Polygons
    that cross are joined. A polygon that is there twice counts once.

    Args:
      polygons: corners (N, 2) as (x, y); whole numbers are the centres of pixels.
      shape: (H, W); what lies outside is left out.
    """
    lines = np.zeros(shape, bool)
    areas: list[np.ndarray] = []
    for corners in _distinct(polygons):
        inside, line = _fill(corners, shape)
        lines |= line
        while (crossed := _crossing(areas, inside)) is not None:
            inside = inside | areas.pop(crossed)
        areas.append(inside)
    whole = np.zeros(shape, bool)
    for area in areas:
        whole ^= area
    return whole | lines


def drop_doubles(
    polygons: Sequence[np.ndarray], shape: tuple[int, int]
) -> tuple[list[np.ndarray], int]:
    """Leaves out polygons that are there twice, the second time slightly smaller.

    Such a polygon would be a hole, and what is left a ring thinner than a pixel on average.

    Args:
      polygons: as for `fill_polygons`.
      shape: (H, W).

    Returns:
      The polygons, and how many are left out; those that are there twice exactly do not count.
    """
    found = sorted(_distinct(polygons), key=_area, reverse=True)
    kept: list[np.ndarray] = []
    for inner in found:
        if not any(_is_double(outer, inner, shape) for outer in kept):
            kept.append(inner)
    return kept, len(found) - len(kept)


def _is_double(outer: np.ndarray, inner: np.ndarray, shape: tuple[int, int]) -> bool:
    ring, whole = _area(outer) - _area(inner), _area(outer)
    around = np.linalg.norm(outer - np.roll(outer, 1, axis=0), axis=1).sum()
    if not whole or ring > _DOUBLE * whole or ring > around:
        return False
    first, second = (np.logical_or(*_fill(corners, shape)) for corners in (outer, inner))
    return not (second & ~first).any() and bool(second.any())


def _area(corners: np.ndarray) -> float:
    """Returns the area of a polygon (N, 2)."""
    x, y = (corners - corners[:1]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _distinct(polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Leaves out polygons that are there twice, whichever corner they begin with."""
    seen: dict[bytes, np.ndarray] = {}
    for corners in polygons:
        rounded = np.round(np.asarray(corners, float) / ON_LINE).astype(np.int64)
        key = rounded[np.lexsort(rounded.T)].tobytes()
        seen.setdefault(key, np.asarray(corners, float))
    return list(seen.values())


def _crossing(areas: Sequence[np.ndarray], area: np.ndarray) -> int | None:
    """Returns which area crosses another: they share pixels, and neither holds the other."""
    for i, other in enumerate(areas):
        both = np.count_nonzero(area & other)
        if 0 < both < min(np.count_nonzero(area), np.count_nonzero(other)):
            return i
    return None


def _fill(corners: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels (H, W) inside a polygon by the even-odd rule, and those on its line."""
    height, width = shape
    flips = np.zeros((height, width + 1), np.int32)
    line = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = sorted((y0, y1))
        rows = np.arange(*np.clip(np.ceil((low, high)), 0, height).astype(int))
        if len(rows):  # an edge takes its lower end and leaves its upper one to the next edge
            x = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
            np.add.at(flips, (rows, np.clip(np.ceil(x), 0, width).astype(int)), 1)
        _mark(line, x0, y0, x1, y1)
        _mark(line.T, y0, x0, y1, x1)
    return np.cumsum(flips[:, :-1], axis=1) % 2 == 1, line


def _mark(line: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> None:
    """Marks the pixels (H, W) whose centres an edge meets where it passes their rows."""
    low, high = sorted((y0, y1))
    rows = np.arange(
        max(0, int(np.ceil(low - ON_LINE))), min(len(line), int(np.floor(high + ON_LINE)) + 1)
    )
    share = np.clip((rows - y0) / (y1 - y0), 0, 1) if y1 != y0 else np.zeros(len(rows))
    x = x0 + share * (x1 - x0)
    column = np.rint(x).astype(int)
    met = (np.abs(x - column) <= ON_LINE) & (column >= 0) & (column < line.shape[1])
    line[rows[met], column[met]] = True
