"""Chooses one image per slice position from a diffusion series, at one b-value.

Scanners put every b-value (and often every gradient direction) of a diffusion acquisition into one
series. The segmenter takes one image per slice: the trace at one b-value, by default 1000 s/mm².
The vendors' private elements for the b-value, and GE's bias, are as the dcm2niix project found them
with the vendors (rordenlab/dcm2niix, issues 149 and 602).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from crlm_jax.imaging.geometry import VolumeError

DEFAULT_B_VALUE = 1000.0  # s/mm²
SAME_POSITION = 0.01  # mm; images closer than this show the same slice

# Private creator, group, element, and the binary type of a value whose VR is unknown (UN).
_PRIVATE = (
    ("GEMS_PARM_01", 0x0043, 0x39, None),  # text: b\…\…\…
    ("SIEMENS MR HEADER", 0x0019, 0x0C, None),  # text
    ("Philips Imaging DD 001", 0x2001, 0x03, "<f4"),
)
_GE_BIAS = 1e9  # GE adds it to the private value in series of several b-values (issue 602)
_TRACE_TYPES = {"TRACEW", "TRACE", "ISOTROPIC"}  # among the values of Image Type


def stated_b_value(header: pydicom.Dataset) -> float | None:
    """Returns the b-value that a header states, in s/mm², rounded to a whole number; else None.

    The value is read from Diffusion b-value (0018,9087), else from the private elements of GE
    (0043,xx39), Siemens (0019,xx0C) and Philips (2001,xx03) under the vendor's private creator.
    """
    found = _number(header.get("DiffusionBValue"), "<f8")
    if found is not None:
        return float(round(found))
    for creator, group, element, stored in _PRIVATE:
        found = _number(_private(header, creator, group, element), stored)
        if found is not None:
            return float(round(found % _GE_BIAS))
    return None


def choose_images(
    name: str, headers: Sequence[pydicom.Dataset], heights: np.ndarray, b_value: float | None
) -> tuple[list[int], float | None]:
    """Chooses one image at each slice position of a series.

    Args:
      name: of the series, for messages.
      headers: of its images, in any order.
      heights: (images,) position of each image along the slice normal, in mm.
      b_value: in s/mm²; None: 1000 if the series has several.

    Returns:
      The indices of the chosen images, and the b-value that they state, or None.

    Raises:
      VolumeError: no image has the b-value, some slices lack it, or several images with it share a
        position.
    """
    places = _places(heights)
    doubled = len(set(places)) < len(places)
    stated = [stated_b_value(header) for header in headers]
    known = sorted({b for b in stated if b is not None})
    chosen, b = list(range(len(headers))), known[0] if len(known) == 1 else None
    # If some images state a b-value and others do not, the others are maps (ADC, …) where they
    # repeat positions. Without repeated positions, their headers are only less complete.
    if len(known) > 1 or (doubled and known and None in stated):
        b = float(round(DEFAULT_B_VALUE if b_value is None else b_value))
        chosen = [index for index in chosen if stated[index] == b]
        if not chosen:
            default = "" if b_value is not None else ", the default"
            raise VolumeError(
                f"{name}: no image has a b-value of {b:g} s/mm²{default}; the series has "
                f"{_listed(known)}: {_SAY_WHICH}"
            )
        missing = len(set(places)) - len({places[index] for index in chosen})
        if missing:
            raise VolumeError(
                f"{name}: the b-value {b:g} s/mm² lacks {missing} of the {len(set(places))} slices;"
                f" export the complete series again, or take another b-value of {_listed(known)}: "
                f"{_SAY_WHICH}"
            )
    elif b_value is not None and b is not None and round(b_value) != b:
        raise VolumeError(
            f"{name}: states a b-value of {b:g} s/mm², not {b_value:g}; {_SAY_WHICH} {b:g}, or "
            "choose the series that has the other (--series UID)"
        )
    return _one_per_place(name, headers, places, chosen, b), b


_SAY_WHICH = "choose it with --b-value (in a cohort: the column b_value)"


def _listed(b_values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in b_values)


def _one_per_place(
    name: str,
    headers: Sequence[pydicom.Dataset],
    places: np.ndarray,
    chosen: list[int],
    b: float | None,
) -> list[int]:
    """Returns `chosen` reduced to the trace images if positions repeat, or raises VolumeError."""
    if len({places[index] for index in chosen}) == len(chosen):
        return chosen
    traces = [index for index in chosen if _is_trace(headers[index])]
    if len(traces) == len({places[index] for index in traces}) == len(set(places)):
        return traces
    seen: dict[int, int] = {}
    first, second = next(
        (seen[places[index]], index)
        for index in chosen
        if seen.setdefault(places[index], index) != index
    )
    pair = " and ".join(Path(headers[index].filename).name for index in (first, second))
    uids = {headers[index].get("SOPInstanceUID") for index in (first, second)}
    if len(uids) == 1:
        raise VolumeError(f"{name}: holds the same image twice ({pair}); remove one of them")
    if b is not None:
        raise VolumeError(
            f"{name}: several images of b-value {b:g} s/mm² at one position ({pair}), as for "
            "several diffusion directions, and not one trace image per slice; choose the series of "
            "the trace images (--series UID), or convert the wanted volume to NIfTI"
        )
    raise VolumeError(
        f"{name}: several images at one position ({pair}) that no b-value distinguishes; remove "
        "the doubled images, or export each phase, echo or b-value as its own series"
    )


def _places(heights: np.ndarray) -> np.ndarray:
    """Numbers the positions from 0; images at the same position have the same number."""
    order = np.argsort(heights, kind="stable")
    places = np.empty(len(heights), int)
    places[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) > SAME_POSITION)
    return places


def _is_trace(header: pydicom.Dataset) -> bool:
    return (
        bool(_TRACE_TYPES.intersection(header.get("ImageType") or ()))
        or header.get("DiffusionDirectionality") == "ISOTROPIC"
        or _text(_private(header, "Philips Imaging DD 001", 0x2001, 0x04)) == "I"
    )


def _private(header: pydicom.Dataset, creator: str, group: int, element: int) -> object:
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
