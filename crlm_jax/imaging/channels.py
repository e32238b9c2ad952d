"""Sequences of one patient over each other: the grey levels of an image on the grid of another.

Headers say where voxels lie in the scanner (mm). So the images of one examination lie over each
other without a search, as far as the patient held still: breathing between the sequences stays.
"""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from crlm_jax.imaging.geometry import Geometry, VolumeError
from crlm_jax.imaging.volumes import Volume, to_original_grid

LEAST = 0.9  # share of the first image that another has to show, without a doubt
MOTION = (
    "data.channels: the sequences are laid over each other by their headers alone; breathing and "
    "other motion between them are not corrected"
)
# The full width at half maximum of a Gaussian, in standard deviations.
_WIDTH = 2 * np.sqrt(2 * np.log(2))


def lay_over(grey: np.ndarray, volume: Volume, like: Volume) -> tuple[np.ndarray, list[str]]:
    """Resamples grey levels to the grid of another image of the patient, linearly.

    Along an axis whose steps are longer there, the image is blurred first, so that nothing between
    two steps is skipped: by the Gaussian that widens a pixel to such a step (Cardoso et al., Scale
    factor point spread function matching, MICCAI 2015).

    Args:
      grey: (Z, H, W) uint8, of the image.
      volume: the image.
      like: the other image.

    Returns:
      The grey levels on the axial slices of the other, uint8, with black where the image shows
      nothing; and doubts.

    Raises:
      VolumeError: an image has no position in the patient, or they do not meet.
    """
    for each in (volume, like):
        if len(each.geometry.size) == 2:
            raise VolumeError(
                f"{each.path}: a 2D picture has no position in the patient, so that no other "
                "sequence can be laid over it; give volumes, such as NIfTI or DICOM"
            )
    image = to_original_grid(grey, volume.geometry)
    there = _resample(image * 0 + 1, like.geometry, sitk.sitkNearestNeighbor) > 0.5
    if not there.any():
        raise VolumeError(
            f"{volume.path}: by their headers, it shows no voxel of {like.path}; give sequences "
            "of one examination, as they came from the scanner"
        )
    smooth = sitk.Cast(image, sitk.sitkFloat32)
    if any(variances := _variances(volume.geometry, like.geometry)):
        smooth = sitk.DiscreteGaussian(smooth, variances, 64)  # pixels of the kernel at most
    laid = np.rint(_resample(smooth, like.geometry, sitk.sitkLinear)).clip(0, 255).astype(np.uint8)
    doubts = []
    if there.mean() < LEAST:
        doubts.append(
            f"another sequence shows less than {LEAST:.0%} of the first; the rest of its channel "
            "is black"
        )
    frames = {each.frame_of_reference for each in (volume, like)} - {None}
    if len(frames) > 1:
        doubts.append(
            "the DICOM headers of the sequences name different frames of reference, as after the "
            "patient was moved; their positions may not agree"
        )
    return laid, doubts


def three_channels(images: Sequence[np.ndarray]) -> np.ndarray:
    """Puts two or three images (Z, S, S) into (Z, S, S, 3); of two, the first is repeated."""
    return np.stack([*images, images[0]][:3], axis=-1)


def _resample(image: sitk.Image, like: Geometry, interpolator: int) -> np.ndarray:
    """Returns the values on the axial slices of another grid, float32; 0 outside the image."""
    found = sitk.Resample(
        image, like.size, sitk.Transform(), interpolator, like.origin, like.spacing, like.direction,
        0.0, sitk.sitkFloat32,
    )  # fmt: skip
    return like.to_axial(sitk.GetArrayFromImage(found))


def _variances(own: Geometry, like: Geometry) -> list[float]:
    """Returns the variance of the blur along each axis of a file, mm²."""
    axes, others = (np.reshape(each.direction, (3, 3)) for each in (own, like))
    # The axis of the other grid that runs most nearly along each own axis.
    steps = np.array(like.spacing)[np.abs(axes.T @ others).argmax(axis=1)]
    spacing = np.array(own.spacing)
    variances: list[float] = (np.maximum(steps**2 - spacing**2, 0) / _WIDTH**2).tolist()
    return variances
