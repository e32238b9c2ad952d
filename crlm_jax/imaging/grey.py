"""Grey levels of an image: the window (HU for CT, the body's brightness for MRI), and doubts."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from crlm_jax.imaging.adc import adc_doubt, unweighted_doubt
from crlm_jax.imaging.conditions import is_ct
from crlm_jax.imaging.resize import stretch_doubt
from crlm_jax.imaging.volumes import Volume

# The window of MRI: from a percentile of all voxels (air) to a multiple of one of the body, since
# metastases on DWI are about as bright as the brightest organs.
MR_LOW, MR_HIGH, MR_HEADROOM = 0.5, 99.0, 1.5
MR_PERCENTILES = (0.5, 99.5)  # of all voxels: the window up to version 0.1.0
DARK = 127  # the largest value of an 8-bit volume, up to which a doubt is raised
CLIPPED = 0.1  # share of tumour voxels beyond the window, from which a doubt is raised


class Windows(Protocol):
    """How images are windowed; `config.schema.Data` has these fields."""

    @property
    def ct_window(self) -> Sequence[float]:
        """HU, shown as black and white."""

    @property
    def mr_window(self) -> str:
        """The rule for MRI: "body" or "percentiles", as in `find_window`."""


def image_doubts(volume: Volume, condition: str) -> list[str]:
    """Returns what the user should know of an image before it is used, a sentence each."""
    doubts = list(volume.doubts)
    if reason := modality_doubt(volume, condition):
        remedy = "; correct the condition, or export it again with its rescale slope and intercept"
        if reason == adc_doubt(volume, condition):
            remedy = "; give the diffusion image itself, or a condition of maps such as pre_adc"
        elif reason == unweighted_doubt(volume, condition):
            remedy = ""  # which the reason holds
        doubts.append(f"looks like another modality than {condition}: {reason}{remedy}")
    if reason := _dark_doubt(volume):
        doubts.append(reason)
    if reason := stretch_doubt(volume.voxels.shape, volume.spacing):
        doubts.append(reason)
    return doubts


def _dark_doubt(volume: Volume) -> str | None:
    """Says that a volume of 8 bits is dark; None: it is not, or is a picture, as of one slice.

    A window at its source fills 8 bits. A scan that only fits into them was never windowed.
    """
    high = float(volume.voxels.max()) if volume.eight_bit and len(volume.geometry.size) > 2 else 255
    if high > DARK:
        return None
    return (
        "it is taken as windowed at its source, since it has 8 bits, but its largest value is "
        f"{high:g} of 255, so that the network sees it dark; if it was not windowed, save it with "
        "16 bits"
    )


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
    if doubt := unweighted_doubt(volume, condition):
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


def find_window(volume: Volume, condition: str, windows: Windows) -> tuple[float, float]:
    """Returns the voxel values that are shown as black and as white.

    An 8-bit image (usually a PNG) was windowed at its source: 0 and 255. CT, as `is_ct` tells by
    the condition, has `ct_window` (lower and upper HU). MRI has no unit, so its window comes from
    the image's own voxels. Padding counts nowhere.

    "body": black is the 0.5 percentile of all voxels. White is 1.5 times the 99 percentile of the
    body, which is the voxels above the mean of all; where black is negative, 1.5 times as far above
    it. The share of air in the image hardly matters, a crop of the liver without air has headroom
    too, and lesions as bright as the brightest organs stay below white.

    "percentiles": from the 0.5 to the 99.5 percentile of all voxels. Bright lesions may be white.
    """
    if volume.eight_bit:
        return 0.0, 255.0
    if is_ct(condition):
        low, high = windows.ct_window
        return float(low), float(high)
    measured = volume.measured
    if windows.mr_window == "body":
        low = np.percentile(measured, MR_LOW)
        body = measured[measured > measured.mean(dtype=np.float64)]
        zero = min(low, 0.0)
        high = zero + MR_HEADROOM * (np.percentile(body, MR_HIGH) - zero) if body.size else low
    else:
        low, high = np.percentile(measured, MR_PERCENTILES)
    if not low < high:  # nearly all voxels have one value
        low, high = measured.min(), measured.max()
    return float(low), float(high)


def to_uint8(volume: Volume, condition: str, windows: Windows) -> np.ndarray:
    """Maps an image to grey levels, uint8 (Z, H, W), by its `find_window`; padding is black."""
    if volume.eight_bit:
        return volume.voxels.astype(np.uint8)
    low, high = find_window(volume, condition, windows)
    scaled = (volume.voxels - np.float32(low)) * np.float32(255 / (high - low))
    grey = np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
    if volume.padding is not None:
        grey[volume.padding] = 0
    return grey


def clipping_doubt(
    volume: Volume, mask: np.ndarray, condition: str, windows: Windows
) -> str | None:
    """Says that the window clips the tumour of a mask (Z, H, W) bool; None: it hardly does."""
    tumour = volume.voxels[mask]
    low, high = find_window(volume, condition, windows)
    share = float(((tumour <= low) | (tumour >= high)).mean()) if tumour.size else 0.0
    if share < CLIPPED:
        return None
    remedy = "see that the mask lies on the lesions, and that the scan was exported whole"
    if volume.eight_bit:
        remedy = "export it with a wider window, or as NIfTI without one"
    elif is_ct(condition):
        remedy = "see that the mask lies on the lesions, or widen data.ct_window"
    return (
        f"{share:.0%} of its tumour voxels are black or white in the window from {low:g} to "
        f"{high:g}, so that the network cannot tell them apart; {remedy}"
    )
