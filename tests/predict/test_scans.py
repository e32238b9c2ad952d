"""What a path stands for when it is to be predicted."""

from pathlib import Path

import pytest

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.predict.scans import ending, find_scans
from tests.imaging.dicom import dicoms


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", ".nii.gz"), ("A.NII", ".nii"), ("b.c.png", ".png"), ("x", ""), ("x.txt", "")],
)
def test_ending(name, expected):
    assert ending(Path(name)) == expected


def test_a_file_is_one_scan(tmp_path):
    touch(tmp_path, "Liver 1.NII.gz")
    (scan,) = find_scans(tmp_path / "Liver 1.NII.gz", b_value=800.0)
    assert (scan.name, scan.condition, scan.patient, scan.b_value) == ("Liver_1", None, "", 800.0)


def test_a_folder_holds_its_images_alone(tmp_path):
    touch(tmp_path, "b.nrrd", "a.nii.gz", "notes.txt", "a_lesions.csv", "below/c.nii.gz")
    assert [scan.path.name for scan in find_scans(tmp_path)] == ["a.nii.gz", "b.nrrd"]


def test_names_are_told_apart_even_where_case_is_not(tmp_path):
    touch(tmp_path, "a.nii.gz", "a.nrrd", "A.mha", "a_2.png", ".hidden.png")
    names = [scan.name.lower() for scan in find_scans(tmp_path)]
    assert len(set(names)) == len(names) == 5
    assert not any(name.startswith(".") for name in names)


def test_a_dicom_folder_and_a_file_of_it(tmp_path):
    files = dicoms.write_series(tmp_path / "ct")
    assert [(s.path, s.name) for s in find_scans(tmp_path / "ct")] == [(tmp_path / "ct", "ct")]
    assert [(s.path, s.name) for s in find_scans(files[0])] == [(files[0], "000")]


def test_a_tree_of_series_may_be_narrowed_to_one(tmp_path):
    dicoms.write_series(tmp_path / "p1" / "s", series=dicoms.uid(1))
    dicoms.write_series(tmp_path / "p2" / "s", series=dicoms.uid(2))
    assert [scan.name for scan in find_scans(tmp_path)] == ["p1_s", "p2_s"]
    (scan,) = find_scans(tmp_path, series=dicoms.uid(2))
    assert (scan.path, scan.series) == (tmp_path / "p2" / "s", dicoms.uid(2))
    with pytest.raises(VolumeError, match=r"no DICOM series 1\.2 in this folder"):
        find_scans(tmp_path, series="1.2")


def test_a_cohort_file_says_patient_condition_and_b_value(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    cohort = tmp_path / "c.csv"
    cohort.write_text("patient,condition,image,b_value\np1,pre_dwi,a.nii,800\np1,ct,b.nii,\n")
    scans = find_scans(cohort, b_value=1000.0)
    assert [(s.patient, s.condition, s.name, s.b_value) for s in scans] == [
        ("p1", "pre_dwi", "p1_pre_dwi", 800.0),
        ("p1", "ct", "p1_ct", 1000.0),
    ]


def test_an_empty_folder(tmp_path):
    with pytest.raises(VolumeError, match=r"there is no image in this folder; name an image"):
        find_scans(tmp_path)
