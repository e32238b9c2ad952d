"""The reference mask of an image: as drawn, or empty where the cohort says `tumour=no`.

And the mask of its liver, outside which there is no lesion, where the cohort has one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from crlm_jax.data.cohort.cases import Case
from crlm_jax.data.cohort.rows import CohortError, ImagePair
from crlm_jax.imaging.decision import outside_of
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.mask_files import name_masks
from crlm_jax.imaging.masks import LesionMask, read_lesions, read_organ
from crlm_jax.imaging.volumes import Volume, read_image


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


def read_liver(
    paths: Sequence[Path],
    volume: Volume,
    *,
    resample: bool = False,
    doubts: list[str] | None = None,
) -> np.ndarray:
    """Reads the mask of the liver of an image, with the lesions in it, as bool (Z, H, W).

    Args:
      paths: the files that make it up. A label map has the liver alone, or the liver and the tumour
        in it; of named segments, those that begin with "Liver" count.
      volume: the image.
      resample: resample a mask that lies on another grid.
      doubts: receives what the user should know of how it was read, a sentence each.

    Raises:
      VolumeError: the mask cannot be used, does not belong to the image, or holds no liver.
    """
    said = [] if doubts is None else doubts
    try:
        return read_organ(paths, "Liver*", volume, said, resample=resample)
    except VolumeError as error:
        raise VolumeError(f"liver mask: {error}") from error


def liver_doubts(
    pair: ImagePair, volume: Volume, tumour: np.ndarray, *, resample: bool = False
) -> list[str]:
    """Says what looks wrong with the liver's mask of an image, if it has one.

    Args:
      pair: the image.
      volume: the image.
      tumour: its reference, (Z, H, W) bool, which has to lie in the liver.
      resample: as for `read_liver`.

    Raises:
      VolumeError: as for `read_liver`.
    """
    doubts: list[str] = []
    if not pair.liver:
        return doubts
    liver = read_liver(pair.liver, volume, resample=resample, doubts=doubts)
    if lost := int(np.count_nonzero(tumour & ~liver)):
        doubts.append(
            f"{lost:,} of {int(np.count_nonzero(tumour)):,} tumour voxels lie outside this mask of "
            "the liver, which has to hold its lesions"
        )
    return doubts


def check_livers(cases: Sequence[Case], *, resample: bool = False) -> None:
    """Reads the livers' masks of the validation and test images, which a training needs last.

    Raises:
      CohortError: listing those that cannot be used, by their row.
    """
    problems = []
    for case in cases:
        used = case.split in ("validation", "test")
        for pair in (pair for pair in case.images if used and pair.liver):
            try:
                volume = read_image(pair.image, b_value=pair.b_value)
                read_liver(pair.liver, volume, resample=resample)
            except VolumeError as error:
                problems.append(f"cohort row {pair.row}: {error}")
    if problems:
        raise CohortError("\n".join(problems))


def find_outside(
    pair: ImagePair, volume: Volume, liver: Literal["none", "column"], *, resample: bool = False
) -> np.ndarray | None:
    """Returns where no lesion can be in an image of a cohort, (Z, H, W) bool; None: nowhere.

    Args:
      pair: the image, and its liver's mask if there is one.
      volume: the image.
      liver: "column": outside that mask too.
      resample: as for `read_liver`.

    Raises:
      VolumeError: as for `read_liver`.
    """
    mask = None
    if liver == "column" and pair.liver:
        mask = read_liver(pair.liver, volume, resample=resample)
    return outside_of(volume.padding, mask)
