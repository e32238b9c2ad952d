"""`cohort.csv` into validated cases, and the split by patient.

The file has one row an image: ``patient,condition,image,mask`` and optionally ``mask_label`` (the
integer in the mask that counts; empty: any non-zero) and ``split`` (``train`` or ``test``; absent:
drawn here). Paths are relative to the file. A *case* is a patient under a condition (for example
``pre_dwi``) and may have several images.

The split follows Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z: by
patient, 6:4. The number of test patients is rounded up, which gives the paper's 66 / 45 of 111.
It is drawn over every patient of the file whatever the conditions asked for, so that a patient who
is tested under one condition is never trained on under another.

Every wrong row is reported at once, with its number as a spreadsheet shows it (the header is 1).
"""

import csv
import dataclasses
import difflib
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

REQUIRED = ("patient", "condition", "image", "mask")
OPTIONAL = ("mask_label", "split")
SPLITS = ("train", "validation", "test")
_CONDITION = re.compile(r"[a-z0-9_]+")


class CohortError(ValueError):
    """A cohort that cannot be used; the message has one line for each thing to correct."""


@dataclasses.dataclass(frozen=True)
class ImagePair:
    """One image and its mask; `mask_label` None means any non-zero; `row` as in a spreadsheet."""

    image: Path
    mask: Path
    mask_label: int | None
    row: int


