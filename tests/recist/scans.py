"""Scans of two dates with a known motion between them."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from crlm_jax.recist.alignment import Rigid


def motion(shift, degrees, centre=(0.0, 0.0, 0.0)) -> Rigid:
    """A turn about a centre by angles (x, y, z) in degrees, and a shift in mm."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(x) for x in centre])
    transform.SetRotation(*np.radians(degrees).tolist())
    transform.SetTranslation([float(x) for x in shift])
    turn = np.reshape(transform.GetMatrix(), (3, 3))
    return Rigid(turn, np.array(transform.TransformPoint((0.0, 0.0, 0.0))))


def move(image: sitk.Image, by: Rigid) -> sitk.Image:
    """Moves an image by its header, without touching a voxel."""
    moved = sitk.Image(image)
    moved.SetDirection((by.turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    moved.SetOrigin(by(np.array([image.GetOrigin()]))[0].tolist())
    return moved


def move_file(path: Path | str, by: Rigid, out: Path) -> Path:
    sitk.WriteImage(move(sitk.ReadImage(str(path)), by), str(out))
    return out


def scan_again(image: sitk.Image, by: Rigid, spacing: float, noise: float) -> sitk.Image:
    """Samples a moved image on an upright grid with other slices, and adds noise."""
    moved = move(image, by)
    sigma = np.sqrt(max(spacing**2 - image.GetSpacing()[2] ** 2, 0)) / 2
    if sigma:
        moved = sitk.RecursiveGaussian(moved, float(sigma), False, 0, 2)
    size = [*image.GetSize()[:2], int(image.GetSize()[2] * image.GetSpacing()[2] / spacing)]
    darkest = float(sitk.GetArrayViewFromImage(image).min())
    again = sitk.Resample(
        moved, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(),
        [*image.GetSpacing()[:2], spacing], image.GetDirection(), darkest, sitk.sitkFloat32,
    )  # fmt: skip
    return sitk.AdditiveGaussianNoise(again, noise, 0.0, 5)


def breathe(image: sitk.Image, depth: float, centre: np.ndarray) -> sitk.Image:
    """Moves what lies within 60 mm of a centre by `depth` mm along the body; the rest stays.

    Between 60 and 110 mm the motion fades; the image's axes are the patient's.
    """
    array = sitk.GetArrayFromImage(image)
    spacing = np.array(image.GetSpacing())[::-1]
    places = np.indices(array.shape).astype(np.float32)
    gap = [places[i] * spacing[i] + image.GetOrigin()[2 - i] - centre[2 - i] for i in range(3)]
    share = np.clip((110 - np.sqrt(sum(each**2 for each in gap))) / 50, 0, 1)
    places[0] -= depth * share / spacing[0]
    moved = sitk.GetImageFromArray(ndimage.map_coordinates(array, places, order=1, mode="nearest"))
    moved.CopyInformation(image)
    return moved
