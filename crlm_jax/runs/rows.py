"""The rows of a run's tables, such as `cases.csv`: written, and read again for the report."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints

from crlm_jax.errors import UserError
from crlm_jax.system.files import write_whole
from crlm_jax.system.text import to_csv

Value = float | int | None  # None: undefined, an empty cell


@dataclass(frozen=True)
class CaseRow:
    """A test case and its measures; a row of `cases.csv`."""

    patient: str
    condition: str
    slices: int
    tumour_slices: int
    measures: dict[str, Value]  # by the names of `measures.table.MEASURES`, in their order

    def cells(self) -> dict[str, object]:
        """Returns the cells by column."""
        columns = {name: value for name, value in vars(self).items() if name != "measures"}
        return columns | self.measures

    def defined(self, name: str) -> float:
        """Returns a measure that is known to be defined."""
        value = self.measures[name]
        assert value is not None, name
        return value


@dataclass(frozen=True)
class LesionRow:
    """A lesion of the reference or of the prediction; a row of `lesions.csv`."""

    patient: str
    condition: str
    image: int  # within the case, from 0
    mask: str  # "reference" or "prediction"
    lesion: int  # within the image and mask, from 1
    partner: int | None  # the lesion of the other mask that it is paired with
    volume_mm3: float
    diameter_mm: float  # longest axial diameter
    short_axis_mm: float
    slice: int  # of the longest diameter, from 0
    centre_l_mm: float  # towards the patient's left
    centre_p_mm: float  # towards the back
    centre_s_mm: float  # towards the head


@dataclass(frozen=True)
class ResponseRow:
    """A patient's response to chemotherapy by one mask; a row of `responses.csv`."""

    patient: str
    sequence: str
    mask: str  # "reference" or "prediction"
    response: str
    sum_pre_mm: float
    sum_post_mm: float
    sum_change_percent: float | None
    volume_pre_mm3: float
    volume_post_mm3: float
    volume_change_percent: float | None
    paired: str  # of `recist.rules.PAIRED`
    doubts: str  # why lesions were not paired though the scans were registered; empty: none


@dataclass(frozen=True)
class CalibrationRow:
    """The voxels of a test case in a bin of probability; a row of `calibration.csv`."""

    patient: str
    condition: str
    low: float  # the bin's edges; the upper one is in it
    high: float
    voxels: int
    probability_sum: float  # of the voxels' probabilities
    tumour_voxels: int  # of the reference


@dataclass(frozen=True)
class FrocRow:
    """The lesions of a test case at a threshold of the mask; a row of `froc.csv`."""

    patient: str
    condition: str
    threshold: float
    lesions_reference: int
    lesions_found: int
    false_positives: int


_Read = TypeVar("_Read", CalibrationRow, FrocRow)


def write_cases(path: Path, rows: Sequence[CaseRow]) -> None:
    """Writes `cases.csv`: floats with six decimals, undefined measures as empty cells."""
    _write(path, rows[0].cells() if rows else [], (row.cells().values() for row in rows))


def write_lesions(path: Path, rows: Sequence[LesionRow]) -> None:
    """Writes `lesions.csv`."""
    _write(path, [f.name for f in dataclasses.fields(LesionRow)], (vars(r).values() for r in rows))


def write_responses(path: Path, rows: Sequence[ResponseRow]) -> None:
    """Writes `responses.csv`."""
    header = [f.name for f in dataclasses.fields(ResponseRow)]
    _write(path, header, (vars(row).values() for row in rows))


def write_calibration(path: Path, rows: Sequence[CalibrationRow]) -> None:
    """Writes `calibration.csv`."""
    _write(path, [f.name for f in dataclasses.fields(CalibrationRow)], _values(rows))


def write_froc(path: Path, rows: Sequence[FrocRow]) -> None:
    """Writes `froc.csv`."""
    _write(path, [f.name for f in dataclasses.fields(FrocRow)], _values(rows))


def _values(rows: Sequence[CalibrationRow] | Sequence[FrocRow]) -> Iterable[Iterable[object]]:
    return (vars(row).values() for row in rows)


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    cells = ([f"{v:.6f}" if isinstance(v, float) else v for v in row] for row in rows)
    write_whole(path, to_csv([header, *cells]))


def read_cases(path: Path) -> list[CaseRow]:
    """Reads `cases.csv`.

    Raises:
      UserError: naming the row that is no case.
    """
    rows: list[CaseRow] = []
    for line in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
        try:
            patient, condition = line.pop("patient"), line.pop("condition")
            slices, tumour_slices = int(line.pop("slices")), int(line.pop("tumour_slices"))
            measures = {name: float(cell) if cell else None for name, cell in line.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, len(rows) + 2, "a case", error) from error
        rows.append(CaseRow(patient, condition, slices, tumour_slices, measures))
    return rows


def read_calibration(path: Path) -> list[CalibrationRow]:
    """Reads `calibration.csv`; an absent file is empty.

    Raises:
      UserError: naming the row that is no bin.
    """
    return _read(path, CalibrationRow, "a bin")


def read_froc(path: Path) -> list[FrocRow]:
    """Reads `froc.csv`; an absent file is empty.

    Raises:
      UserError: naming the row that is no threshold.
    """
    return _read(path, FrocRow, "a threshold")


def _read(path: Path, kind: type[_Read], what: str) -> list[_Read]:
    if not path.exists():
        return []
    columns: dict[str, type] = get_type_hints(kind)
    rows: list[_Read] = []
    for line in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
        try:
            values = {name: of(line[name]) for name, of in columns.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, len(rows) + 2, what, error) from error
        rows.append(kind(**values))
    return rows


def _damaged(path: Path, row: int, what: str, error: Exception) -> UserError:
    return UserError(
        f"{path}, row {row}: not {what} ({error}); delete report.html in the run and start it "
        "again with the same command, and its cases are measured anew"
    )
