"""The rows of `cohort.csv`; all that is wrong with them is reported at once.

The file has one row an image: ``patient,condition,image,mask`` and optionally ``mask_label`` (what
is tumour in the mask: an integer, a pattern of names such as ``Tumor*``, or ``lesions``; see
`imaging.masks`), ``b_value`` (s/mm², which image of a DICOM diffusion series) and ``split``
(``train`` or ``test``; absent: drawn, see `cases`). Paths are relative to the file; an image may be
a folder, a DICOM series; a mask may be several files joined by ``|``, or a pattern. `cells`
has the rules of each column.

A problem names its row as a spreadsheet numbers it (the header is row 1).
"""

import csv
import dataclasses
import difflib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from crlm_jax.data.cohort.cells import (
    OPTIONAL,
    REQUIRED,
    Cells,
    find_image,
    find_masks,
    parse_b_value,
    parse_condition,
    parse_label,
    parse_patient,
    parse_split,
)
from crlm_jax.errors import UserError

_FOR_TRAINING = ("mask", "mask_label", "split")  # columns that a prediction does without


class CohortError(UserError):
    """A cohort that cannot be used; the message has one line for each thing to correct."""


@dataclasses.dataclass(frozen=True)
class ImagePair:
    """One image and its mask; `row` as in a spreadsheet, `b_value` in s/mm².

    `masks` are the files that make up the mask, `mask_label` says what is tumour in them; see
    `imaging.masks.read_mask`.
    """

    image: Path
    masks: tuple[Path, ...]
    mask_label: int | str | None
    row: int
    b_value: float | None = None


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """A row without its mask; `image`: a file or a DICOM series' folder, `b_value` in s/mm²."""

    patient: str
    condition: str
    image: Path
    b_value: float | None
    row: int


@dataclasses.dataclass(frozen=True)
class Row(ImageRow):
    """A whole row; `split` is "train", "test", or "" where the file gives none."""

    masks: tuple[Path, ...]
    mask_label: int | str | None
    split: str

    @property
    def pair(self) -> ImagePair:
        """The image and its mask, without patient and condition."""
        return ImagePair(self.image, self.masks, self.mask_label, self.row, self.b_value)


_AnyRow = TypeVar("_AnyRow", bound=ImageRow)


def read_rows(path: str | Path) -> tuple[list[Row], list[str]]:
    """Returns the rows whose cells pass all checks, and all problems of the others.

    Raises:
      CohortError: the file as a whole, or its header, cannot be used.
    """
    path = Path(path)
    rows, problems = _read(path, _read_row)
    return rows, problems + _check_splits(path, rows)


def read_image_rows(path: str | Path) -> tuple[list[ImageRow], list[str]]:
    """Does as `read_rows`, but neither needs nor checks the columns of masks and splits."""
    return _read(Path(path), _read_image_row, unused=_FOR_TRAINING)


def _read(
    path: Path, read_row: Callable[[Cells], _AnyRow], unused: Sequence[str] = ()
) -> tuple[list[_AnyRow], list[str]]:
    table = _read_table(path)
    number, header = table[0]
    header = [name.strip() for name in header]
    problems = _check_header(path, number, header, unused)
    if problems:
        raise CohortError("\n".join(problems))
    if len(table) == 1:
        raise CohortError(f"{path}: no rows below the header; add one row an image")

    rows = []
    for number, texts in table[1:]:
        if len(texts) != len(header):
            problems.append(
                f"{path}, row {number}: {len(texts)} cells under {len(header)} columns; correct "
                "the commas of the row (put a cell that holds a comma in double quotes)"
            )
            continue
        cells = Cells(path, number, dict(zip(header, map(str.strip, texts), strict=True)))
        row = read_row(cells)
        problems += cells.problems
        rows += [] if cells.problems else [row]
    return rows, problems + _check_images(path, rows)


def _read_table(path: Path) -> list[tuple[int, list[str]]]:
    """Returns (row number, cells) of every row that is not blank, the header first."""
    if path.is_dir():
        raise CohortError(f"{path}: is a folder; give the cohort.csv in it")
    if not path.is_file():
        raise CohortError(f"{path}: cohort file not found; correct the path of the cohort file")
    remedy = "save it as UTF-8 text with commas (in a spreadsheet: 'CSV UTF-8')"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(f"{path}: not UTF-8 text (byte {error.start}); {remedy}") from error
    if "\0" in text:
        raise CohortError(f"{path}: not a text file (it holds zero bytes); {remedy}")
    try:
        table = list(enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), start=1))
    except csv.Error as error:
        raise CohortError(f"{path}: not readable as CSV ({error}); {remedy}") from error
    # Spreadsheets leave rows of empty cells below the data; they still count as rows.
    table = [(number, cells) for number, cells in table if any(cell.strip() for cell in cells)]
    if not table:
        header = ",".join(REQUIRED)
        raise CohortError(
            f"{path}: the file is empty; write the header {header} and one row an image"
        )
    return table


