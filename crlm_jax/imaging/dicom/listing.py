"""What a user tells series apart by, and chooses them by: description, modality, plane, number.

Descriptions are shown in messages. Names and identity numbers of the patient, which some sites type
into them, are struck out.
"""

import contextlib
import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pydicom

from crlm_jax.imaging.dicom.b_value import stated_b_value

KEYS = ("description", "modality", "plane", "number", "uid")  # that a pattern may name
_EXAMPLE = "'description=*T2*'"
_PLANES = ("sagittal", "coronal", "axial")  # by the axis of the normal: x, y, z
_SHORTEST = 3  # letters of a patient's name that are struck out of a description
_LONGEST = 64  # characters of a description, as the standard has it

HOW_TO_CHOOSE = (
    f"choose one with --series UID or a pattern such as --series {_EXAMPLE} (of "
    f"{', '.join(KEYS[:-1])}; several joined by commas), or give a file of the series"
)


@dataclasses.dataclass(frozen=True)
class SeriesFacts:
    """What is known of a series; empty where its headers do not say it."""

    uid: str
    description: str
    modality: str  # DICOM's code, such as "CT"
    plane: str  # the nearest: axial, coronal, sagittal
    number: str  # Series Number
    images: int
    slices: int = 0  # different positions; 0: not counted
    b_values: tuple[float, ...] = ()  # s/mm²

    def __str__(self) -> str:
        count = f"{self.images} images"
        if self.slices and self.slices != self.images:
            count = f"{self.slices} slices, {count}"
        b_values = ", ".join(f"{value:g}" for value in self.b_values)
        parts = [
            f"'{self.description}'" if self.description else "no description",
            self.modality or "no modality",
            self.plane or "no plane",
            count,
            f"b {b_values}" if b_values else "",
            f"number {self.number}" if self.number else "",
        ]
        return ", ".join(part for part in parts if part)


def find_facts(uid: str, headers: Sequence[pydicom.Dataset], images: int) -> SeriesFacts:
    """Returns the facts of a series.

    Args:
      uid: Series Instance UID.
      headers: of all its files, or of the first file alone: then slices and b-values are not
        counted.
      images: how many files it has.
    """
    first = headers[0]
    frames = [frame for header in headers for frame in _frames(header)]
    counted = len(headers) == images
    positions = {place for frame in frames if (place := _place(frame)) is not None}
    b_values = {b for frame in frames if (b := _b_value(frame)) is not None}
    return SeriesFacts(
        uid=uid,
        description=_description(first),
        modality=_text(first, "Modality"),
        plane=_plane(frames[0]),
        number=_text(first, "SeriesNumber"),
        images=max(images, len(frames)),
        slices=len(positions) if counted else 0,
        b_values=tuple(sorted(b_values)) if counted else (),
    )


def is_pattern(series: str | None) -> bool:
    """Whether a choice of series is a pattern, as `description=*T2*`, and not a UID."""
    return series is not None and re.fullmatch(r"[\d.]*", series) is None


def parse_pattern(text: str) -> dict[str, str]:
    """Returns the wanted text of each key, as `choose` takes it.

    Raises:
      ValueError: a key is none, or there is none, with the remedy.
    """
    if "=" not in text:
        raise ValueError(
            f"--series {text}: neither a UID nor a pattern; to choose by the description, write "
            f"'description={text.strip()}'"
        )
    wanted: dict[str, str] = {}
    # A comma divides only before a key: descriptions have commas too.
    for part in re.split(r",(?=\s*\w+\s*=)", text):
        key, equals, pattern = part.partition("=")
        key = key.strip().lower()
        if not equals or key not in KEYS:
            raise ValueError(
                f"--series {text}: {key!r} is nothing to choose by; write one of "
                f"{', '.join(KEYS)}, such as {_EXAMPLE}"
            )
        wanted[key] = pattern.strip().strip("'\"").casefold()
    return wanted


def choose(series: Iterable[SeriesFacts], wanted: dict[str, str]) -> list[str]:
    """Returns the UIDs of the series that have every wanted text; capitals do not count.

    A text stands for the series that have it as it is written. Only where none has, it is a
    pattern: `*` stands for any letters, `?` for one, `[ab]` for one of these. So a description that
    holds such signs can be written as listed.
    """
    series = list(series)
    for key, text in wanted.items():
        own = {facts.uid: str(getattr(facts, key)).casefold() for facts in series}
        same = {uid for uid, value in own.items() if _is_same(value, text, key)}
        fits = same or {uid for uid, value in own.items() if fnmatch.fnmatchcase(value, text)}
        series = [facts for facts in series if facts.uid in fits]
    return [facts.uid for facts in series]


def _is_same(own: str, wanted: str, key: str) -> bool:
    if key == "number" and own.isdecimal() and wanted.isdecimal():
        return int(own) == int(wanted)
    return own == " ".join(wanted.split())  # as descriptions are listed, without doubled blanks


def _text(header: pydicom.Dataset, keyword: str) -> str:
    with contextlib.suppress(Exception):  # pydicom converts values only here, and raises any error
        value = header.get(keyword)
        text = "" if value is None else str(value)
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST]
    return ""


def _description(header: pydicom.Dataset) -> str:
    text = _text(header, "SeriesDescription")
    for keyword in ("PatientName", "PatientID", "PatientBirthDate"):
        for word in re.split(r"[\s^=,;]+", _text(header, keyword)):
            if len(word) >= _SHORTEST:
                text = re.sub(re.escape(word), "…", text, flags=re.IGNORECASE)
    return text


def _frames(header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Returns the frames of an enhanced image, with what they share; else the image itself."""
    with contextlib.suppress(Exception):
        shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
        frames = []
        for own in header.get("PerFrameFunctionalGroupsSequence") or ():
            frame = pydicom.Dataset()
            for group in (shared, own):
                for element in group:
                    if element.VR == "SQ" and element.value:
                        frame.update(element.value[0])
            frames.append(frame)
        if frames:
            return frames
    return [header]


def _numbers(header: pydicom.Dataset, keyword: str, count: int) -> np.ndarray | None:
    with contextlib.suppress(Exception):
        numbers = np.asarray(header.get(keyword), float)
        if numbers.shape == (count,) and np.isfinite(numbers).all():
            return numbers
    return None


def _place(header: pydicom.Dataset) -> tuple[float, ...] | None:
    position = _numbers(header, "ImagePositionPatient", 3)
    return None if position is None else tuple(np.round(position, 1).tolist())


def _plane(header: pydicom.Dataset) -> str:
    axes = _numbers(header, "ImageOrientationPatient", 6)
    if axes is None:
        return ""
    return _PLANES[int(np.abs(np.cross(axes[:3], axes[3:])).argmax())]


def _b_value(header: pydicom.Dataset) -> float | None:
    with contextlib.suppress(Exception):
        return stated_b_value(header)
    return None
