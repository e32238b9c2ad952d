"""Chooses one image per slice position from a series that has several, at one b-value.

Scanners put every b-value (and often every gradient direction) of a diffusion acquisition into one
series, and sometimes the ADC map too. The segmenter takes one image per slice: the trace at one
b-value, by default 1000 s/mm².
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pydicom

from crlm_jax.imaging.dicom.b_value import is_trace, stated_b_value
from crlm_jax.imaging.dicom.frames import Frame, name_of
from crlm_jax.imaging.dicom.maps import is_map, kind_of_value
from crlm_jax.imaging.geometry import VolumeError

DEFAULT_B_VALUE = 1000.0  # s/mm²
SAME_POSITION = 0.01  # mm; images closer than this show the same slice

# What tells images at one position apart, apart from the b-value, in the order of a message.
_DIFFERENCES = {
    "SeriesNumber": "Series Number",
    "EchoTime": "echo time",
    "TemporalPositionIndex": "temporal position",
    "TemporalPositionIdentifier": "temporal position",
    "StackID": "stack",
    "InversionTime": "inversion time",
    "TriggerTime": "trigger time",
    "ImageType": "Image Type",
    "AcquisitionNumber": "acquisition",
}


class Choice(NamedTuple):
    """The indices of the chosen images, the b-value (s/mm²) that they state, and doubts."""

    images: list[int]
    b_value: float | None
    doubts: tuple[str, ...]


def choose_images(
    name: str, headers: Sequence[pydicom.Dataset], heights: np.ndarray, b_value: float | None
) -> Choice:
    """Chooses one image at each slice position of a series.

    Maps of diffusion (ADC, FA) beside other images are left out. Of magnitude, phase, real and
    imaginary images and field maps at one position the magnitude is chosen, and a doubt says so.

    Args:
      name: of the series, for messages.
      headers: of its images, in any order.
      heights: (images,) position of each image along the slice normal, in mm.
      b_value: in s/mm²; None: 1000 if the series has several.

    Returns:
      The indices of the chosen images, the b-value that they state (or None), and doubts.

    Raises:
      VolumeError: no image has the b-value, some slices lack it, or several images with it share a
        position.
    """
    maps = [is_map(header) for header in headers]
    some = [index for index, left_out in enumerate(maps) if not left_out]
    some = some or list(range(len(headers)))
    some, doubts = _magnitude(headers, heights, some)
    places = _places(heights[some])
    chosen, b = _of_b_value(name, [headers[index] for index in some], places, b_value)
    chosen = _one_per_place(name, [headers[index] for index in some], places, chosen, b)
    return Choice([some[index] for index in chosen], b, doubts)


def pick_b_value(
    name: str, known: Sequence[float], asked: float | None, *, of: str = "the series"
) -> float:
    """Returns the b-value to read from images of several, in s/mm².

    Args:
      name: of the images, for the message.
      known: the b-values that they have, each rounded to a whole number.
      asked: the wanted one; None: 1000.
      of: what has the b-values, for the message.

    Raises:
      VolumeError: no image has it.
    """
    b = float(round(DEFAULT_B_VALUE if asked is None else asked))
    if b not in known:
        default = "" if asked is not None else ", the default"
        raise VolumeError(
            f"{name}: no image has a b-value of {b:g} s/mm²{default}; {of} has "
            f"{list_b_values(known)}: {SAY_WHICH}"
        )
    return b


SAY_WHICH = "choose it with --b-value (in a cohort: the column b_value)"


def list_b_values(b_values: Sequence[float]) -> str:
    """Writes the different b-values for a message, such as `0, 50, 1000`."""
    return ", ".join(f"{value:g}" for value in sorted(set(b_values)))


def _of_b_value(
    name: str, headers: Sequence[pydicom.Dataset], places: np.ndarray, b_value: float | None
) -> tuple[list[int], float | None]:
    """Returns the images of the wanted b-value, and it, or all of them if they have at most one."""
    doubled = len(set(places)) < len(places)
    stated = [stated_b_value(header) for header in headers]
    known = sorted({b for b in stated if b is not None})
    chosen, b = list(range(len(headers))), known[0] if len(known) == 1 else None
    # If some images state a b-value and others do not, the others are maps (ADC, …) where they
    # repeat positions. Without repeated positions, their headers are only less complete.
    if len(known) > 1 or (doubled and known and None in stated):
        b = pick_b_value(name, known, b_value)
        chosen = [index for index in chosen if stated[index] == b]
        missing = len(set(places)) - len({places[index] for index in chosen})
        if missing:
            raise VolumeError(
                f"{name}: the b-value {b:g} s/mm² lacks {missing} of the {len(set(places))} slices;"
                " export the complete series again, or take another b-value of "
                f"{list_b_values(known)}: {SAY_WHICH}"
            )
    elif b_value is not None and b is not None and round(b_value) != b:
        raise VolumeError(
            f"{name}: states a b-value of {b:g} s/mm², not {b_value:g}; {SAY_WHICH} {b:g}, or "
            "choose the series that has the other (--series UID)"
        )
    return chosen, b


def _magnitude(
    headers: Sequence[pydicom.Dataset], heights: np.ndarray, some: list[int]
) -> tuple[list[int], tuple[str, ...]]:
    """Returns the magnitude images if positions repeat and images of other kinds are there."""
    if len(set(_places(heights[some]))) == len(some):
        return some, ()
    kinds = {index: kind_of_value(headers[index]) for index in some}
    magnitude = [index for index in some if kinds[index] == "magnitude"]
    others = sorted(set(kinds.values()) - {"magnitude"})
    if not magnitude or not others:
        return some, ()
    left_out = len(some) - len(magnitude)
    doubt = (
        f"its {len(magnitude)} magnitude images are read; {left_out} others at the same positions "
        f"({', '.join(others)}) are left out"
    )
    return magnitude, (doubt,)


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
    traces = [index for index in chosen if is_trace(headers[index])]
    if len(traces) == len({places[index] for index in traces}) == len(set(places)):
        return traces
    seen: dict[int, int] = {}
    pair = [
        headers[index]
        for index in next(
            (seen[places[index]], index)
            for index in chosen
            if seen.setdefault(places[index], index) != index
        )
    ]
    names = " and ".join(name_of(header) for header in pair)
    identities = {
        (header.get("SOPInstanceUID"), header.number if isinstance(header, Frame) else 0)
        for header in pair
    }
    if len(identities) == 1:
        raise VolumeError(f"{name}: holds the same image twice ({names}); remove one of them")
    differ = _difference(*pair)
    if b is not None:
        raise VolumeError(
            f"{name}: several images of b-value {b:g} s/mm² at one position ({names}), as for "
            "several diffusion directions, and not one trace image per slice; choose the series of "
            "the trace images (--series UID), or convert the wanted volume to NIfTI"
        )
    raise VolumeError(
        f"{name}: several images at one position ({names}) that no b-value distinguishes{differ}; "
        "remove the doubled images, or export each phase, echo or b-value as its own series, or "
        "convert the wanted one to NIfTI, for example with dcm2niix"
    )


def _difference(first: pydicom.Dataset, second: pydicom.Dataset) -> str:
    """Says what tells two images at one position apart, such as `: they differ in echo time`."""
    found = []
    for keyword, words in _DIFFERENCES.items():
        one, other = first.get(keyword), second.get(keyword)
        if one is not None and other is not None and one != other and words not in found:
            found.append(words)
    hint = " (give a file of the wanted one)" if found[:1] == ["Series Number"] else ""
    return f": they differ in {', '.join(found)}{hint}" if found else ""


def _places(heights: np.ndarray) -> np.ndarray:
    """Numbers the positions from 0; images at the same position have the same number."""
    order = np.argsort(heights, kind="stable")
    places = np.empty(len(heights), int)
    places[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) > SAME_POSITION)
    return places
