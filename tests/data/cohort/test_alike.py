"""Which names of patients may be one person, and which never are."""

import itertools
import unicodedata

import pytest

from crlm_jax.data.cohort.alike import alike_names, alike_warnings
from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.data.cohort.rows import read_rows
from tests.data.cohort.test_cases import HEADER, write


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P01", "p01"),
        ("P01", "P-01 x".removesuffix(" x")),
        ("P01", "P 1"),
        ("P_01", "P.001"),
        ("1", "01"),
        ("7", "7.0"),
        ("Müller", "Mueller"),
        ("Müller", "Muller"),
        ("Müller", unicodedata.normalize("NFD", "Müller")),
        ("Groß", "GROSS"),
        ("José", "jose"),
        ("\uff3001", "P01"),  # a wide P
        ("p01_pre", "p01_post"),
        ("p01", "p01-post"),
        ("a\u00a01", "a1"),  # a blank that does not break
    ],
)
def test_the_same_name_spelt_in_two_ways(one, other):
    assert alike_names([one, "other", other]) == [tuple(sorted([one, other]))]


def test_names_that_differ():
    names = [*(f"P{i:02}" for i in range(120)), "P1-1x", "P1-1", "1-11", "11-1", "a", "b", "P01a"]
    names += ["pre", "post", "?", "!", "Müller", "Möller", "Meier", "Maier", "X1", "X10", "0"]
    assert alike_names(names) == []
    assert all(alike_names(pair) == [] for pair in itertools.combinations(names[:40], 2))


def test_more_than_two_names_are_one_group():
    assert alike_names(["Mueller", "x", "Müller", "Muller"]) == [("Mueller", "Muller", "Müller")]
    assert alike_names(["Mueller", "Muller"]) == []  # two names, as long as nothing links them


def test_both_names_and_the_risk_are_said(tmp_path):
    path = write(tmp_path, [HEADER, "P01,ct,im1,ma1", "b,ct,im2,ma2", "p01,ct,im3,ma3"])
    doubts: list[str] = []
    read_cohort(path, conditions=["ct"], doubts=doubts)
    assert doubts == [
        f"{path}: 'P01' (row 2) and 'p01' (row 4) may be one patient; the split may train on what "
        "it tests; if it is one, write one name in all rows"
    ]


def test_many_groups_are_one_line(tmp_path):
    lines = [f"p{i}{when},ct,im{i}{when},ma{i}" for i in range(9) for when in ("_pre", "_post")]
    path = write(tmp_path, [HEADER, *lines])
    (warning,) = alike_warnings(path, read_rows(path)[0])
    assert warning.startswith(f"{path}: 9 like warnings; first: 'p0_post' (row 3) and 'p0_pre'")
