"""The slices below and above each slice of an image, for a network that sees three at once.

A neighbour comes from the same image, since only there a header says how far apart slices lie. A
slice that lacks one has itself in its place: at both ends of the image; where slices lie further
apart than `FURTHEST`; and beside a slice of one grey level, as programs fill a gap where slices are
missing, or padding. The voxels beyond such a gap are no neighbours: they are twice as far away.
"""

import numpy as np

from crlm_jax.imaging.geometry import Geometry

# mm between the centres of neighbours. Scans of the abdomen have 10 mm at most, with gaps; stacks
# of single slices at chosen levels, and localizers, have more.
FURTHEST = 15.0
SHOWN = ("slice below", "slice", "slice above")  # of the three channels


def find_neighbours(grey: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Returns the indices of the slice below each slice, of itself, and of the slice above.

    Args:
      grey: (Z, H, W), of the axial slices at the image's own size; padding is of one level.
      geometry: of the image.

    Returns:
      int (Z, 3).
    """
    own = np.arange(len(grey))
    near = geometry.axial_spacing[0] <= FURTHEST
    shows = _shows(grey)
    found = np.stack((own - 1, own, own + 1), axis=1)
    for beside in found[:, 0], found[:, 2]:
        there = (beside >= 0) & (beside < len(own)) & near
        there &= shows[np.clip(beside, 0, len(own) - 1)]
        beside[~there] = own[~there]
    return found


def with_neighbours(slices: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Puts the neighbours of every slice beside it: (Z, S, S) -> (Z, S, S, 3)."""
    return np.stack([slices[beside] for beside in neighbours.T], axis=-1)


def context_doubt(grey: np.ndarray, geometry: Geometry) -> str | None:
    """Says why slices of an image lack neighbours, but for its ends; None: they do not.

    The arguments are those of `find_neighbours`.
    """
    if len(grey) == 1:
        return "a single slice has no neighbours, so the network sees it three times"
    if geometry.axial_spacing[0] > FURTHEST:
        return (
            f"slices further apart than {FURTHEST:g} mm are no neighbours, so the network sees "
            "each three times"
        )
    shows = np.flatnonzero(_shows(grey))
    if len(shows) and len(shows) < shows[-1] - shows[0] + 1:
        return (
            "slices of one grey level lie between others, as where slices are missing; they are no "
            "neighbours, so the network sees those beside them twice"
        )
    return None


def _shows(grey: np.ndarray) -> np.ndarray:
    """Which slices (Z,) have more than one grey level."""
    levels = grey.reshape(len(grey), -1)
    return np.asarray(levels.min(axis=1) < levels.max(axis=1))
