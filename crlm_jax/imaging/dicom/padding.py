"""Padding that a DICOM header marks (PS3.3 C.7.5.1.1.2), in stored values before the rescale."""

import numpy as np
import pydicom


def marked_padding(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Returns which pixels are padding, bool (rows, columns); None if the header marks none.

    Padding is Pixel Padding Value (0028,0120), or everything from that value to Pixel Padding Range
    Limit (0028,0121), both ends included. Both are read as signed or unsigned by Pixel
    Representation, whatever type the file gives them.

    Args:
      header: of the image.
      stored: (rows, columns) the stored values, before the rescale.
    """
    value = _stored_number(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = _stored_number(header, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _stored_number(header: pydicom.Dataset, keyword: str) -> int | None:
    """Returns a 16-bit value with the sign of the pixels; None if absent or no number."""
    try:
        value = header.get(keyword)
        if isinstance(value, bytes):  # of an unknown type (UN)
            value = int.from_bytes(value[:2], "little") if len(value) >= 2 else None
        if value is None or value == "":
            return None
        number = int(value)
    except Exception:  # pydicom converts the value only here, and raises any error
        return None
    signed = header.get("PixelRepresentation") == 1
    if signed and 2**15 <= number < 2**16:
        return number - 2**16
    if not signed and -(2**15) <= number < 0:
        return number + 2**16
    return number