@dataclasses.dataclass(frozen=True)
class Case:
    """A patient under a condition, with all the images of it in the order of the file."""

    patient: str
    condition: str
    images: tuple[ImagePair, ...]
    split: Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row whose cells passed: `split` is "" where the file gives none."""

    number: int
    patient: str
    condition: str
    pair: ImagePair
    split: str


def read_cohort(
    path: str | Path,
    *,
    conditions: Sequence[str],
    test_conditions: Sequence[str] | None = None,
    test_fraction: float = 0.4,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> tuple[Case, ...]:
    """Reads a cohort file into cases, ordered by split, patient and condition.

    Args:
      path: the cohort file (UTF-8, comma-separated, first row the header).
      conditions: conditions to train and validate on.
      test_conditions: conditions to test on; None: the same.
      test_fraction: share of all patients that are tested, where the file has no `split`.
      validation_fraction: share of the training patients that are set aside to validate on.
      seed: of the drawn splits; they depend on it and on the set of patients, not on row order.

    Raises:
      CohortError: listing everything that is wrong with the file or with what is asked of it.
    """
    path = Path(path)
    rows = _read_rows(path)
    wanted = {"train": tuple(conditions), "validation": tuple(conditions)}
    wanted["test"] = tuple(conditions if test_conditions is None else test_conditions)
    _check_wanted(path, rows, wanted)
    split_of = _split_patients(rows, test_fraction, validation_fraction, seed)

    pairs: dict[tuple[int, str, str], list[ImagePair]] = {}
    for row in rows:
        split = split_of[row.patient]
        if row.condition in wanted[split]:
            key = (SPLITS.index(split), row.patient, row.condition)
            pairs.setdefault(key, []).append(row.pair)
    cases = tuple(
        Case(patient, condition, tuple(images), SPLITS[split])
        for (split, patient, condition), images in sorted(pairs.items(), key=lambda kv: kv[0])
    )
    for split in ("train", "test"):
        if not any(case.split == split for case in cases):
            raise CohortError(
                f"{path}, column 'split': no {split} case is left for "
                f"{', '.join(wanted[split])} ({len(split_of)} patients in all); add patients, "
                f"name some as '{split}' in the column 'split', or change the test fraction "
                f"({test_fraction:g}) or the conditions"
            )
    return cases


def _read_rows(path: Path) -> list[_Row]:
    table = _read_table(path)
    number, header = table[0]
    header = [name.strip() for name in header]
    problems = _check_header(path, number, header)
    if problems:
        raise CohortError("\n".join(problems))
    if len(table) == 1:
        raise CohortError(f"{path}: no rows below the header; add one row an image")

    rows: list[_Row] = []
    for number, cells in table[1:]:
        if len(cells) != len(header):
            problems.append(
                f"{path}, row {number}: {len(cells)} cells under {len(header)} columns; correct "
                "the commas of the row (put a cell that holds a comma in double quotes)"
            )
            continue
        row, wrong = _read_row(path, number, dict(zip(header, map(str.strip, cells), strict=True)))
        problems += wrong
        if row is not None:
            rows.append(row)
    problems += _check_together(path, rows)
    if problems:
        raise CohortError("\n".join(problems))
    return rows


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


def _check_header(path: Path, number: int, header: list[str]) -> list[str]:
    known = REQUIRED + OPTIONAL
    where = f"{path}, row {number}"
    if len(header) == 1 and re.search(r"[;\t|]", header[0]):
        return [f"{where}: one column named {header[0]!r}; separate the cells with commas"]
    problems = []
    for name in sorted({name for name in header if name in known and header.count(name) > 1}):
        problems.append(f"{where}, column '{name}': stands {header.count(name)} times; keep one")
    absent = [name for name in known if name not in header]
    meant = {}
    for name in header:
        # 'patient_id' beside 'patient' is somebody's extra column; without it, it is a slip.
        close = difflib.get_close_matches(name.lower().replace(" ", "_"), absent, n=1, cutoff=0.75)
        if name not in known and close:
            meant[close[0]] = name
            problems.append(f"{where}, column '{name}': unknown; rename it to '{close[0]}'")
    for name in REQUIRED:
        if name in absent and name not in meant:
            problems.append(
                f"{where}, column '{name}': missing; add it (there are: {', '.join(header)})"
            )
    return problems


def _read_row(path: Path, number: int, cells: dict[str, str]) -> tuple[_Row | None, list[str]]:
    """Checks what a row alone can tell."""
    problems: list[str] = []

    def wrong(column: str, text: str) -> None:
        problems.append(f"{path}, row {number}, column '{column}': {text}")

    for column in REQUIRED:
        if not cells[column]:
            wrong(column, "empty; fill the cell or delete the row")
    condition = cells["condition"]
    if condition and not _CONDITION.fullmatch(condition):
        better = re.sub(r"[^a-z0-9]+", "_", condition.lower()).strip("_")
        remedy = f"write '{better}'" if better else "use lower-case letters, digits and _"
        wrong("condition", f"{condition!r} is not lower-case letters, digits and _; {remedy}")
    files = {}
    for column in ("image", "mask"):
        if not cells[column]:
            continue
        files[column] = path.parent / cells[column]
        if not files[column].is_file():
            found = "not a file" if files[column].exists() else "file not found"
            remedy = "correct the path (relative to the folder of the cohort file)"
            wrong(column, f"{found}: {cells[column]}; {remedy}")
    if len(files) == 2 and files["image"].resolve() == files["mask"].resolve():
        wrong("mask", f"the same file as the image: {cells['mask']}; name the mask's own file")
    label, text = None, cells.get("mask_label", "")
    if text:
        try:
            label = int(text)
        except ValueError:
            wrong("mask_label", f"{text!r} is not an integer; write the label or leave it empty")
        else:
            if label <= 0:
                wrong(
                    "mask_label", f"{label} is background; write a label above 0 or leave it empty"
                )
    split = cells.get("split", "")
    if split not in ("", "train", "test"):
        wrong("split", f"{split!r} is not 'train' or 'test'; {_split_remedy(split)}")
    if problems:
        return None, problems
    pair = ImagePair(files["image"], files["mask"], label, number)
    return _Row(number, cells["patient"], condition, pair, split), []


def _split_remedy(word: str) -> str:
    close = difflib.get_close_matches(word.lower(), ("train", "test"), n=1)
    if close:
        return f"write '{close[0]}'"
    if word.lower().startswith("val"):
        return "write 'train': validation patients are drawn out of the training patients"
    return "write one of them, or leave the whole column empty to have the split drawn"


def _check_together(path: Path, rows: Sequence[_Row]) -> list[str]:
    """Checks what only several rows together can tell."""
    problems: list[str] = []
    first: dict[Path, list[_Row]] = {}
    for row in rows:
        earlier = first.setdefault(row.pair.image.resolve(), [])
        for other in earlier:
            where = f"{path}, row {row.number}, column 'image': {row.pair.image.name}"
            if other.patient != row.patient:
                problems.append(
                    f"{where} is also patient {other.patient!r}'s in row {other.number}, but here "
                    f"{row.patient!r}'s; correct the patient or the path"
                )
            elif other.condition == row.condition:
                problems.append(
                    f"{where} stands already in row {other.number} for the same patient and "
                    "condition; delete one of the two rows"
                )
        earlier.append(row)

    with_split = [row for row in rows if row.split]
    without = [row.number for row in rows if not row.split]
    if with_split and without:
        problems.append(
            f"{path}, column 'split': empty in {_numbers(without)} but given in "
            f"{_numbers(row.number for row in with_split)}; fill it in every row or in none"
        )
    for patient in sorted({row.patient for row in with_split}):
        own = {
            split: [r.number for r in with_split if r.patient == patient and r.split == split]
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


def _check_wanted(path: Path, rows: Sequence[_Row], wanted: dict[str, tuple[str, ...]]) -> None:
    there = sorted({row.condition for row in rows})
    asked = dict.fromkeys(wanted["train"] + wanted["test"])
    if not wanted["train"] or not wanted["test"]:
        raise CohortError(f"{path}: no condition asked for; choose from {', '.join(there)}")
    absent = [condition for condition in asked if condition not in there]
    if absent:
        close = difflib.get_close_matches(absent[0], there, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise CohortError(
            f"{path}, column 'condition': no row with {', '.join(absent)}{hint}; the conditions "
            f"there are: {', '.join(there)}"
        )


def _split_patients(
    rows: Sequence[_Row], test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, str]:
    """Returns the split of every patient of the file."""
    given = {row.patient: row.split for row in rows}
    patients = sorted(given)  # sorted: the draw must not depend on the order of the rows
    rng = np.random.default_rng(seed)
    if any(given.values()):
        train = [patient for patient in patients if given[patient] == "train"]
    else:
        order = [patients[i] for i in rng.permutation(len(patients))]
        tests = math.ceil(test_fraction * len(order) - 1e-9)
        train = sorted(order[tests:])
    split_of = dict.fromkeys(patients, "test") | dict.fromkeys(train, "train")

    held_out = 0
    if validation_fraction > 0 and len(train) >= 2:
        held_out = min(max(1, round(validation_fraction * len(train))), len(train) - 1)
    for i in rng.permutation(len(train))[:held_out]:
        split_of[train[i]] = "validation"
    return split_of
