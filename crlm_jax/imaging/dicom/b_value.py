"""What a header says of diffusion: its b-value, and whether it is the trace of all directions.

The vendors' private elements for the b-value, and GE's bias, are as the dcm2niix project found them
with the vendors (rordenlab/dcm2niix, issues 149 and 602; UIH's is in its `UIH/README.md`).
"""

import math
from collections.abc import Sequence

import numpy as np
import pydicom

# Private creator, group, element, and the binary type of a value whose VR is unknown (UN).
_PRIVATE = (
    ("GEMS_PARM_01", 0x0043, 0x39, None),  # text: b\…\…\…
    ("SIEMENS MR HEADER", 0x0019, 0x0C, None),  # text
    ("Philips Imaging DD 001", 0x2001, 0x03, "<f4"),
    ("Image Private Header", 0x0065, 0x09, "<f8"),  # United Imaging (UIH)
)
_GE_BIAS = 1e9  # GE adds it to the private value in series of several b-values (issue 602)
TRACE_TYPES = {"TRACEW", "TRACE", "ISOTROPIC"}  # among the values of Image Type


def stated_b_value(header: pydicom.Dataset) -> float | None:
    """Returns the b-value that a header states, in s/mm², rounded to a whole number; else None.

    The value is read from Diffusion b-value (0018,9087), else from the private elements of GE
    (0043,xx39), Siemens (0019,xx0C), Philips (2001,xx03) and UIH (0065,xx09) under the vendor's
    private creator.
    """
    found = _number(header.get("DiffusionBValue"), "<f8")
    if found is not None:
        return float(round(found))
    for creator, group, element, stored in _PRIVATE:
        found = _number(private(header, creator, group, element), stored)
        if found is not None:
            return float(round(found % _GE_BIAS))
    return 0.0 if header.get("DiffusionDirectionality") == "NONE" else None


def is_trace(header: pydicom.Dataset) -> bool:
    """Whether a header says that its image is the trace, not one direction."""
    return (
        bool(TRACE_TYPES.intersection(image_type(header)))
        or header.get("DiffusionDirectionality") == "ISOTROPIC"
        or _text(private(header, "Philips Imaging DD 001", 0x2001, 0x04)) == "I"
    )


def image_type(header: pydicom.Dataset) -> tuple[str, ...]:
    """Returns the values of Image Type in capitals."""
    values = header.get("ImageType") or ()
    return tuple(str(value).upper() for value in ([values] if isinstance(values, str) else values))


def private(header: pydicom.Dataset, creator: str, group: int, element: int) -> object:
    """Returns the value of a private element under its creator; None if it is absent."""
    try:
        return header.get_private_item(group, element, creator).value
    except KeyError:
        return None


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return str(value or "").strip(" \0")


def _number(value: object, stored: str | None) -> float | None:
    """Returns the first number of an element; `stored` is its binary type in plain bytes.

    None if the element has no number that is finite and at least 0.
    """
    if isinstance(value, bytes) and stored and len(value) >= np.dtype(stored).itemsize:
        value = float(np.frombuffer(value, stored, 1)[0])
    elif isinstance(value, bytes | str):
        value = _text(value).split("\\")[0]
    elif isinstance(value, Sequence):
        value = value[0] if len(value) else None
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
