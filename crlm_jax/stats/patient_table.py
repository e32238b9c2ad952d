"""A table of patients, CSV with one row each, as `table_one.py` compares them."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crlm_jax.errors import UserError

MISSING = ("", "na", "n/a", "nan", "null", ".", "-", "–", "?")  # in any case

PHANTOM_PREFIX = "phantom-"  # of the names of phantom patients, in tables, files and pictures


class TableError(UserError):
    """A patient table that cannot be used; the message has one line for each thing to correct."""


@dataclass(frozen=True)
class Patients:
    """A patient table as read: the cells of every column, and the spreadsheet's row of each."""

    path: Path
    rows: list[int]
    columns: dict[str, list[str]]  # "" where missing

    def where(self, i: int, name: str) -> str:
        """Names a cell, to begin a message with."""
        return f"{self.path}, row {self.rows[i]}, column '{name}'"


def read_patients(path: str | Path) -> Patients:
    """Reads a CSV with a header, one row a patient, and a column `patient`; or a `TableError`."""
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: patient table not found; correct its path")
    try:
        lines = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
        table = [(n, [cell.strip() for cell in cells]) for n, cells in enumerate(lines, start=1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(
            f"{path}: not readable as CSV in UTF-8 ({error}); save it as UTF-8 text with commas"
        ) from error
    table = [(number, cells) for number, cells in table if any(cells)]
    if len(table) < 2:
        raise TableError(f"{path}: no patients; write a header and below it one row a patient")
    header = table[0][1]
    if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
        raise TableError(f"{path}, row {table[0][0]}: one column; separate the cells with commas")
    if "patient" not in header:
        raise TableError(f"{path}, row {table[0][0]}: no column 'patient'; it has {header}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise TableError(f"{path}, row {table[0][0]}: column '{twice[0]}' stands twice; rename one")
    problems, seen, place = [], {}, header.index("patient")
    for number, cells in table[1:]:
        where = f"{path}, row {number}"
        if len(cells) != len(header):
            problems.append(
                f"{where}: {len(cells)} cells under {len(header)} columns; correct the commas of "
                "the row (put a cell that holds a comma in double quotes)"
            )
        elif not cells[place]:
            problems.append(f"{where}, column 'patient': empty; name the patient")
        elif (first := seen.setdefault(cells[place], number)) != number:
            problems.append(
                f"{where}, column 'patient': {cells[place]!r} is in row {first} too; keep one row "
                "a patient"
            )
    if problems:
        raise TableError("\n".join(problems))
    columns = {name: [cells[i] for _, cells in table[1:]] for i, name in enumerate(header)}
    for name in header:
        if name != "patient":
            columns[name] = ["" if x.lower() in MISSING else x for x in columns[name]]
    return Patients(path, [number for number, _ in table[1:]], columns)


def has_phantoms(patients: Iterable[str]) -> bool:
    """Whether some of these patients are digital phantoms, as their names say."""
    return any(patient.startswith(PHANTOM_PREFIX) for patient in patients)
