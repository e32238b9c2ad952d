"""Table 1 through its functions and its command line, against published examples."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from crlm_jax.stats.command import main
from crlm_jax.stats.patient_table import TableError, read_patients
from crlm_jax.stats.table_one import (
    compare_counts,
    compare_means,
    compare_ranks,
    format_p,
    table_one,
)
from crlm_jax.system.console import exit_code

# Student's sleep data (Biometrika 6:20, 1908), as in R's t.test: Welch's p = 0.07939.
SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
# Hollander and Wolfe (1973), p. 69, as in R's wilcox.test: exact one-sided p = 0.1272.
PERMEABILITY = (
    [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46],
    [1.15, 0.88, 0.90, 0.74, 1.21],
)


def write(folder, rows, name="patients.csv"):
    path = folder / name
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def patients(tmp_path):
    """20 patients of two groups; every variable has a known test."""
    sex = ["male", "female"] * 10
    site = ["rectum", "left colon", "right colon", "rectum"] * 5
    rows = [["patient", "split", "extra", "sex", "site", "diameter", "remark", "stage"]]
    for i, extra in enumerate(SLEEP[0] + SLEEP[1]):
        group = "train" if i < 10 else "test"
        diameter = "n/a" if i in (3, 12, 13) else 20.5 + i
        rows.append([f"p{i}", group, extra, sex[i], site[i], diameter, f"see {i}", 2 + i % 3])
    return write(tmp_path, rows)


def test_the_tests_give_the_published_values():
    p, test = compare_means(*map(np.array, SLEEP))
    assert (p, test) == (pytest.approx(0.07939, abs=5e-6), "Welch's t")
    p, test = compare_ranks(*map(np.array, PERMEABILITY))
    assert (p, test) == (pytest.approx(2 * 0.1272, abs=1e-4), "Mann-Whitney U")
    # Agresti, Introduction to Categorical Data Analysis (2007), as in R's chisq.test.
    p, test, warning = compare_counts(np.array([[762, 484], [327, 239], [468, 477]]))
    assert (p, test, warning) == (pytest.approx(2.954e-7, rel=1e-3), "Pearson's χ²", "")
    # Without continuity correction: χ² = 100 · (30 · 30 − 20 · 20)² / 50⁴ = 4.
    p, test, _ = compare_counts(np.array([[30, 20], [20, 30]]))
    assert (p, test) == (pytest.approx(0.0455, abs=5e-5), "Pearson's χ²")
    # Fisher's lady and her tea: two-sided p = 0.4857.
    p, test, warning = compare_counts(np.array([[3, 1], [1, 3]]))
    assert (p, test) == (pytest.approx(0.4857, abs=5e-5), "Fisher's exact")
    assert warning == "4 of 4 expected counts are below 5: Fisher's exact"


@pytest.mark.parametrize(
    ("counts", "test", "warned"),
    [
        ([[5, 5], [5, 5]], "Pearson's χ²", False),
        ([[4, 5], [6, 5]], "Fisher's exact", True),
        ([[20, 20], [20, 20], [20, 20], [20, 20], [4, 4]], "Pearson's χ²", False),
        ([[20, 20], [20, 20], [4, 4]], "Pearson's χ²", True),
        ([[90, 90]] * 5 + [[1, 0]], "Pearson's χ²", True),
    ],
)
def test_expected_counts_are_checked(counts, test, warned):
    p, name, warning = compare_counts(np.array(counts))
    assert 0 <= p <= 1
    assert (name, bool(warning)) == (test, warned)


def test_what_has_no_test():
    few, equal = np.array([1.0]), np.array([2.0, 2.0])
    assert compare_means(few, equal)[0] is None
    assert compare_means(equal, equal + 1)[0] is None
    assert compare_ranks(equal, equal)[0] is None
    assert compare_ranks(few, np.array([]))[0] is None
    assert compare_counts(np.array([[3, 4]]))[0] is None
    assert compare_counts(np.array([[3, 0], [4, 0]]))[0] is None


def test_p_values_are_written_with_their_star():
    written = [format_p(p) for p in (None, 1.0, 0.05, 0.0499, 0.0004)]
    assert written == ["–", "1.000", "0.050", "0.050 *", "< 0.001 *"]


def test_the_table_of_known_patients(patients):
    table = table_one(read_patients(patients), "split", {"diameter": "ordinal"})
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header == ["variable", "train (n = 10)", "test (n = 10)", "p", "test", "kind"]
    assert rows["extra, mean ± SD"] == [
        "0.75 ± 1.79", "2.33 ± 2.00", "0.079", "Welch's t", "continuous",
    ]  # fmt: skip
    assert rows["diameter, median (IQR)"][:2] == ["25.50 (22.50–27.50)", "36.00 (33.75–37.75)"]
    assert rows["diameter, median (IQR)"][3:] == ["Mann-Whitney U", "ordinal"]
    assert rows["  missing"][:2] == ["1", "2"]
    assert rows["  male"][:2] == ["5 (50.0 %)", "5 (50.0 %)"]
    assert [row[0] for row in table.rows if row[0] in ("  2", "  3", "  4")] == [
        "  2",
        "  3",
        "  4",
    ]
    assert table.p_values["extra"] == pytest.approx(0.07939, abs=5e-6)
    assert table.p_values["sex"] == 1
    assert set(table.p_values) == {"extra", "sex", "site", "diameter", "stage"}
    said = "\n".join(table.notes)
    assert "extra (continuous), sex (categorical), site (categorical), stage (categorical)" in said
    assert "diameter (" not in said
    warned = "\n".join(table.warnings)
    assert "remark: 20 different texts; left out" in warned
    assert "site: 4 of 6 expected counts are below 5: do not rely on p" in warned


def test_kinds_can_be_set(patients):
    kinds = {"extra": "ordinal", "stage": "continuous", "remark": "categorical"}
    table = table_one(read_patients(patients), "split", kinds, leave_out=["site"])
    assert {row[-1] for row in table.rows if row[0].startswith("extra")} == {"ordinal"}
    assert any(row[0] == "stage, mean ± SD" for row in table.rows)
    assert "remark" in table.p_values
    assert "site" not in table.p_values


def test_the_groups_keep_the_order_asked_for(patients):
    table = table_one(read_patients(patients), "split", groups=["test", "train"])
    assert table.header[1:3] == ["test (n = 10)", "train (n = 10)"]


def test_patients_without_a_group_are_said(tmp_path):
    rows = [["patient", "split", "age"], ["a", "train", 50], ["b", "train", 60], ["c", "", 70]]
    path = write(tmp_path, [*rows, ["d", "test", 55], ["e", "test", 66], ["f", "val", 1]])
    table = table_one(read_patients(path), "split", {"age": "continuous"}, ["train", "test"])
    assert "2 patients of no or another split are left out" in table.notes
    assert table.rows[0][1].startswith("55.0")


HEADER = ["patient", "split", "age", "sex"]
GOOD = [[f"p{i}", "train" if i % 2 else "test", 50 + i, "male"] for i in range(6)]


@pytest.mark.parametrize(
    ("rows", "messages"),
    [
        ([HEADER], ["patients.csv: no patients"]),
        ([["id", "split"], ["a", "train"]], ["row 1: no column 'patient'"]),
        (
            [["patient;split"], ["a;train"]],
            ["row 1: only one column; separate the cells with commas"],
        ),
        ([["patient", "split", "split"], ["a", 1, 2]], ["row 1: two columns are called 'split'"]),
        (
            [HEADER, *GOOD, ["p0", "test", 50, "male"], ["", "test", 50, "male"], ["p9", "test"]],
            [
                "row 8, column 'patient': 'p0' is in row 2 too",
                "row 9, column 'patient': empty",
                "row 10: 2 cells under 4 columns",
            ],
        ),
        (
            [HEADER, *GOOD, ["p8", "test", "68y", "male"], ["p9", "test", "7,5", "Male"]],
            [
                "row 8, column 'age': '68y' is no number",
                "row 9, column 'age': '7,5' is no number",
                "row 9, column 'sex': 'Male' and 'male' above differ in spelling",
            ],
        ),
        (
            [HEADER, *GOOD, ["p8", "Test", 50, "male"]],
            ["row 8, column 'split': 'Test' and 'test' above"],
        ),
        (
            [HEADER, *GOOD, ["p8", "validation", 50, "male"]],
            ["column 'split': 3 groups (test, train, validation), not two; choose two by --groups"],
        ),
        (
            [HEADER, *GOOD[::2]],
            ["column 'split': 1 groups (test), not two; name another column"],
        ),
    ],
)
def test_each_error_is_one_line_with_its_place(tmp_path, capsys, rows, messages):
    assert exit_code(main, ["cohort", str(write(tmp_path, rows))]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith("error: ")
        assert message in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group", "centre"], "no column 'centre'; choose one of patient, split, extra"),
        (["--ordinal", "size"], "no column 'size'"),
        (["--groups", "train,nobody"], "column 'split': no group 'nobody'; choose two of"),
        (["--ordinal", "sex"], "row 2, column 'sex': 'male' is no number"),
        (["--ordinal", "extra", "--continuous", "extra"], "extra: also given as --continuous"),
        (["--out", "table.xlsx"], "--out table.xlsx: choose the ending .csv or .md"),
        (["--out", "nowhere/table.md"], "there is no folder nowhere"),
    ],
)
def test_wrong_flags(patients, capsys, flags, message):
    assert exit_code(main, ["cohort", str(patients), *flags]) == 1
    assert message in capsys.readouterr().err


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TableError, match="not found"):
        read_patients(tmp_path / "nothing.csv")
    (tmp_path / "latin.csv").write_bytes("patient,split\nMüller,train\n".encode("latin-1"))
    with pytest.raises(TableError, match="UTF-8"):
        read_patients(tmp_path / "latin.csv")


def test_the_table_is_written_and_never_over_another(patients, tmp_path, capsys):
    flags = ["cohort", str(patients), "--ordinal", "diameter", "--out"]
    assert exit_code(main, [*flags, str(tmp_path / "one.csv")]) == 0
    assert exit_code(main, [*flags, str(tmp_path / "one.md")]) == 0
    table = list(csv.reader((tmp_path / "one.csv").read_text("utf-8-sig").splitlines()))
    assert table[0][0] == "variable"
    assert ["extra, mean ± SD", "0.75 ± 1.79", "2.33 ± 2.00", "0.079"] in [x[:4] for x in table]
    text = (tmp_path / "one.md").read_text()
    assert "| extra, mean ± SD | 0.75 ± 1.79 | 2.33 ± 2.00 | 0.079 | Welch's t |" in text
    assert "| &emsp;male | 5 (50.0 %) |" in text
    assert "- two-sided" in text
    capsys.readouterr()
    assert exit_code(main, ["cohort", str(patients), "--out", str(patients)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert exit_code(main, [*flags, str(tmp_path / "one.md"), "--force"]) == 0


def test_phantom_patients_are_labelled(tmp_path, capsys):
    rows = [HEADER, *[[f"phantom-{x[0]}", *x[1:]] for x in GOOD]]
    path, out = write(tmp_path, rows), tmp_path / "out.csv"
    assert exit_code(main, ["cohort", str(path), "--out", str(out)]) == 0
    assert "(PHANTOM, version 1)" in capsys.readouterr().out
    assert "PHANTOM" in out.read_text()


def test_as_a_command(patients):
    command = [sys.executable, "-m", "crlm_jax.stats", "cohort", str(patients)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "extra, mean ± SD" in done.stdout
    assert "Welch's t" in done.stdout
    assert "kinds guessed" in done.stdout
    assert "warning: remark" in done.stderr
