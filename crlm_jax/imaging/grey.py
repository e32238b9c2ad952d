"""Grey levels of an image: the window (HU for CT, percentiles for MRI), and doubts of modality."""

import numpy as np

from crlm_jax.imaging.adc import adc_doubt
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.volumes import Volume


def modality_doubt(volume: Volume, condition: str) -> str | None:
    """Says why an image seems to be of another modality than its condition; None: no doubt.

    A DICOM series states its modality. Every image is also judged by its range without padding: CT
    in HU has voxels of fat or air below zero, and magnitude images of MRI have none far below zero.
    An ADC map is told from an image by `adc_doubt`. An 8-bit image gives no evidence by its range.
    """
    if volume.series is not None:
        modality, expected = volume.series.modality, "CT" if is_ct(condition) else "MR"
        if modality != expected:
            return f"its DICOM modality is {modality}"
    if not is_ct(condition) and (doubt := adc_doubt(volume, condition)):
        return doubt
    if volume.eight_bit:
        return None
    if is_ct(condition):
        low = float(volume.measured.min())
        return f"no voxel is below 0 HU (least: {low:g})" if low >= 0 else None
    some = volume.voxels[:, ::4, ::4]
    if volume.padding is not None:
        some = volume.measured[::16]
    low = float(np.percentile(some, 1))
    return f"1 % of its voxels are below {low:g}, as in CT" if low < -100 else None


def find_window(
    volume: Volume, condition: str, ct_window: tuple[float, float]
) -> tuple[float, float]:
    """Returns the voxel values that are shown as black and as white.

    An 8-bit image (usually a PNG) was windowed at its source: 0 and 255. CT, as `is_ct` tells by
    the condition, has `ct_window` (lower and upper HU). MRI has no unit: the window runs from the
    0.5 to the 99.5 percentile of the image's own voxels. Padding counts nowhere.
    """
    if volume.eight_bit:
        return 0.0, 255.0
    if is_ct(condition):
        return ct_window
    low, high = np.percentile(volume.measured, (0.5, 99.5))
    if low == high:  # more than 99 % of the voxels have one value
        low, high = volume.measured.min(), volume.measured.max()
    return float(low), float(high)


def to_uint8(volume: Volume, condition: str, *, ct_window: tuple[float, float]) -> np.ndarray:
    """Maps an image to grey levels, uint8 (Z, H, W), by its `find_window`; padding is black."""
    if volume.eight_bit:
        return volume.voxels.astype(np.uint8)
    low, high = find_window(volume, condition, ct_window)
    scaled = (volume.voxels - np.float32(low)) * np.float32(255 / (high - low))
    grey = np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
    if volume.padding is not None:
        grey[volume.padding] = 0
    return grey
