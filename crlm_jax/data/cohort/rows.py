"""The rows of `cohort.csv`: what each cell may hold; every wrong cell is reported at once.

The file has one row an image: ``patient,condition,image,mask`` and optionally ``mask_label`` (what
counts in the mask: an integer, or for a DICOM-SEG a name or pattern such as ``Tumor*``; empty: any
non-zero), ``b_value`` (s/mm², which image of a DICOM diffusion series) and ``split`` (``train`` or
``test``; absent: drawn, see `cases`). Paths are relative to the file; an image may be a folder, a
DICOM series.

Paths may lead anywhere, also by `..` or from the root, since images often lie on another disk. The
name of a patient goes into tables and pages unchanged. It may therefore not begin as a
spreadsheet's formula does, nor hold invisible characters.

A problem names its row as a spreadsheet numbers it (the header is row 1).
"""

import csv
import dataclasses
import difflib
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from crlm_jax.errors import UserError
from crlm_jax.imaging.conditions import CONDITION, suggest_condition

REQUIRED = ("patient", "condition", "image", "mask")
OPTIONAL = ("mask_label", "b_value", "split")
# Categories of Unicode: control characters, formatting (such as marks of direction), line ends.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_FORMULA = ("=", "+", "-", "@")
_LARGEST_LABEL = 2**31 - 1
_FOR_TRAINING = ("mask", "mask_label", "split")  # columns that a prediction does without


class CohortError(UserError):
    """A cohort that cannot be used; the message has one line for each thing to correct."""


@dataclasses.dataclass(frozen=True)
class ImagePair:
    """One image and its mask; `row` as in a spreadsheet, `b_value` in s/mm².

    A `mask_label` in words is a pattern over the segments of a DICOM-SEG; None: any non-zero voxel
    counts.
    """

    image: Path
    mask: Path
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

    mask: Path
    mask_label: int | str | None
    split: str

    @property
    def pair(self) -> ImagePair:
        """The image and its mask, without patient and condition."""
        return ImagePair(self.image, self.mask, self.mask_label, self.row, self.b_value)


_T = TypeVar("_T")
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
    path: Path, parse: Callable[["_Cells"], _AnyRow], unused: Sequence[str] = ()
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
        cells = _Cells(path, number, dict(zip(header, map(str.strip, texts), strict=True)))
        row = parse(cells)
        problems += cells.problems
        rows += [] if cells.problems else [row]
    return rows, problems + _check_images(path, rows)


def _read_table(path: Path) -> list[tuple[int, list[str]]]:
    """Returns (row number, cells) of every row that is not blank, the header first."""
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


class _Cells:
    """The cells of a row by column; collects the `problems` of those that cannot be read."""

    def __init__(self, path: Path, number: int, texts: Mapping[str, str]):
        self.folder = path.parent
        self.number = number
        self.texts = texts
        self.problems: list[str] = []
        self._where = f"{path}, row {number}"

    def read(self, column: str, parse: Callable[[str], _T], default: _T) -> _T:
        """Parses a cell; `default`: the cell is empty, or wrong and listed in `problems`."""
        text = self.texts.get(column, "")
        try:
            if not text and column in REQUIRED:
                raise ValueError("empty; fill the cell or delete the row")
            if hidden := _first_of(text, _INVISIBLE - {"Cf"}):  # a message would show it
                raise ValueError(f"{text!r} holds the control character {hidden}; take it out")
            return parse(text) if text else default
        except ValueError as error:
            self.problems.append(f"{self._where}, column '{column}': {error}")
            return default


def _read_image_row(cells: _Cells) -> ImageRow:
    return ImageRow(
        patient=cells.read("patient", _patient, ""),
        condition=cells.read("condition", _condition, ""),
        image=cells.read("image", lambda text: _image(text, cells.folder), Path()),
        b_value=cells.read("b_value", _b_value, None),
        row=cells.number,
    )


def _read_row(cells: _Cells) -> Row:
    about = _read_image_row(cells)
    return Row(
        **vars(about),
        mask=cells.read("mask", lambda text: _mask(text, cells.folder, about.image), Path()),
        mask_label=cells.read("mask_label", lambda text: _label(text, cells.texts["mask"]), None),
        split=cells.read("split", _split, ""),
    )


def patient_problem(text: str) -> str | None:
    """Says why a text cannot be the name of a patient; None: it can.

    The name goes into CSV files unchanged, since other tables know the patient by it. So it must
    not begin as a formula does in a spreadsheet. Invisible characters would make two patients of
    one.
    """
    if hidden := _first_of(text, _INVISIBLE):
        return f"{text!r} holds the invisible character {hidden}; take it out"
    if unicodedata.normalize("NFKC", text[:1]) in _FORMULA:
        return f"{text!r} is a formula to a spreadsheet; begin it with a letter or a digit"
    return None


def _first_of(text: str, categories: set[str]) -> str | None:
    return next((f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in categories), None)


def _patient(text: str) -> str:
    if problem := patient_problem(text):
        raise ValueError(problem)
    return text


def _condition(text: str) -> str:
    if CONDITION.fullmatch(text):
        return text
    better = suggest_condition(text)
    remedy = f"write '{better}'" if better else "use lower-case letters, digits and _"
    raise ValueError(f"{text!r} is not lower-case letters, digits and _; {remedy}")


def _image(text: str, folder: Path) -> Path:
    return _find(text, folder, folders=True)


def _mask(text: str, folder: Path, image: Path) -> Path:
    file = _find(text, folder, folders=False)
    if file.resolve() == image.resolve():
        raise ValueError(f"the same file as the image: {text}; name the mask's own file")
    return file


def _find(text: str, folder: Path, *, folders: bool) -> Path:
    """Returns the path of a file; with `folders`, also that of a folder."""
    file = folder / text
    try:
        exists, found = file.is_file() or (folders and file.is_dir()), "file not found"
        if not exists and file.exists():
            found = "not a file"
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        exists, found = False, f"cannot be read ({error.strerror})"
    if not exists:
        raise ValueError(
            f"{found}: {text}; correct the path (relative to the folder of the cohort file)"
        )
    return file


def _label(text: str, mask: str) -> int | str:
    if not re.fullmatch(r"[+-]?\d+", text):
        if mask.lower().endswith(".dcm"):  # segments of a DICOM-SEG have names
            return text
        raise ValueError(f"{text!r} is not an integer; write the label or leave it empty")
    label = int(text)
    if not 0 < label <= _LARGEST_LABEL:
        fault = "background" if label <= 0 else "larger than any label"
        raise ValueError(f"{text} is {fault}; write a label above 0 or leave it empty")
    return label


def _b_value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is not a number of s/mm², 0 or above; correct or clear it")
    return value


def _split(text: str) -> str:
    if text in ("train", "test"):
        return text
    close = difflib.get_close_matches(text.lower(), ("train", "test"), n=1)
    remedy = "write one of them, or leave the whole column empty to have the split drawn"
    if close:
        remedy = f"write '{close[0]}'"
    elif text.lower().startswith("val"):
        remedy = "write 'train': validation patients are drawn out of the training patients"
    raise ValueError(f"{text!r} is not 'train' or 'test'; {remedy}")


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
