"""Cohort files that seem to say what is not read."""

import pytest

from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.data.cohort.rows import CohortError, read_image_rows, read_rows
from tests.data.cohort.test_cases import HEADER, write


@pytest.mark.parametrize(
    ("column", "cells", "doubted"),
    [
        ("set", ("train", "test"), True),
        ("Train/Test", ("Training", "TESTING"), True),
        ("subset", ("val", ""), True),
        ("subset", ("", ""), False),
        ("centre", ("train", "Berlin"), False),
        ("split", ("train", "test"), False),
    ],
)
def test_a_column_that_looks_like_a_split(tmp_path, column, cells, doubted):
    lines = [f"{HEADER},{column}", f"a,dwi,im1,ma1,{cells[0]}", f"b,dwi,im2,ma2,{cells[1]}"]
    path, doubts, of_images = write(tmp_path, lines), [], []
    read_cohort(path, conditions=["dwi"], doubts=doubts)
    unread = column == "centre"  # an empty column says nothing that could be missed
    assert len(doubts) == doubted + unread
    assert (
        not unread or "not read, since no column of a cohort is called so: 'centre';" in doubts[0]
    )
    assert not doubted or f"column {column!r}: looks like a split but is not read" in doubts[0]
    read_image_rows(path, of_images)
    assert of_images == []


def test_a_filled_split_is_the_split(tmp_path):
    header = f"{HEADER},set,split"
    doubts: list[str] = []
    read_rows(write(tmp_path, [header, "a,dwi,im1,ma1,train,test"]), doubts)
    assert ["'set'" in doubt and "looks like a split" not in doubt for doubt in doubts] == [True]
    doubts = []
    read_rows(write(tmp_path, [header, "a,dwi,im1,ma1,train,"]), doubts)
    assert ["looks like a split" in doubt for doubt in doubts] == [True]


@pytest.mark.parametrize(
    ("column", "meant", "cell"),
    [
        ("label", "mask_label", "2"), ("Labels", "mask_label", "2"), ("bval", "b_value", "800"),
        ("B val", "b_value", "800"), ("liver_mask", "liver", "ma1"), ("Liver-Seg", "liver", "ma1"),
        ("has_tumor", "tumour", "no"),
    ],
)  # fmt: skip
def test_another_name_of_a_column_asks_for_its_own(tmp_path, column, meant, cell):
    path = write(tmp_path, [f"{HEADER},{column}", f"a,dwi,im1,ma1,{cell}"])
    (tmp_path / "ma1").touch()
    with pytest.raises(CohortError, match=f"'{column}': unknown; rename it to '{meant}', or if"):
        read_rows(path)
    doubts: list[str] = []
    beside = write(tmp_path, [f"{HEADER},{meant},{column}", f"a,dwi,im1,ma1,,{cell}"])
    read_rows(beside, doubts)  # beside the column itself it is a column of one's own
    assert [repr(column) in doubt for doubt in doubts] == [True]


def test_columns_of_ones_own_are_listed_in_one_line(tmp_path):
    header = f"{HEADER},Age,note,centre,"
    doubts: list[str] = []
    read_rows(write(tmp_path, [header, "a,dwi,im1,ma1,70,,x,", "b,dwi,im2,ma2,60,,x,"]), doubts)
    (line,) = doubts
    assert "called so: 'Age', 'centre';" in line
    of_images: list[str] = []
    read_image_rows(tmp_path / "cohort.csv", of_images)  # a prediction reads few columns anyway
    assert of_images == []


@pytest.mark.parametrize(
    ("condition", "better"),
    [
        ("pre_ct", "ct_pre"), ("post_ct", "ct_post"), ("ctvenous", "ct_venous"), ("ct2", "ct_2"),
        ("cect", "ct_cect"), ("pre_ct_portal", "ct_pre_portal"), ("pv_ncct", "ct_pv_ncct"),
        ("ct", ""), ("ct_portal", ""), ("pre_dwi", ""), ("post_resect", ""), ("ctrl", ""),
        ("t1_vibe", ""),
    ],
)  # fmt: skip
def test_a_condition_that_looks_like_ct(tmp_path, condition, better):
    path, doubts = write(tmp_path, [HEADER, f"a,{condition},im1,ma1"]), []
    read_image_rows(path, doubts)
    assert len(doubts) == bool(better)
    assert not better or f"if it is CT, name it 'ct' or '{better}'" in doubts[0]


def test_one_mask_file_of_two_patients(tmp_path):
    lines = [HEADER, "a,dwi,im1,ma1", "b,dwi,im2,ma1", "c,dwi,im3,ma3", "c,dwi,im4,ma3"]
    doubts: list[str] = []
    read_cohort(write(tmp_path, lines), conditions=["dwi"], doubts=doubts)
    (line,) = doubts
    assert "'a' (row 2) and 'b' (row 3) have one mask file, ma1;" in line
