"""The text of `cohort.csv` as a table, in every form in which spreadsheets save it.

Excel separates cells with semicolons where the comma is the decimal sign, may put `sep=;` above the
header, and saves "Unicode text" as UTF-16 with tabs and plain "CSV" in the code page of Windows.
What was assumed of a text that does not say its encoding is a doubt, for the user to read.
"""

import codecs
import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.errors import UserError

_SAVE = "save it as UTF-8 text with commas (in a spreadsheet: 'CSV UTF-8')"
_SEPARATORS = (",", ";", "\t")
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEP_LINE = re.compile(r'\ufeff?"?sep=(?:"?(?P<sign>[^\w\s"]|\t))?"?[,;\t ]*(?:\r\n|\r|\n|$)', re.I)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # in no text


class CohortError(UserError):
    """A cohort that cannot be used; the message has one line for each thing to correct."""


@dataclasses.dataclass(frozen=True)
class CsvTable:
    """The rows of a file that are not blank: (row number, cells), the header first.

    A row is numbered as a spreadsheet does, which does not count the line `sep=`. The cells are
    divided by `separator`: ",", ";" or a tab.
    """

    rows: list[tuple[int, list[str]]]
    separator: str

    @property
    def decimal_comma(self) -> bool:
        """Whether numbers may have a decimal comma: commas do not separate cells."""
        return self.separator != ","


def read_table(path: Path, columns: Sequence[str], doubts: list[str]) -> CsvTable:
    """Reads a CSV file in any form in which a spreadsheet saves it.

    Args:
      path: the file.
      columns: that the header may name, by which the separator is found.
      doubts: receives what was assumed, a line each.

    Raises:
      CohortError: the file is none, is empty, or is not a table.
    """
    if path.is_dir():
        raise CohortError(f"{path}: is a folder; give the cohort.csv in it")
    if not path.is_file():
        raise CohortError(f"{path}: cohort file not found; correct the path of the cohort file")
    text = _decode(path, path.read_bytes(), doubts)
    text, separator = _without_sep_line(path, text)
    try:
        if separator is None:
            separator = _find_separator(text, columns)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = list(enumerate(lines, start=1))
    except csv.Error as error:
        raise CohortError(f"{path}: not readable as CSV ({error}); {_SAVE}") from error
    # Spreadsheets leave rows of empty cells below the data; they still count as rows.
    rows = [(number, cells) for number, cells in rows if any(cell.strip() for cell in cells)]
    if not rows:
        raise CohortError(
            f"{path}: the file is empty; write the header patient,condition,image,mask and one row "
            "an image"
        )
    return CsvTable(rows, separator)


def normal_name(name: str) -> str:
    """Returns a column's name without capitals; blanks and hyphens count as `_`."""
    name = re.sub(r"[\s_-]+", "_", name.strip().strip("\ufeff").casefold()).strip("_")
    return {"tumor": "tumour"}.get(name, name)


def _decode(path: Path, data: bytes, doubts: list[str]) -> str:
    """Returns the text of a file; an encoding that had to be assumed is a doubt."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None and (encoding := _utf16_without_mark(data)):
        doubts.append(f"{path}: says no encoding; read as UTF-16 by its zero bytes")
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding not in (None, "utf-8-sig"):
            raise CohortError(f"{path}: a damaged UTF-16 or UTF-32 text; {_SAVE}") from error
        text = _as_windows(path, data, error.start, doubts)
    if "\0" in text:
        raise CohortError(f"{path}: not a text file (it holds zero bytes); {_SAVE}")
    return text


def _utf16_without_mark(data: bytes) -> str | None:
    """Whether every second byte of the first line is zero, as in UTF-16 of Latin letters."""
    head = data[:64] if len(data) % 2 == 0 else b""
    if len(head) < 8:
        return None
    if not any(head[1::2]) and all(head[::2]):
        return "utf-16-le"
    return "utf-16-be" if not any(head[::2]) and all(head[1::2]) else None


def _as_windows(path: Path, data: bytes, start: int, doubts: list[str]) -> str:
    """Reads a text that is not UTF-8 as Windows-1252, which Excel's plain CSV mostly is.

    Raises:
      CohortError: it holds bytes that are in no such text, as a picture does.
    """
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        text = "\0"
    if _CONTROL.search(text):
        raise CohortError(f"{path}: not UTF-8 text (byte {start}); {_SAVE}")
    word = next((word for word in re.findall(r"\w+", text) if not word.isascii()), None)
    seen = f", so that it has, for example, '{word[:40]}'" if word else ""
    doubts.append(
        f"{path}: not UTF-8, so it is read as Windows-1252{seen}; if that is not right, {_SAVE}"
    )
    return text


def _without_sep_line(path: Path, text: str) -> tuple[str, str | None]:
    """Takes Excel's line `sep=;` away; returns the rest, and the separator that it names."""
    line = _SEP_LINE.match(text)
    if line is None:
        return text, None
    sign = line["sign"]
    if sign is not None and sign not in _SEPARATORS:
        raise CohortError(
            f"{path}: says that {sign!r} separates its cells; save it with commas, semicolons or "
            "tabs"
        )
    return text[line.end() :], sign


def _find_separator(text: str, columns: Sequence[str]) -> str:
    """Returns the separator by which the header has most of the known columns; else a comma."""
    header = next((line for line in text.splitlines() if line.strip(" ,;\t\ufeff")), "")

    def known(separator: str) -> int:
        try:
            cells = next(csv.reader([header], delimiter=separator), [])
        except csv.Error:  # the whole file is read, and refused, next
            return 0
        return len({normal_name(cell) for cell in cells} & set(columns))

    return max(_SEPARATORS, key=known)  # of equals the first
