"""What a path stands for when it is to be predicted."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.fileset import FileSet
from pydicom.uid import (
    ComprehensiveSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.volumes import read_image
from crlm_jax.predict.scans import Scan, ending, find_scans
from crlm_jax.predict.together import join_patients
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
    with pytest.raises(VolumeError, match=r"has no DICOM series 1\.2; choose one with") as why:
        find_scans(tmp_path, series="1.2")
    assert f"\n{dicoms.uid(2)}: no description, CT, axial, 6 images, number 3" in str(why.value)


def named(description: str, number: int, modality: str = "MR", **elements):
    def change(index, header):
        header.SeriesDescription, header.SeriesNumber = description, number
        header.Modality = modality
        for keyword, value in elements.items():
            setattr(header, keyword, value)

    return change


CORONAL = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
SERIES = {
    1: (named("T2 tse tra", 2), np.eye(3)),
    2: (named("t2_tse_cor", 3), CORONAL),
    3: (named("T1 vibe, Musterfrau", 4), np.eye(3)),
    4: (named("liver, portal", 5, "CT"), np.eye(3)),
    5: (named("ep2d_diff", 6, DiffusionBValue=800.0), np.eye(3)),
    6: (named("", 7), np.eye(3)),
}


@pytest.fixture(params=["flat", "tree"])
def several(request, tmp_path) -> Path:
    """Six series, in one folder or each in its own."""
    for number, (change, axes) in SERIES.items():
        folder = tmp_path if request.param == "flat" else tmp_path / f"s{number}"
        names = [f"{number}_{index}" for index in range(6)]
        dicoms.write_series(
            folder, series=dicoms.uid(number), change=change, axes=axes, names=names
        )
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ("description=*T2*,plane=axial", 1),
        ("plane=coronal", 2),
        ("description=t2?tse?c*", 2),
        ("number=4", 3),
        ("modality=ct", 4),
        ("description=liver, portal", 4),
        (" Description = liver, p* , Modality=CT", 4),
        ("description='*DIFF*'", 5),
        ("description=", 6),
        (f"uid={dicoms.uid(6)}", 6),
    ],
)
def test_a_series_is_chosen_by_what_it_is(several, wanted, number):
    (scan,) = find_scans(several, series=wanted)
    assert scan.series == dicoms.uid(number)
    assert scan.about.startswith(("'", "no description, MR"))
    volume = read_image(scan.path, series=scan.series)
    assert volume.series.uid == dicoms.uid(number)
    assert read_image(scan.path, series=wanted).series.uid == dicoms.uid(number)


def test_a_pattern_of_no_series_lists_them_all(several):
    with pytest.raises(VolumeError, match=r"description=\*FLAIR\*; choose one with") as why:
        find_scans(several, series="description=*FLAIR*")
    lines = str(why.value).splitlines()[1:]
    assert lines == [
        f"{dicoms.uid(1)}: 'T2 tse tra', MR, axial, 6 images, number 2",
        f"{dicoms.uid(2)}: 't2_tse_cor', MR, coronal, 6 images, number 3",
        f"{dicoms.uid(3)}: 'T1 vibe, …', MR, axial, 6 images, number 4",
        f"{dicoms.uid(4)}: 'liver, portal', CT, axial, 6 images, number 5",
        f"{dicoms.uid(5)}: 'ep2d_diff', MR, axial, 6 images, b 800, number 6",
        f"{dicoms.uid(6)}: no description, MR, axial, 6 images, number 7",
    ]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ("description=T1 VIBE portal [ven]", [1]),
        ("description=t1 vibe  PORTAL [VEN]", [1]),
        ("description=*[[]ven]", [1]),
        ("description=what? *", [2]),
        ("description=T1 VIBE portal [nev]", [3]),
        ("number=05", [1]),
        ("number=1?", [2, 3]),
    ],
)
def test_a_listed_description_is_chosen_as_it_is_written(tmp_path, wanted, numbers):
    texts = {1: ("T1 VIBE portal [ven]", 5), 2: ("what? *", 15), 3: ("T1 VIBE portal n", 16)}
    for number, (text, shown) in texts.items():
        folder, change = tmp_path / f"s{number}", named(text, shown)
        dicoms.write_series(folder, series=dicoms.uid(number), change=change)
    found = find_scans(tmp_path, series=wanted)
    assert [scan.series for scan in found] == [dicoms.uid(number) for number in numbers]


@pytest.mark.parametrize("folder", ["", "s1"])
def test_a_pattern_without_a_key_is_told_how_to_write_it(several, folder):
    folder = several / folder if (several / folder).is_dir() else several
    with pytest.raises(VolumeError, match=r"write 'description=\*T2\*'"):
        find_scans(folder, series="*T2*")


def split_series(folder: Path, *names: str) -> None:
    """Writes six slices of one series by turns into several folders, and a second series."""
    dicoms.write_series(
        folder, names=[f"{names[i % len(names)]}/{i}".lstrip("/") for i in range(6)]
    )
    dicoms.write_series(folder / "T2", series=dicoms.uid(2))


def copied_series(folder: Path) -> None:
    """A series, a part of whose images is copied into a folder that comes first."""
    files = dicoms.write_series(folder / "S1")
    (folder / "A").mkdir()
    for file in files[:4]:
        shutil.copy(file, folder / "A")


@pytest.mark.parametrize("names", [("A", "B"), ("", "B"), ("A", "A/more/B", "C")])
def test_a_series_in_several_folders_is_never_read_in_part(tmp_path, names):
    split_series(tmp_path, *names)
    with pytest.raises(VolumeError, match=r"images of 1 series lie in several folders") as why:
        find_scans(tmp_path, series=dicoms.uid(1))
    assert len(str(why.value).splitlines()) == 1
    assert f"{dicoms.uid(1)} in {', '.join(name or '.' for name in sorted(names))}" in str(
        why.value
    )
    if names[0]:
        (scan,) = find_scans(tmp_path, series=dicoms.uid(2))
        assert scan.path == tmp_path / "T2"


@pytest.mark.parametrize("given", ["", "A"])
def test_copies_of_a_series_are_left_out_with_a_line(tmp_path, given):
    copied_series(tmp_path)
    if given:  # the whole series below a part of it
        (tmp_path / "S1").rename(tmp_path / "A" / "S1")
    said = []
    (scan,) = find_scans(tmp_path / given, warn=said.append)
    assert scan.path.name == "S1"
    assert len(read_image(scan.path, series=scan.series).voxels) == 6
    assert any("left out 1 folder(s) with copies of a series: " in line for line in said)


def test_several_series_of_a_pattern_and_a_wrong_key(several):
    if (several / "s1").is_dir():
        assert len(find_scans(several, series="modality=MR")) == 5
    else:
        for wanted, part in ((None, "holds 6 series;"), ("plane=axial", "holds 5 series plane=")):
            with pytest.raises(VolumeError, match=part) as why:
                find_scans(several, series=wanted)
            assert len(str(why.value).splitlines()) == 7
    with pytest.raises(
        VolumeError, match=r"'sequence' is nothing to choose by; write one of descr"
    ):
        find_scans(several, series="sequence=T2")


def test_a_diffusion_series_lists_its_b_values(tmp_path):
    for b in (0, 50, 1000):
        change = named("dwi", 6, DiffusionBValue=float(b))
        names = [f"{b}_{index}" for index in range(6)]
        dicoms.write_series(tmp_path, change=change, names=names)
    dicoms.write_series(tmp_path, series=dicoms.uid(2))
    with pytest.raises(VolumeError) as why:
        find_scans(tmp_path)
    assert "'dwi', MR, axial, 6 slices, 18 images, b 0, 50, 1000, number 6" in str(why.value)


def test_a_file_of_another_series_than_the_pattern(tmp_path):
    (file, *_) = dicoms.write_series(tmp_path, change=named("T2", 2))
    assert read_image(file, series="description=t2").series.uid == dicoms.uid(1)
    with pytest.raises(VolumeError, match=r"its series is not number=9, but 'T2', MR, axial"):
        read_image(file, series="number=9")


def test_dicom_objects_that_are_no_scans_are_said(tmp_path):
    """A segmentation, contours, a report, a presentation state and a picture of the screen."""
    kinds = {
        SegmentationStorage: "Segmentation", RTStructureSetStorage: "RT Structure Set",
        ComprehensiveSRStorage: "Comprehensive SR",
        GrayscaleSoftcopyPresentationStateStorage: "Grayscale Softcopy Presentation State",
        SecondaryCaptureImageStorage: "Secondary Capture",
    }  # fmt: skip
    for folder in ("flat", "tree/s1"):
        files = dicoms.write_series(tmp_path / folder)
        for number, kind in enumerate(kinds):
            other = pydicom.dcmread(files[0])
            other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = kind
            other.SeriesInstanceUID = dicoms.uid(20 + number)
            dicoms.save(other, tmp_path / folder / f"other{number}")
    for folder in ("flat", "tree"):
        said = []
        (scan,) = find_scans(tmp_path / folder, warn=said.append)
        assert scan.series == dicoms.uid(1)
        assert read_image(scan.path, series=scan.series).voxels.any()
        (line,) = said
        assert line.startswith(f"{tmp_path / folder}: left out 5 DICOM object(s) that are no scans")
        assert all(f"{kind} (1)" in line for kind in kinds.values())


def test_masks_beside_scans_are_left_out_by_name_and_content(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 900, (4, 24, 24)).astype(np.int16)
    mask = np.zeros(grey.shape, np.uint8)
    mask[1:3, 4:9, 5:12] = 1
    organs = mask + 2 * (grey > 700)
    contents = {
        "p1.nii.gz": grey, "p2.nrrd": grey, "liver_roi.nii.gz": grey, "Mask.mha": grey,
        "p1_norm.nii.gz": (grey / 900).astype(np.float32), "tumour_scan.nii": grey,
    }  # fmt: skip
    masks = {
        "p1_mask.nii.gz": mask, "p1_seg.nrrd": mask, "labels.nii.gz": organs, "p1-m.nii.gz": mask,
        "p2LiverMask.mha": mask, "empty_roi.nii": 0 * mask, "GT_p7.nii.gz": 255 * mask,
        "sub-01_dseg.nii.gz": organs,
    }  # fmt: skip
    for name, array in (contents | masks).items():
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
    probability = sitk.GetImageFromArray((mask * 0.93).astype(np.float32))
    sitk.WriteImage(probability, str(tmp_path / "p1_probability.nii.gz"))
    said = []
    found = find_scans(tmp_path, warn=said.append)
    assert {scan.path.name for scan in found} == set(contents)
    (line,) = said
    assert line.startswith(f"{tmp_path}: left out 9 file(s) that are no scans by name and content")
    assert all(f"{name} (a mask)" in line for name in masks)
    assert "p1_probability.nii.gz (a map of probabilities)" in line


def test_a_folder_of_masks_alone_is_an_error_that_says_so(tmp_path):
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[1, 2:5, 2:5] = 1
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "a_mask.nii.gz"))
    with pytest.raises(VolumeError, match="all its images are masks by name and content"):
        find_scans(tmp_path)
    assert len(find_scans(tmp_path / "a_mask.nii.gz")) == 1


def test_masks_as_pictures_and_of_slicer(tmp_path):
    rng = np.random.default_rng(0)
    disc = 255 * (np.hypot(*np.indices((64, 64)) - 30.0) < 12).astype(np.uint8)
    grey = rng.integers(0, 255, (64, 64))
    pictures = {
        "a.png": grey,
        "a_m.png": disc,
        "a_mask.jpg": disc,
        "a-2.jpg": disc,
        "roi.jpg": grey,
    }
    for name, array in pictures.items():
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), str(tmp_path / name))
    layers = sitk.GetImageFromArray(
        rng.integers(0, 2, (3, 8, 8, 2)).astype(np.uint8), isVector=True
    )
    layers.SetMetaData("Segment0_Name", "Tumour")
    sitk.WriteImage(layers, str(tmp_path / "Drawn.seg.nrrd"))
    said = []
    found = find_scans(tmp_path, warn=said.append)
    assert [scan.path.name for scan in found] == ["a.png", "roi.jpg"]
    (line,) = said
    assert line.endswith("Drawn.seg.nrrd (a segmentation), a-2.jpg (a mask), a_m.png (a mask), "
                         "a_mask.jpg (a mask)")  # fmt: skip


def test_what_else_is_left_out_is_said(tmp_path):
    touch(tmp_path, "scan.nii", "old.hdr", "old.img", "x.tif", "notes.txt", "below/c.nii.gz")
    dicoms.write_series(tmp_path / "s1")
    said = []
    assert [scan.path.name for scan in find_scans(tmp_path, warn=said.append)] == ["scan.nii"]
    assert [line.removeprefix(f"{tmp_path}: left out ") for line in said] == [
        "3 file(s) of a format that is not read: old.hdr, old.img, x.tif",
        "2 folder(s) below, whose images are not looked for: below, s1",
    ]
    touch(tmp_path / "s1", "copy.nii.gz", "more/scan.nii")
    said.clear()
    assert len(find_scans(tmp_path / "s1", warn=said.append)) == 1
    assert [line.partition("left out ")[2] for line in said] == [
        "1 image(s) beside the DICOM files: copy.nii.gz",
        "1 folder(s) below, which may hold other series: more",
    ]


def test_hidden_files_are_left_out_with_one_line(tmp_path):
    touch(tmp_path, "p1.nii.gz", "p2.nii.gz", "._p1.nii.gz", "._p2.nii.gz", ".DS_Store")
    said = []
    found = find_scans(tmp_path, warn=said.append)
    assert [scan.path.name for scan in found] == ["p1.nii.gz", "p2.nii.gz"]
    (line,) = said
    assert line == f"{tmp_path}: left out 2 hidden file(s): ._p1.nii.gz, ._p2.nii.gz"


def test_pictures_beside_dicom_series_are_no_scans(tmp_path):
    for number in (1, 2):
        dicoms.write_series(tmp_path / "DICOM" / f"S{number}", series=dicoms.uid(number))
        dicoms.write_series(tmp_path / "__MACOSX" / f"S{number}", series=dicoms.uid(number + 2))
    touch(tmp_path, "logo.png", "cover.jpg", "autorun.inf")
    said = []
    found = find_scans(tmp_path, warn=said.append)
    assert [scan.name for scan in found] == ["DICOM_S1", "DICOM_S2"]
    (line,) = said
    assert line.endswith("left out 2 picture(s) beside DICOM series: cover.jpg, logo.png")


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


def test_patients_without_the_sequences_of_a_run_are_said(tmp_path):
    said = []
    scans = [
        Scan(tmp_path / f"{patient}_{condition}", "", patient, condition)
        for patient, condition in (
            ("p1", "pre_dwi"), ("p1", "pre_t2wi"), ("p1", "post_dwi"),
            ("p3", "post_dwi"), ("p2", "post_dwi"), ("p2", "post_t2wi"),
        )
    ]  # fmt: skip
    (found,) = join_patients(tmp_path / "c.csv", scans, ["pre_dwi", "pre_t2wi"], said.append)
    assert found.patient == "p1"
    assert {scan.path for scan in scans[2:]} == set(found.kept)  # which no result may replace
    (line,) = said
    assert "c.csv: left out 2 patient(s) without pre_dwi, pre_t2wi, which the run sees: p2" in line
    assert "p3" in line
    assert join_patients(tmp_path / "c.csv", scans[:3], ["pre_dwi", "pre_t2wi"], said.append)
    assert len(said) == 1
