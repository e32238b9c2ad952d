"""Patients that may be one person under two names, and scans that stand under two patients.

Patients are split, never images. A person under two names may be trained on and tested, and then
the results of the test are too good. Nothing is merged: only the user knows who is who.
"""

import collections
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from crlm_jax.data.cohort.rows import ImageRow, Row

_RISK = "the split may train on what it tests"
RISK_OF_TEST = "one patient may count as two"  # where all patients are tested
_MOST = 5  # warnings of a kind; more of them are counted in one
# Two ways to write a letter without its mark. The plain one, ü as u, is Unicode's own.
_SPELT_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae"})
SAME_VOXELS = "have the same voxels"
_WHEN = {"pre", "post"}  # of an image, not of a patient


def alike_warnings(path: Path, rows: Iterable[ImageRow], risk: str = _RISK) -> list[str]:
    """Returns a line for each group of patients whose names differ in their spelling alone.

    `risk` says what may go wrong.
    """
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.patient, row.row)
    groups = alike_names(first)
    found = [
        f"{_and([f'{name!r} (row {first[name]})' for name in names])} may be one patient"
        for names in groups
    ]
    return _lines(path, found, "if it is one, write one name in all rows", risk)


def alike_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the groups of names that differ only in how they are written.

    Capitals, blanks and signs between the parts, zeros before a number, accents and umlauts do not
    count, nor `pre` and `post` beside other parts. Letters and numbers do: P01 and P02, and P1-1
    and P11, differ.
    """
    group_of: dict[str, set[str]] = {}
    by_form: dict[tuple[str, ...], str] = {}
    for name in names:
        group_of[name] = {name}
        for form in _forms(name):
            group = group_of[by_form.setdefault(form, name)]
            if group is not group_of[name]:
                group |= group_of[name]
                for member in group_of[name]:
                    group_of[member] = group
    groups = {id(group): tuple(sorted(group)) for group in group_of.values() if len(group) > 1}
    return sorted(groups.values())


def _forms(name: str) -> Iterable[tuple[str, ...]]:
    text = unicodedata.normalize("NFKC", name).casefold()  # ß becomes ss
    text = re.sub(r"(\d)\.0+$", r"\1", text)  # numbers of a table with gaps become 7.0
    for spelt in (text, text.translate(_SPELT_OUT)):
        plain = "".join(c for c in unicodedata.normalize("NFKD", spelt) if not _is_mark(c))
        parts = re.findall(r"\d+|[^\W\d_]+", plain)
        parts = [part.lstrip("0") or "0" if part[0].isdigit() else part for part in parts]
        yield tuple(part for part in parts if part not in _WHEN) or (name,)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) == "Mn"


def shared_scan_warnings(
    path: Path, rows: Sequence[ImageRow], prints: Sequence[Mapping[str, str]]
) -> list[str]:
    """Returns a line for each scan that stands under two patients or more, or twice under one.

    One DICOM series may be several images of a patient, so that its voxels alone count there. One
    path in two rows is an error of `rows`.

    Args:
      path: of the cohort file.
      rows: of the images.
      prints: what tells the image of each row from others, by what two images have in common
        where it is equal, such as "have the same voxels".
    """
    groups: dict[tuple[str, str], list[ImageRow]] = collections.defaultdict(list)
    for row, own in zip(rows, prints, strict=True):
        for what, value in own.items():
            groups[what, value].append(row)
    found: dict[tuple[int, ...], str] = {}
    twice: dict[tuple[int, ...], str] = {}
    for (what, _), group in groups.items():
        rows_of = tuple(row.row for row in group)
        if len({row.patient for row in group}) > 1:
            named = [f"{row.patient!r} (row {row.row}, {row.image.name})" for row in group]
            found.setdefault(rows_of, f"{_and(named)} {what}")
        elif len({row.image.resolve() for row in group}) > 1 and what == SAME_VOXELS:
            named = [f"{row.condition} (row {row.row}, {row.image.name})" for row in group]
            twice.setdefault(rows_of, f"{group[0].patient!r}: {_and(named)} {what}")
    remedy = "correct the path, or delete the row"
    return [
        *_lines(path, list(found.values()), "if it is one scan, correct the patient or the path"),
        *_lines(path, list(twice.values()), remedy, "one scan counts as two"),
    ]


def shared_mask_warnings(path: Path, rows: Iterable[Row], risk: str = _RISK) -> list[str]:
    """Returns a line for each mask file that stands under two patients or more."""
    groups: dict[Path, dict[str, int]] = collections.defaultdict(dict)
    for row in rows:
        for mask in row.masks:
            groups[mask.resolve()].setdefault(row.patient, row.row)
    found = [
        f"{_and([f'{name!r} (row {row})' for name, row in rows_of.items()])} have one mask file, "
        f"{mask.name}"
        for mask, rows_of in groups.items()
        if len(rows_of) > 1
    ]
    return _lines(path, found, "correct the patient or the path of the mask", risk)


def _and(named: Sequence[str]) -> str:
    """Joins names, of which the first eight are shown."""
    return " and ".join([*named[:8], *[f"{len(named) - 8} more"] * (len(named) > 8)])


def _lines(path: Path, found: Sequence[str], remedy: str, risk: str = _RISK) -> list[str]:
    lines = [f"{text}; {risk}; {remedy}" for text in found]
    if len(lines) <= _MOST:
        return [f"{path}: {line}" for line in lines]
    return [f"{path}: {len(lines):,} like warnings; first: {lines[0]}"]
