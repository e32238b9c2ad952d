"""The lesions of a mask: its connected parts, with volume, diameters and position.

Parts that touch, even at a corner only, are one lesion. Parts with an empty slice between them are
two.
"""

import dataclasses
import functools

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, distance

from crlm_jax.imaging.geometry import Geometry

# Said wherever measurements are.
DISCLAIMER = "A measurement on masks, not a diagnosis; crlm_jax is not a medical device."


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One connected part of a mask.

    Diameters are those of RECIST 1.1 (Eisenhauer et al., Eur J Cancer 45:228, 2009): the longest in
    the plane of a slice, and the longest perpendicular to it in that plane.
    """

    voxels: int
    volume: float  # mm³
    diameter: float  # mm, the longest in any axial slice
    slice: int  # index of the axial slice with that diameter; 0 is nearest to the feet
    centre: tuple[float, float, float]  # mm, in patient coordinates (L, P, S)
    short_axis: float  # mm, the longest line perpendicular to the diameter, in the same slice
    ends: tuple[tuple[float, float], tuple[float, float]]  # of the diameter: (row, column)


def label_lesions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the lesions of a mask; voxels that share a corner belong together.

    Args:
      mask: (Z, H, W) bool.

    Returns:
      Labels (Z, H, W) int32, 0 for background and 1 … n in the order of each lesion's first voxel,
      and n.
    """
    labels = np.zeros(mask.shape, np.int32)
    places = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(places[0]):
        return labels, 0
    box = tuple(slice(place[0], place[-1] + 1) for place in places)
    count = ndimage.label(mask[box], np.ones((3, 3, 3)), output=labels[box])
    return labels, count


def measure_lesions(
    labels: np.ndarray, geometry: Geometry, box: tuple[slice, ...] = (slice(0, None),) * 3
) -> list[Lesion]:
    """Measures the lesions of a label map from `label_lesions`, in label order.

    Args:
      labels: (Z, H, W) int, on the whole grid or in a box of it.
      geometry: of the grid.
      box: where `labels` lie on the grid.
    """
    depth, height, width = geometry.axial_spacing
    corner = [edge.start for edge in box]
    lesions = []
    for number, part in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[part] == number
        first = np.add([edge.start for edge in part], corner)
        places = np.argwhere(inside) + first
        axes = [_section_axes(s.tobytes(), s.shape, (height, width)) for s in inside]
        longest = int(np.argmax([diameter for diameter, _, _ in axes]))
        diameter, short_axis, ends = axes[longest]
        one, other = (ends + first[1:]).tolist()
        left, posterior, superior = geometry.to_patient(places.mean(axis=0, keepdims=True))[0]
        lesions.append(
            Lesion(
                voxels=len(places),
                volume=len(places) * depth * height * width,
                diameter=diameter,
                slice=longest + int(first[0]),
                centre=(float(left), float(posterior), float(superior)),
                short_axis=short_axis,
                ends=((one[0], one[1]), (other[0], other[1])),
            )
        )
    return lesions


@functools.lru_cache(maxsize=4096)  # the specks of a noisy mask have few shapes
def _section_axes(
    section: bytes, shape: tuple[int, int], size: tuple[float, float]
) -> tuple[float, float, np.ndarray]:
    return _axes(np.argwhere(np.frombuffer(section, bool).reshape(shape)), size)


def _axes(pixels: np.ndarray, size: tuple[float, float]) -> tuple[float, float, np.ndarray]:
    """Measures one section of a lesion: diameter, short axis, and the ends of the diameter.

    The outline runs halfway between pixels inside and outside, through the middles of the pixels'
    edges, so that a row of n pixels is n pixels long. Only corners of its convex hull can be ends.
    The short axis is the longest line within the hull at right angles to the diameter, as a reader
    would draw it; it begins or ends in a corner.

    Args:
      pixels: (N, 2), rows and columns.
      size: height and width of a pixel in mm.

    Returns:
      Diameter and short axis in mm, and the ends (2, 2) as (row, column); whole numbers are the
      centres of pixels.
    """
    if not len(pixels):
        return 0.0, 0.0, np.zeros((2, 2))
    half = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    outline = (pixels[:, None] + half).reshape(-1, 2)
    outline = outline[ConvexHull(outline * size).vertices]
    hull = outline * size
    lengths = distance.pdist(hull)
    longest = int(lengths.argmax())
    first, second = (index[longest] for index in np.triu_indices(len(hull), 1))
    down, right = (hull[second] - hull[first]) / lengths[longest]
    along, aside = hull @ (down, right), (hull - hull[first]) @ (-right, down)
    # Exactly zero, or rounding would put an end on one side; both sides begin and stop there.
    aside[[first, second]] = 0.0
    order = np.argsort(along)
    below, above = (
        np.interp(along, along[side], aside[side])
        for side in (order[aside[order] <= 0], order[aside[order] >= 0])
    )
    return float(lengths[longest]), float((above - below).max()), outline[[first, second]]


def drop_small(mask: np.ndarray, fewest: int) -> np.ndarray:
    """Returns the mask (Z, H, W) without the lesions of fewer than so many voxels."""
    labels, count = label_lesions(mask)
    if not count:
        return mask
    large = np.bincount(labels.ravel(), minlength=count + 1) >= fewest
    large[0] = False
    return large[labels]
