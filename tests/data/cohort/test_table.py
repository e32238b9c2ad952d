"""Cohort files in the forms in which spreadsheets save them, and the paths that are in them."""

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from crlm_jax.data.cohort.paths import spelt_path
from crlm_jax.data.cohort.rows import CohortError, Row, read_rows

HEADER = ["patient", "condition", "image", "mask", "b_value"]
CELLS = ["Müller, A", "pre_dwi", "im1", "ma1", "800"]


def read(folder: Path, content: str | bytes) -> tuple[list[Row], list[str], list[str]]:
    """Returns the rows, the problems and the doubts of a cohort file with such a content."""
    for name in ("im1", "ma1", "im2", "ma2"):
        (folder / name).touch()
    path = folder / "cohort.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    doubts: list[str] = []
    rows, problems = read_rows(path, doubts)
    return rows, problems, doubts


def text_of(separator: str, first: str = "", header: list[str] | None = None) -> str:
    lines = [header or HEADER, ['"Müller, A"', *CELLS[1:]]]
    return first + "\r\n".join(separator.join(line) for line in lines) + "\r\n"


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark", "utf-32"]


def encoded(text: str, encoding: str) -> bytes:
    mark = "\ufeff" if encoding.endswith("-mark") else ""
    return (mark + text).encode(encoding.removesuffix("-mark"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("sep_line", [False, True])
def test_every_separator_in_every_encoding(tmp_path, encoding, separator, sep_line):
    first = f"sep={separator}\r\n" * sep_line
    rows, problems, doubts = read(tmp_path, encoded(text_of(separator, first), encoding))
    assert (problems, doubts) == ([], [])
    (row,) = rows
    assert (row.patient, row.row, row.b_value) == ("Müller, A", 2, 800.0)


@pytest.mark.parametrize("line", ["SEP=;", '"sep=;"', "sep=;;;;", "sep=;\r", 'sep=";"'])
def test_forms_of_the_line_that_names_the_separator(tmp_path, line):
    rows, problems, _ = read(tmp_path, text_of(";", line + "\n"))
    assert (len(rows), problems) == (1, [])


def test_a_separator_that_is_none_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"says that '\^' separates its cells; save it with"):
        read(tmp_path, text_of("^", "sep=^\n"))


def test_headers_in_capitals_and_with_blanks(tmp_path):
    header = [" PATIENT", "Condition ", "Image", "MASK", "B Value"]
    rows, problems, _ = read(tmp_path, text_of(";", header=header))
    assert (problems, rows[0].b_value) == ([], 800.0)
    rows, problems, _ = read(tmp_path, text_of(",", header=[*header[:4], "b-value"]))
    assert (problems, rows[0].b_value) == ([], 800.0)


def test_windows_1252_is_read_and_said(tmp_path):
    rows, problems, doubts = read(tmp_path, text_of(";").encode("cp1252"))
    assert (problems, rows[0].patient) == ([], "Müller, A")
    (doubt,) = doubts
    assert (
        "not UTF-8, so it is read as Windows-1252, so that it has, for example, 'Müller'" in doubt
    )
    assert "CSV UTF-8" in doubt


def test_utf_16_without_a_mark_is_read_and_said(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        rows, problems, doubts = read(tmp_path, text_of("\t").encode(encoding))
        assert (problems, rows[0].patient) == ([], "Müller, A")
        assert len(doubts) == 1
        assert "read as UTF-16" in doubts[0]


def test_a_utf_16_file_that_is_cut_off(tmp_path):
    with pytest.raises(CohortError, match=r"cohort\.csv: a damaged UTF-16"):
        read(tmp_path, text_of(";").encode("utf-16")[:-1])


@pytest.mark.parametrize(
    ("separator", "cell", "value"),
    [(";", "800,5", 800.5), ("\t", "0,5", 0.5), (";", "800.5", 800.5), (",", "800.5", 800.5)],
)
def test_decimal_commas(tmp_path, separator, cell, value):
    text = text_of(separator).replace("800", cell)
    assert read(tmp_path, text)[0][0].b_value == value


@pytest.mark.parametrize(
    ("separator", "cell", "part"),
    [
        (";", "1.000", "'1.000' can be read in two ways; write 1000"),
        (",", '"1,000"', "'1,000' can be read in two ways; write 1000"),
        (",", '"800,5"', "'800,5' is not a number of s/mm²"),
        (";", "8,0,0", "'8,0,0' is not a number of s/mm²"),
    ],
)
def test_numbers_that_are_none(tmp_path, separator, cell, part):
    rows, problems, _ = read(tmp_path, text_of(separator).replace("800", cell))
    assert rows == []
    assert part in problems[0]


def test_cells_that_excel_leaves_out_or_adds(tmp_path):
    lines = ["patient;condition;image;mask;b_value;;", "a;ct;im1;ma1", "b;ct;im2;ma2;;;;;;"]
    rows, problems, doubts = read(tmp_path, "\n".join(lines))
    assert ([row.patient for row in rows], problems) == (["a", "b"], [])
    (doubt,) = doubts
    assert "row 2: fewer cells than columns; those at the end are taken as empty" in doubt
    _, problems, _ = read(tmp_path, "\n".join([lines[0], "a;ct;im1", "b;ct;im2;ma2;;;;x"]))
    assert "row 2: 3 cells under 7 columns; correct the semicolons of the row" in problems[0]
    assert "row 3: 8 cells under 7 columns" in problems[1]


# Paths


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="where a backslash is no stroke")
def test_paths_of_windows(tmp_path):
    file = touch(tmp_path / "p01" / "scans" / "dwi.nii.gz")
    for text in (r"p01\scans\dwi.nii.gz", r".\p01\scans/dwi.nii.gz", r'"p01\scans\dwi.nii.gz"'):
        assert spelt_path(text, tmp_path).samefile(file)
    for text in (r"D:\study\p01\scans\dwi.nii.gz", r"\\server\share\p01\scans\dwi.nii.gz"):
        with pytest.raises(ValueError, match=r"a path of Windows, whose drive or server is") as why:
            spelt_path(text, tmp_path)
        assert str(why.value).endswith("cohort file, such as p01/scans/dwi.nii.gz")
    with pytest.raises(ValueError, match=r"folder of the cohort file$"):
        spelt_path(r"C:\gone.nii", tmp_path)
    odd = touch(tmp_path / r"a\b.nii")  # a file whose name has a backslash
    assert spelt_path(r"a\b.nii", tmp_path) == odd


def test_home_and_variables(tmp_path, monkeypatch):
    file = touch(tmp_path / "data" / "x.nii")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("CRLM_STUDY", str(tmp_path / "data"))
    for text in ("~/data/x.nii", r"~\data\x.nii", "$CRLM_STUDY/x.nii", "${CRLM_STUDY}/x.nii",
                 r"%CRLM_STUDY%\x.nii"):  # fmt: skip
        assert spelt_path(text, tmp_path / "elsewhere") == file
    literal = touch(tmp_path / "$CRLM_STUDY" / "x.nii")
    assert spelt_path("$CRLM_STUDY/x.nii", tmp_path) == literal


def test_a_variable_or_home_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CRLM_NONE", raising=False)
    for text in ("$CRLM_NONE/x.nii", "a/${CRLM_NONE}.nii", "%CRLM_NONE%/x.nii"):
        with pytest.raises(ValueError, match=r"the variable \S*CRLM_NONE\S* is not set here"):
            spelt_path(text, tmp_path)
    with pytest.raises(ValueError, match=r"there is no home folder ~no-such-user-here here"):
        spelt_path("~no-such-user-here/x.nii", tmp_path)


def test_no_message_shows_the_value_of_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("CRLM_TOKEN", "very-secret")
    text = "\n".join([",".join(HEADER), "a,ct,$CRLM_TOKEN/x.nii,ma1,"])
    _, problems, _ = read(tmp_path, text)
    assert "file not found: $CRLM_TOKEN/x.nii" in problems[0]
    assert "very-secret" not in "".join(problems)


def test_accents_of_another_unicode_form(tmp_path):
    names = os.listdir(touch(tmp_path / unicodedata.normalize("NFD", "Müller.nii")).parent)
    assert spelt_path(unicodedata.normalize("NFC", "Müller.nii"), tmp_path).name in names
