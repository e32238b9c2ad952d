"""The rows of `cohort.csv`: what each cell may hold, and every wrong one told at once.

`cohort.py` says what the columns are and makes cases of the rows.
"""

import csv
import dataclasses
import difflib
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from crlm_jax.errors import UserError
from crlm_jax.imaging.conditions import CONDITION, suggest_condition

REQUIRED = ("patient", "condition", "image", "mask")
OPTIONAL = ("mask_label", "b_value", "split")
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode: controls, marks of direction, line ends …
_FORMULA = ("=", "+", "-", "@")
_LARGEST_LABEL = 2**31 - 1
_OF_MASKS = ("mask", "mask_label", "split")  # columns that a prediction does without


class CohortError(UserError):
    """A cohort that cannot be used; the message has one line for each thing to correct."""


@dataclasses.dataclass(frozen=True)
class ImagePair:
    """One image and its mask; `mask_label` None means any non-zero; `row` as in a spreadsheet.

    A `mask_label` in words is a pattern over the segments of a DICOM-SEG. `b_value` in s/mm².
    """

    image: Path
    mask: Path
    mask_label: int | str | None
    row: int
    b_value: float | None = None


@dataclasses.dataclass(frozen=True)
class Image:
    """An image to predict: a file, or the folder of a DICOM series; `b_value` in s/mm²."""

    patient: str
    condition: str
    image: Path
    b_value: float | None
    row: int


@dataclasses.dataclass(frozen=True)
class Row(Image):
    """A whole row whose cells passed; `split` is "" where the file gives none."""

    mask: Path
    mask_label: int | str | None
    split: str

    @property
    def pair(self) -> ImagePair:
        """The image and its mask, without whose they are."""
        return ImagePair(self.image, self.mask, self.mask_label, self.row, self.b_value)


def read_rows(path: str | Path, *, masks: bool = True) -> tuple[list[Any], list[str]]:
    """Returns the rows that pass, as `Row` (without `masks` as `Image`), and all problems.

    Raises:
      CohortError: the file as a whole, or its header, cannot be used.
    """
    path = Path(path)
    table = _read_table(path)
    number, header = table[0]
    header = [name.strip() for name in header]
    problems = _check_header(path, number, header, () if masks else _OF_MASKS)
    if problems:
        raise CohortError("\n".join(problems))
    if len(table) == 1:
        raise CohortError(f"{path}: no rows below the header; add one row an image")

    rows: list[Any] = []
    for number, cells in table[1:]:
        if len(cells) != len(header):
            problems.append(
                f"{path}, row {number}: {len(cells)} cells under {len(header)} columns; correct "
                "the commas of the row (put a cell that holds a comma in double quotes)"
            )
            continue
        texts = dict(zip(header, map(str.strip, cells), strict=True))
        row, wrong = _read_row(path, number, texts, masks)
        problems += wrong
        rows += [row] if row else []
    problems += _check_images(path, rows)
    problems += _check_splits(path, rows) if masks else []
    return rows, problems


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


def _read_row(
    path: Path, number: int, cells: dict[str, str], masks: bool
) -> tuple[Image | None, list[str]]:
    """Checks what a row alone can tell."""
    problems: list[str] = []

    def read(column: str, parse: Callable, *context: Any) -> Any:
        text = cells.get(column, "")
        try:
            if not text and column in REQUIRED:
                raise ValueError("empty; fill the cell or delete the row")
            if hidden := _first_of(text, _INVISIBLE - {"Cf"}):  # it would come out in messages
                raise ValueError(f"{text!r} holds the control character {hidden}; take it out")
            return parse(text, *context) if text else None
        except ValueError as error:
            problems.append(f"{path}, row {number}, column '{column}': {error}")
            return None

    patient = read("patient", _patient)
    condition = read("condition", _condition)
    image = read("image", _file, path.parent, True)
    b_value = read("b_value", _b_value)
    row: Image = Image(patient, condition, image, b_value, number)
    if masks:
        mask = read("mask", _file, path.parent, False, image)
        label = read("mask_label", _label, cells["mask"])
        split = read("split", _split)
        row = Row(patient, condition, image, b_value, number, mask, label, split or "")
    return (None, problems) if problems else (row, [])


def patient_problem(text: str) -> str | None:
    """Says why a text cannot be a patient's name; None: it can.

    The name goes into CSV files as it is, since other tables know the patient by it; so it must not
    begin as a formula does in a spreadsheet. Invisible characters would make two of one patient.
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


def _file(text: str, folder: Path, folders: bool, image: Path | None = None) -> Path:
    """Finds a file, or where `folders` is true a folder; a mask must differ from its `image`."""
    file = folder / text
    try:
        there, found = file.is_file() or (folders and file.is_dir()), "file not found"
        if not there and file.exists():
            found = "not a file"
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        there, found = False, f"cannot be read ({error.strerror})"
    if not there:
        raise ValueError(
            f"{found}: {text}; correct the path (relative to the folder of the cohort file)"
        )
    if image is not None and file.resolve() == image.resolve():
        raise ValueError(f"the same file as the image: {text}; name the mask's own file")
    return file


def _label(text: str, mask: str) -> int | str:
    if not re.fullmatch(r"[+-]?\d+", text):
        if mask.lower().endswith(".dcm"):  # the segments of a DICOM-SEG have names
            return text
        raise ValueError(f"{text!r} is not an integer; write the label or leave it empty")
    label = int(text)
    if not 0 < label <= _LARGEST_LABEL:
        what = "background" if label <= 0 else "larger than any label"
        raise ValueError(f"{text} is {what}; write a label above 0 or leave it empty")
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


def _check_images(path: Path, rows: Sequence[Image]) -> list[str]:
    """Finds images that stand in two rows where they may not."""
    problems: list[str] = []
    first: dict[Path, list[Image]] = {}
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
    """Finds a split that is given for some rows only, or that tears a patient apart."""
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
