"""The lesions of a mask: its connected parts, with volume, diameter and place."""

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, distance

from crlm_jax.data.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One connected part of a mask."""

    voxels: int
    volume: float  # mm³
    diameter: float  # mm, the longest in any axial slice
    slice: int  # the axial slice in which it is longest, from 0 at the feet
    centre: tuple[float, float, float]  # mm, in patient coordinates (L, P, S)


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the connected parts of a mask, voxels that share a corner being one.

    Args:
      mask: (Z, H, W) bool.

    Returns:
      (Z, H, W) int32 with 0 for background and 1 … n in the order in which the parts begin, and n.
    """
    labels = np.zeros(mask.shape, np.int32)
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return labels, 0
    count = ndimage.label(mask[boxes[0]], np.ones((3, 3, 3)), output=labels[boxes[0]])
    return labels, count


def measure(labels: np.ndarray, geometry: Geometry) -> list[Lesion]:
    """Measures the numbered lesions (Z, H, W) of an image, as from `label`, by number."""
    depth, height, width = geometry.axial_spacing
    lesions = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == number
        places = np.argwhere(inside) + [edge.start for edge in box]
        lengths = [
            _longest(np.argwhere(section) * (height, width), (height, width)) for section in inside
        ]
        longest = int(np.argmax(lengths))
        lesions.append(
            Lesion(
                voxels=len(places),
                volume=len(places) * depth * height * width,
                diameter=lengths[longest],
                slice=longest + box[0].start,
                centre=tuple(geometry.to_patient(places.mean(axis=0, keepdims=True))[0].tolist()),
            )
        )
    return lesions


def _longest(centres: np.ndarray, pixel: tuple[float, float]) -> float:
    """Longest distance in mm between two points of a section's outline.

    The outline runs halfway between pixels inside and outside, through the middles of the pixels'
    edges, so that a row of n pixels is n pixels long. Only corners of the convex hull can be ends.
    """
    if not len(centres):
        return 0.0
    half = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)]) * pixel
    points = (centres[:, None] + half).reshape(-1, 2)
    hull = points[ConvexHull(points).vertices]
    return float(distance.pdist(hull).max())


def drop_small(mask: np.ndarray, least: float, geometry: Geometry) -> np.ndarray:
    """Returns the mask (Z, H, W) without the lesions of less than `least` mm³."""
    labels, count = label(mask)
    if not count:
        return mask
    voxel = float(np.prod(geometry.axial_spacing))
    large = np.bincount(labels.ravel(), minlength=count + 1) * voxel >= least
    large[0] = False
    return large[labels]
