"""What a path stands for when it is to be predicted."""

from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.volumes import read_image
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
    assert len(set(names)) == len(names) == 4
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


def test_hidden_files_are_left_out_with_one_line(tmp_path):
    touch(tmp_path, "p1.nii.gz", "p2.nii.gz", "._p1.nii.gz", "._p2.nii.gz", ".DS_Store")
    said = []
    found = find_scans(tmp_path, warn=said.append)
    assert [scan.path.name for scan in found] == ["p1.nii.gz", "p2.nii.gz"]
    (line,) = said
    assert line.startswith(f"{tmp_path}: left out 2 file(s) that are no scans")
    assert line.endswith(": ._p1.nii.gz, ._p2.nii.gz")


def test_pictures_beside_dicom_series_are_no_scans(tmp_path):
    for number in (1, 2):
        dicoms.write_series(tmp_path / "DICOM" / f"S{number}", series=dicoms.uid(number))
        dicoms.write_series(tmp_path / "__MACOSX" / f"S{number}", series=dicoms.uid(number + 2))
    touch(tmp_path, "logo.png", "cover.jpg", "autorun.inf")
    said = []
    found = find_scans(tmp_path, warn=said.append)
    assert [scan.name for scan in found] == ["DICOM_S1", "DICOM_S2"]
    (line,) = said
    assert line.endswith("left out 2 file(s) that are no scans (hidden files, or pictures beside "
                         "DICOM series): cover.jpg, logo.png")  # fmt: skip


@pytest.mark.parametrize("given", [".", "DICOMDIR"])
def test_a_dicomdir_leads_to_the_series_below(tmp_path, given):
    fileset = FileSet()
    for number in (1, 2):
        for file in dicoms.write_series(tmp_path / "made", series=dicoms.uid(number)):
            fileset.add(pydicom.dcmread(file))
    fileset.write(tmp_path / "cd")
    assert (tmp_path / "cd" / "DICOMDIR").read_bytes()[128:132] == b"DICM"
    found = find_scans(tmp_path / "cd" / given)
    assert sorted(scan.series for scan in found) == [dicoms.uid(1), dicoms.uid(2)]
    assert all(read_image(scan.path, series=scan.series).voxels.any() for scan in found)


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
