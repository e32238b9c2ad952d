"""The reference mask of an image: as drawn, or empty where the cohort says `tumour=no`."""

from crlm_jax.data.cohort.rows import ImagePair
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.mask_files import name_masks
from crlm_jax.imaging.masks import LesionMask, read_lesions
from crlm_jax.imaging.volumes import Volume


def read_reference(pair: ImagePair, volume: Volume, *, resample: bool = False) -> LesionMask:
    """Reads the mask of an image of a cohort, with its lesions.

    Args:
      pair: the image and its mask; without a mask, all is background.
      volume: the image.
      resample: resample a mask that lies on another grid.

    Raises:
      VolumeError: the mask cannot be used, does not belong to the image, or is not as the column
        `tumour` says.
    """
    mask = read_lesions(pair.masks, pair.mask_label, volume, resample=resample)
    count = int(mask.voxels.sum()) if pair.masks and pair.tumour is not None else None
    if pair.tumour is False and count:
        raise VolumeError(
            f"{name_masks(pair.masks)}: {count:,} voxels of it are tumour, but the column 'tumour' "
            "says 'no'; correct one of them, or leave the mask out"
        )
    if pair.tumour and count == 0:
        raise VolumeError(
            f"{name_masks(pair.masks)}: no voxel of it is tumour, but the column 'tumour' says "
            "'yes'; correct one of them, or mask_label"
        )
    return mask
