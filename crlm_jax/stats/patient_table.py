"""Reads a table of patients: a CSV file with one row per patient."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crlm_jax.errors import UserError

MISSING = ("", "na", "n/a", "nan", "null", ".", "-", "–", "?")  # in upper or lower case

# Of the names of phantom patients, in tables, files and pictures, by version of the phantom. The
# first starts all.
PHANTOM_PREFIXES = {1: "phantom-", 2: "phantom-v2-"}


class TableError(UserError):
    """A patient table that cannot be used; the message has one line for each correction."""


@dataclass(frozen=True)
class Patients:
    """The cells of a patient table."""

    path: Path
    rows: list[int]  # row number of each patient in a spreadsheet
    columns: dict[str, list[str]]  # cells by column; missing cells are ""

    def where(self, i: int, name: str) -> str:
        """Names the cell of patient `i` (from 0) in a column, for the start of a message."""
        return f"{self.path}, row {self.rows[i]}, column '{name}'"


def read_patients(path: str | Path) -> Patients:
    """Reads a CSV file with a header, one row per patient, and a column `patient`.

    Raises:
      TableError: the file is missing, is not such a CSV, or has wrong rows.
    """
    path = Path(path)
    if path.is_dir():
        raise TableError(f"{path}: is a folder; give the CSV file in it")
    if not path.is_file():
        raise TableError(f"{path}: patient table not found; correct its path")
    try:
        lines = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
        table = [(n, [cell.strip() for cell in cells]) for n, cells in enumerate(lines, start=1)]
    except (UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise TableError(
            f"{path}: not readable as CSV in UTF-8 ({reason}); save it as UTF-8 text with commas"
        ) from error
    table = [(number, cells) for number, cells in table if any(cells)]
    if len(table) < 2:
        raise TableError(f"{path}: no patients; write a header, and below it one row per patient")
    (top, header), *rows = table
    where = f"{path}, row {top}"
    if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
        raise TableError(f"{where}: only one column; separate the cells with commas")
    if "patient" not in header:
        raise TableError(f"{where}: no column 'patient'; rename the patients' column of {header}")
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise TableError(f"{where}: two columns are called '{repeated[0]}'; rename one")
    _check_rows(path, header, rows)
    columns = {name: [cells[i] for _, cells in rows] for i, name in enumerate(header)}
    for name in header:
        if name != "patient":
            columns[name] = ["" if x.lower() in MISSING else x for x in columns[name]]
    return Patients(path, [number for number, _ in rows], columns)


def _check_rows(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    """Raises TableError unless each row has a cell for each column, and a patient of its own."""
    problems = []
    first_rows: dict[str, int] = {}
    for number, cells in rows:
        where = f"{path}, row {number}"
        if len(cells) != len(header):
            problems.append(
                f"{where}: {len(cells)} cells under {len(header)} columns; correct the commas of "
                "the row (put a cell that holds a comma in double quotes)"
            )
            continue
        patient = cells[header.index("patient")]
        if not patient:
            problems.append(f"{where}, column 'patient': empty; name the patient")
        elif (first := first_rows.setdefault(patient, number)) != number:
            problems.append(
                f"{where}, column 'patient': {patient!r} is in row {first} too; keep one row per "
                "patient"
            )
    if problems:
        raise TableError("\n".join(problems))


def phantom_mark(patients: Iterable[str]) -> str:
    """Returns what a title says where patients are digital phantoms, as their names say.

    Such as " (PHANTOM, version 2)"; "" where none is.
    """
    found = {
        max(version for version, prefix in PHANTOM_PREFIXES.items() if patient.startswith(prefix))
        for patient in patients
        if patient.startswith(PHANTOM_PREFIXES[1])
    }
    if not found:
        return ""
    return f" (PHANTOM, version {' and '.join(map(str, sorted(found)))})"
