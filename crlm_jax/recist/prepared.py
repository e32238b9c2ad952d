"""Images made ready to be aligned: their grey levels and the body on a grid of a few mm."""

import dataclasses

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from crlm_jax.imaging import volumes
from crlm_jax.imaging.geometry import Geometry, VolumeError
from crlm_jax.imaging.volumes import Volume

STEP = 4.0  # mm, of the grid on which images are compared
LEAST_SLICES = 3
AIR = -1024.0  # HU; scanners pad with less, and no tissue is below
AIRY, FATTY = -500.0, -50.0  # HU; an image with less, and 1 % of the body below the latter, is CT
SOFT_TISSUE = 0.0, 200.0  # HU; lung and bone would take nearly all grey levels


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image made ready to be aligned, on a grid of `STEP` mm; arrays are (z, y, x)."""

    grey: sitk.Image  # float32, from 0 (black) to 1 within the body's range
    body: np.ndarray  # bool, the patient and a seam of air
    fine: sitk.Image  # at its own resolution, for drawings: float32, from 0 to 1
    geometry: Geometry  # of `fine`

    @property
    def centre(self) -> np.ndarray:
        """Centre of the body in mm (L, P, S)."""
        return self.to_patient(np.argwhere(self.body)).mean(axis=0)

    @property
    def middle(self) -> np.ndarray:
        """Middle of the grid in mm (L, P, S)."""
        return self.to_patient((np.array([self.body.shape]) - 1) / 2)[0]

    def to_patient(self, places: np.ndarray) -> np.ndarray:
        """Maps points (N, 3), indices (z, y, x), to mm (L, P, S)."""
        axes = np.reshape(self.grey.GetDirection(), (3, 3))
        return places[:, ::-1] * STEP @ axes.T + self.grey.GetOrigin()

    def to_places(self, points: np.ndarray) -> np.ndarray:
        """Maps points (N, 3) in mm to indices (z, y, x), which may lie outside."""
        axes = np.reshape(self.grey.GetDirection(), (3, 3))
        return ((points - self.grey.GetOrigin()) @ axes / STEP)[:, ::-1]

    def stretch(self, where: np.ndarray) -> "PreparedImage":
        """Returns the image with the grey range of one of its parts, bool (z, y, x)."""
        low, high = np.percentile(sitk.GetArrayViewFromImage(self.grey)[where], (10, 98))
        if low == high:
            return self
        scaled = (self.grey - float(low)) * (1 / float(high - low))
        return dataclasses.replace(self, grey=sitk.Clamp(scaled, sitk.sitkFloat32, 0, 1))


def prepare(volume: Volume) -> PreparedImage:
    """Makes an image ready to be aligned.

    Raises:
      VolumeError: it is flat, or has too few slices.
    """
    if len(volume.voxels) < LEAST_SLICES or len(volume.geometry.size) < 3:
        raise VolumeError(
            f"{volume.path}: it has {len(volume.voxels)} slice(s); --register needs a volume of "
            f"{LEAST_SLICES} slices or more"
        )
    voxels = np.maximum(volume.voxels, AIR)
    if volume.padding is not None:
        voxels[volume.padding] = max(float(volume.measured.min()), AIR)
    own = sitk.Cast(volumes.to_original_grid(voxels, volume.geometry), sitk.sitkFloat32)
    coarse = _resample(own)
    array = sitk.GetArrayFromImage(coarse)
    body = _find_body(array)
    low, high = np.percentile(array[body], (1, 99))
    if array.min() < AIRY and low < FATTY:
        low, high = SOFT_TISSUE
    if low >= high:
        low, high = float(array.min()), float(array.max())
    scale = 1 / (high - low) if high > low else 1.0
    grey, fine = (
        sitk.Clamp((image - low) * scale, sitk.sitkFloat32, 0, 1) for image in (coarse, own)
    )
    body = ndimage.binary_dilation(body, iterations=2)
    return PreparedImage(grey, body, fine, volume.geometry)


def _resample(own: sitk.Image) -> sitk.Image:
    """Averages an image over a grid of `STEP` mm that has its axes and its middle."""
    size, spacing = np.array(own.GetSize()), np.array(own.GetSpacing())
    for axis, (count, width) in enumerate(zip(size, spacing, strict=True)):
        if width < STEP and count >= 4:  # the filter's least
            own = sitk.RecursiveGaussian(
                own, float(np.sqrt(STEP**2 - width**2) / 2), False, 0, axis
            )
    counts = np.floor((size - 1) * spacing / STEP + 1e-6).astype(int) + 1
    first = ((size - 1) - (counts - 1) * STEP / spacing) / 2
    origin = own.TransformContinuousIndexToPhysicalPoint(first.tolist())
    return sitk.Resample(
        own, counts.tolist(), sitk.Transform(), sitk.sitkLinear, origin, [STEP] * 3,
        own.GetDirection(), 0.0, sitk.sitkFloat32,
    )  # fmt: skip


def _find_body(array: np.ndarray) -> np.ndarray:
    """Returns the largest bright part of an image (z, y, x), its holes filled; never empty."""
    low, high = np.percentile(array, (1, 99))
    clipped = sitk.GetImageFromArray(np.clip(array, low, high))
    bright = sitk.GetArrayFromImage(sitk.OtsuThreshold(clipped, 0, 1)) > 0
    labels, count = ndimage.label(ndimage.binary_opening(bright))
    if not count:
        return np.ones(array.shape, bool)
    body = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    body = ndimage.binary_closing(np.pad(body, 4), iterations=3)[4:-4, 4:-4, 4:-4]
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])
