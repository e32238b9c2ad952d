"""From an image's values to grey levels: windows of HU, percentiles of MRI."""

import numpy as np

from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.volumes import Volume


def modality_doubt(volume: Volume, condition: str) -> str | None:
    """Says why an image looks like another modality than its condition's; None: it does not.

    By the modality of a DICOM series; else by its range: CT in HU has voxels of fat or air below
    zero, and the magnitude images of MRI have none far below. An 8-bit image tells nothing.
    """
    if volume.series is not None:
        modality, expected = volume.series.modality, "CT" if is_ct(condition) else "MR"
        return None if modality == expected else f"its DICOM modality is {modality}"
    if volume.eight_bit:
        return None
    if is_ct(condition):
        low = volume.voxels.min()
        return f"no voxel is below 0 HU (least: {low:g})" if low >= 0 else None
    low = float(np.percentile(volume.voxels[:, ::4, ::4], 1))
    return f"1 % of its voxels are below {low:g}, as in CT" if low < -100 else None


def find_window(
    volume: Volume, condition: str, ct_window: tuple[float, float] = (-150.0, 250.0)
) -> tuple[float, float]:
    """Returns the values of an image that are shown as black and white.

    An 8-bit image (a PNG, as a rule) was windowed at its source: 0 and 255. Otherwise of a CT
    (condition `ct` or beginning with `ct_`) `ct_window` (lower and upper HU), and of an MRI, whose
    values have no unit, the 0.5 and 99.5 percentiles of its own voxels.
    """
    if volume.eight_bit:
        return 0.0, 255.0
    if is_ct(condition):
        return ct_window
    low, high = np.percentile(volume.voxels, (0.5, 99.5))
    if low == high:  # more than 99 % of one value
        low, high = volume.voxels.min(), volume.voxels.max()
    return float(low), float(high)


def to_uint8(
    volume: Volume, condition: str, *, ct_window: tuple[float, float] = (-150.0, 250.0)
) -> np.ndarray:
    """Maps an image to grey levels, uint8 (Z, H, W), by its `find_window`."""
    if volume.eight_bit:
        return volume.voxels.astype(np.uint8)
    low, high = find_window(volume, condition, ct_window)
    scaled = (volume.voxels - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
