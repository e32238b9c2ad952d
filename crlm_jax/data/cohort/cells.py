"""The cells of `cohort.csv`: what each column may hold.

Paths may lead anywhere, also by `..` or from the root, since images often lie on another disk. The
name of a patient goes into tables and pages unchanged. It may therefore not begin as a
spreadsheet's formula does, nor hold invisible characters.

A parser raises ValueError, whose message says what is wrong with the text and the remedy; `Cells`
collects these messages.
"""

import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from crlm_jax.data.cohort.paths import spelt_path
from crlm_jax.imaging.conditions import CONDITION, suggest_condition
from crlm_jax.imaging.mask_files import split_masks
from crlm_jax.imaging.segment_names import EACH_LABEL

REQUIRED = ("patient", "condition", "image", "mask")
OPTIONAL = ("mask_label", "liver", "b_value", "tumour", "split")
_SPLITS = ("train", "validation", "test")
_YES_NO = {"yes": True, "y": True, "true": True, "1": True} | {
    "no": False, "n": False, "false": False, "0": False,
}  # fmt: skip
# 1.000 is a thousand to some spreadsheets and one to others.
_THOUSANDS = re.compile(r"[1-9]\d{0,2}([.,]\d{3})+")
# Categories of Unicode: control characters, formatting (such as marks of direction), line ends.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_FORMULA = ("=", "+", "-", "@")
# A spreadsheet rounds to a few digits, and writes the sign of the exponent: 1E5 may be a name.
_ROUNDED = re.compile(r"\d[.,]\d+E[+-]?\d+|\dE[+-]\d+", re.IGNORECASE)
_ERROR = re.compile(r"#([^\W\d_]|#)")  # #N/A, #REF!, #####, in any language
_MISSING = {"nan", "na", "n/a", "<na>", "null", "none", "nat"}  # as pandas, R and databases write
_WITH_NAMES = (".dcm", ".nrrd")  # endings of masks whose segments have names
_LARGEST_LABEL = 2**31 - 1
_T = TypeVar("_T")


class Cells:
    """The cells of a row by column; collects the `problems` of those that cannot be read.

    With `decimal_comma`, numbers may have one.
    """

    def __init__(
        self, path: Path, number: int, texts: Mapping[str, str], decimal_comma: bool = False
    ):
        self.folder = path.parent
        self.number = number
        self.texts = texts
        self.decimal_comma = decimal_comma
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
            self.refuse(column, error)
            return default

    def refuse(self, column: str, reason: object) -> None:
        """Notes what is wrong with a cell."""
        self.problems.append(f"{self._where}, column '{column}': {reason}")


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


def parse_patient(text: str) -> str:
    """Returns the name of a patient.

    What a spreadsheet or a program puts in the place of a name is none: it would make one patient
    of several, who could not be told apart any more.
    """
    if problem := patient_problem(text):
        raise ValueError(problem)
    if _ROUNDED.fullmatch(text):
        raise ValueError(
            f"{text!r} is a long number that a spreadsheet has rounded, so that several patients "
            "may have it; format the column as text, and enter the numbers again"
        )
    if _ERROR.match(text):
        raise ValueError(f"{text!r} is an error of a spreadsheet; write the patient's name")
    if text.casefold() in _MISSING:
        raise ValueError(f"{text!r} stands for a missing value; write the patient's name")
    return text


def parse_condition(text: str) -> str:
    """Returns a condition: lower-case letters, digits and _."""
    if text.casefold() in _MISSING:
        raise ValueError(f"{text!r} stands for a missing value; write the condition")
    if CONDITION.fullmatch(text):
        return text
    better = suggest_condition(text)
    remedy = f"write '{better}'" if better else "use lower-case letters, digits and _"
    raise ValueError(f"{text!r} is not lower-case letters, digits and _; {remedy}")


def find_image(text: str, folder: Path) -> Path:
    """Returns the path of an image file, or of the folder of a DICOM series."""
    return _check(spelt_path(text, folder), text, folders=True)


def find_masks(text: str, folder: Path, image: Path) -> tuple[Path, ...]:
    """Returns the files of a mask, as `split_masks`; none may be the image."""
    files = split_masks(text, folder, spelt_path)
    for file in files:
        _check(file, text if len(files) == 1 else str(file), folders=False)
        if file.resolve() == image.resolve():
            raise ValueError(f"the same file as the image: {text}; name the mask's own file")
    return files


def _check(file: Path, text: str, *, folders: bool) -> Path:
    """Returns the path if it is that of a file; with `folders`, also of a folder."""
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


def parse_label(text: str, masks: Sequence[str]) -> int | str:
    """Returns a label above 0; or labels joined by commas, "lesions", or the name of a segment.

    `masks` names the files of the mask. Without any the label does nothing, so that a column may
    hold the same in every row.
    """
    if not re.fullmatch(r"[+-]?\d+", text):
        joined = re.fullmatch(r"0*[1-9]\d{0,8}(\s*,\s*0*[1-9]\d{0,8})+", text)
        named = not masks or any(mask.lower().endswith(_WITH_NAMES) for mask in masks)
        if joined or text.lower() == EACH_LABEL or named:
            return text
        raise ValueError(f"{text!r} is not an integer; write the label, or give none")
    label = int(text)
    if not 0 < label <= _LARGEST_LABEL:
        fault = "background" if label <= 0 else "larger than any label"
        raise ValueError(f"{text} is {fault}; write a label above 0, or give none")
    return label


def parse_b_value(text: str, decimal_comma: bool = False) -> float:
    """Returns a b-value in s/mm²; with `decimal_comma`, 800,5 is 800.5."""
    if _THOUSANDS.fullmatch(text):
        plain = re.sub("[.,]", "", text)
        raise ValueError(f"{text!r} can be read in two ways; write {plain}, or clear it")
    try:
        value = float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is not a number of s/mm², 0 or above; correct or clear it")
    return value


def parse_tumour(text: str) -> bool:
    """Returns whether the image shows tumour."""
    if text.lower() not in _YES_NO:
        raise ValueError(f"{text!r} is not 'yes' or 'no'; write one of them, or clear it")
    return _YES_NO[text.lower()]


def parse_split(text: str) -> str:
    """Returns "train", "validation" or "test"."""
    name = text.lower()
    if name in ("val", "valid"):
        return "validation"
    if name in _SPLITS:
        return name
    close = difflib.get_close_matches(name, _SPLITS, n=1)
    remedy = "write one of them, or leave the whole column empty to have the split drawn"
    if close:
        remedy = f"write '{close[0]}'"
    raise ValueError(f"{text!r} is not 'train', 'validation' or 'test'; {remedy}")
