"""From the probability of tumour to the mask: the one place where that is decided.

Measuring, prediction, evaluation and explanation ask here. Nothing is marked where nothing was
measured, nor outside the liver where its mask is given; what is left above the threshold and large
enough is a lesion.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import drop_small, label_lesions
from crlm_jax.imaging.resize import at_own_size


@dataclasses.dataclass(frozen=True)
class MaskRule:
    """How a probability becomes a mask."""

    threshold: float  # probability above which a voxel is tumour
    min_lesion_mm3: float = 0.0  # lesions of a smaller volume are removed; 0: none

    def decide(
        self, probability: np.ndarray, geometry: Geometry, outside: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the mask (Z, H, W) bool of an image.

        Args:
          probability: of tumour, (Z, S, S) or at the image's own size, float32.
          geometry: of the image.
          outside: (Z, H, W) bool, where no lesion can be; None: nowhere.
        """
        size = (len(probability), *geometry.axial_size[1:])
        mask = np.empty(size, bool)
        for z in range(len(mask)):  # slice by slice: all as float32 may be larger than the image
            mask[z] = at_own_size(probability[z : z + 1], size[1:])[0] > self.threshold
        if outside is not None:
            mask[outside] = False
        fewest = self.fewest(geometry)
        return drop_small(mask, fewest) if fewest > 1 else mask

    def fewest(self, geometry: Geometry) -> int:
        """Returns how many voxels of an image the smallest lesion has."""
        voxel = float(np.prod(geometry.axial_spacing))
        fewest = max(1, round(self.min_lesion_mm3 / voxel))
        # A lesion's volume is its voxels times theirs: what is equal to the least in it stays.
        return fewest + (fewest * voxel < self.min_lesion_mm3)


def outside_of(padding: np.ndarray | None, liver: np.ndarray | None) -> np.ndarray | None:
    """Returns where no lesion can be, (Z, H, W) bool; None: nowhere.

    Args:
      padding: where nothing was measured; None: nowhere.
      liver: its mask; None: not known.
    """
    if liver is None:
        return padding
    return ~liver if padding is None else ~liver | padding


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Returns the connected part of a mask (Z, H, W) bool that has most voxels."""
    labels, count = label_lesions(mask)
    if not count:
        return mask
    return labels == 1 + int(np.bincount(labels.ravel(), minlength=count + 1)[1:].argmax())


def grow(mask: np.ndarray, margin: float, geometry: Geometry) -> np.ndarray:
    """Returns a mask (Z, H, W) bool with all voxels whose centres lie within `margin` mm of it."""
    held = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(held[0]):
        return mask
    spacing = geometry.axial_spacing
    box = tuple(
        slice(max(0, int(k[0]) - reach), int(k[-1]) + 1 + reach)
        for k, reach in zip(held, (int(margin / step) for step in spacing), strict=True)
    )
    grown = np.zeros_like(mask)
    away = ndimage.distance_transform_edt(~mask[box], sampling=spacing)
    grown[box] = away <= margin
    return grown