def _check_header(path: Path, number: int, header: list[str], unused: Sequence[str]) -> list[str]:
    known = [name for name in REQUIRED + OPTIONAL if name not in unused]
    where = f"{path}, row {number}"
    if len(header) == 1 and re.search(r"[;\t|]", header[0]):
        return [f"{where}: one column named {header[0]!r}; separate the cells with commas"]
    problems = []
    for name in sorted({name for name in header if name in known and header.count(name) > 1}):
        problems.append(f"{where}, column '{name}': stands {header.count(name)} times; keep one")
    absent = [name for name in known if name not in header]
    meant: dict[str, str] = {}
    for name in header:
        # 'patient_id' beside 'patient' is somebody's extra column; without it, it is a slip.
        close = difflib.get_close_matches(name.lower().replace(" ", "_"), absent, n=1, cutoff=0.75)
        if name not in (*known, *unused) and close:
            meant[close[0]] = name
            problems.append(f"{where}, column '{name}': unknown; rename it to '{close[0]}'")
    for name in REQUIRED:
        if name in absent and name not in meant:
            problems.append(
                f"{where}, column '{name}': missing; add it (there are: {', '.join(header)})"
            )
    return problems


def _read_image_row(cells: Cells) -> ImageRow:
    return ImageRow(
        patient=cells.read("patient", parse_patient, ""),
        condition=cells.read("condition", parse_condition, ""),
        image=cells.read("image", lambda text: find_image(text, cells.folder), Path()),
        b_value=cells.read("b_value", parse_b_value, None),
        row=cells.number,
    )


def _read_row(cells: Cells) -> Row:
    about = _read_image_row(cells)
    return Row(
        **vars(about),
        masks=cells.read("mask", lambda text: find_masks(text, cells.folder, about.image), ()),
        mask_label=cells.read(
            "mask_label", lambda text: parse_label(text, cells.texts["mask"]), None
        ),
        split=cells.read("split", parse_split, ""),
    )


def _check_images(path: Path, rows: Sequence[ImageRow]) -> list[str]:
    """Finds images in the rows of two patients, and rows that are there twice."""
    problems: list[str] = []
    first: dict[Path, list[ImageRow]] = {}
    for row in rows:
        earlier = first.setdefault(row.image.resolve(), [])
        for other in earlier:
            where = f"{path}, row {row.row}, column 'image': {row.image.name}"
            if other.patient != row.patient:
                problems.append(
                    f"{where} is also patient {other.patient!r}'s in row {other.row}, but here "
                    f"{row.patient!r}'s; correct the patient or the path"
                )
            elif (other.condition, other.b_value) == (row.condition, row.b_value):
                problems.append(
                    f"{where} stands already in row {other.row} for the same patient and "
                    "condition; delete one of the two rows"
                )
        earlier.append(row)
    return problems


def _check_splits(path: Path, rows: Sequence[Row]) -> list[str]:
    """Finds a split that is given for some rows only, or that differs between a patient's rows."""
    problems: list[str] = []
    with_split = [row for row in rows if row.split]
    without = [row.row for row in rows if not row.split]
    if with_split and without:
        problems.append(
            f"{path}, column 'split': empty in {_numbers(without)} but given in "
            f"{_numbers(row.row for row in with_split)}; fill it in every row or in none"
        )
    for patient in sorted({row.patient for row in with_split}):
        own = {
            split: [r.row for r in with_split if r.patient == patient and r.split == split]
            for split in ("train", "test")
        }
        if own["train"] and own["test"]:
            problems.append(
                f"{path}, column 'split': patient {patient!r} is 'train' in "
                f"{_numbers(own['train'])} and 'test' in {_numbers(own['test'])}; put all rows of "
                "a patient in one split"
            )
    return problems


def _numbers(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
    return f"row{'s' if len(numbers) > 1 else ''} {shown}"
