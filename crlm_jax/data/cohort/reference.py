"""The reference mask of an image: as drawn, or empty where the cohort says `tumour=no`."""

import numpy as np

from crlm_jax.data.cohort.rows import ImagePair
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.volumes import Volume, read_mask


def read_reference(pair: ImagePair, volume: Volume, doubts: list[str] | None = None) -> np.ndarray:
    """Reads the mask of an image of a cohort as bool (Z, H, W).

    Args:
      pair: the image and its mask; without a mask, all is background.
      volume: the image.
      doubts: receives what the user should know of how the mask was read, a sentence each.

    Raises:
      VolumeError: the mask cannot be used, does not belong to the image, or is not as the column
        `tumour` says.
    """
    if pair.mask is None:
        return np.zeros(volume.voxels.shape, bool)
    mask = read_mask(pair.mask, pair.mask_label, volume, doubts)
    count = int(mask.sum()) if pair.tumour is not None else 0
    if pair.tumour is False and count:
        raise VolumeError(
            f"{pair.mask}: {count:,} voxels of it are tumour, but the column 'tumour' says 'no'; "
            "correct one of them, or leave the mask out"
        )
    if pair.tumour and not count:
        raise VolumeError(
            f"{pair.mask}: no voxel of it is tumour, but the column 'tumour' says 'yes'; correct "
            "one of them, or mask_label"
        )
    return mask
