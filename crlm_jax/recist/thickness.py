"""The slice thickness of an image, which DICOM alone says."""

import contextlib
import math

from crlm_jax.imaging.volumes import Volume


def slice_thickness(image: Volume) -> float | None:
    """Returns the thickest slice's thickness in mm; None if the image does not say it.

    Of the formats that are read only DICOM says it (Slice Thickness). It differs from the slice
    spacing where slices overlap or lie apart.
    """
    found = []
    for header in image.series.headers if image.series else ():
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            found.append(float(header.get("SliceThickness")))
    known = [value for value in found if math.isfinite(value) and value > 0]
    return max(known, default=None)
