"""The tables of a run as files."""

import pytest

from crlm_jax.errors import UserError
from crlm_jax.runs.rows import (
    CaseRow,
    LesionRow,
    read_calibration,
    read_cases,
    read_froc,
    write_cases,
    write_lesions,
)


def test_cases_are_written_and_read_back(tmp_path):
    row = CaseRow("Müller, A", "ct", 12, 3, {"dsc": 0.5, "dsc_paper": None, "lesions_found": 2})
    write_cases(tmp_path / "cases.csv", [row])
    assert (tmp_path / "cases.csv").read_bytes().decode() == (
        "patient,condition,slices,tumour_slices,dsc,dsc_paper,lesions_found\n"
        '"Müller, A",ct,12,3,0.500000,,2\n'
    )
    assert read_cases(tmp_path / "cases.csv") == [row]


def test_a_table_without_a_lesion_has_its_header(tmp_path):
    path = tmp_path / "lesions.csv"
    write_lesions(path, [])
    header = path.read_text()
    assert header.startswith("patient,condition,image,mask,lesion,partner,volume_mm3,diameter_mm,")
    lesion = LesionRow("a", "ct", 0, "reference", 1, None, 8.0, 2.0, 1.0, 4, -1.0, 2.0, 3.5)
    write_lesions(path, [lesion])
    assert path.read_text() == header + (
        "a,ct,0,reference,1,,8.000000,2.000000,1.000000,4,-1.000000,2.000000,3.500000\n"
    )


@pytest.mark.parametrize(
    ("read", "header", "row", "said"),
    [
        (read_froc, "patient,condition,threshold,lesions_reference,lesions_found,false_positives",
         "a,ct,0.5,1,one,0", r"froc\.csv, row 2: not a threshold .*'one'"),
        (read_calibration, "patient,condition,low,high,voxels", "a,ct,0,0.01,9",
         r"froc\.csv, row 2: not a bin .*probability_sum"),
    ],
)  # fmt: skip
def test_a_damaged_table_of_the_probability_is_named(tmp_path, read, header, row, said):
    path = tmp_path / "froc.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(UserError, match=said):
        read(path)
    assert read(tmp_path / "absent.csv") == []
