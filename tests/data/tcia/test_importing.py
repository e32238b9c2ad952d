"""TCIA's CT collection to a cohort: what comes in, what is refused, what a stopped run leaves."""

import csv
import gc
import gzip
import weakref
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from crlm_jax.data.cohort import command as cohort_command
from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.data.tcia.collection import ImportFailed
from crlm_jax.data.tcia.command import main
from crlm_jax.data.tcia.importing import import_collection
from crlm_jax.imaging import volumes
from crlm_jax.imaging.dicom import series as dicom_series
from crlm_jax.system.console import exit_code
from tests.imaging.dicom.dicoms import (
    ORIGIN,
    SHAPE,
    SPACING,
    by_simpleitk,
    rotation,
    uid,
    voxels,
    write_segments,
    write_series,
)

IDS = ("CRLM-CT-1001", "CRLM-CT-1002", "CRLM-CT-1003")
PRIVATE = ("Musterfrau", "nne", "19610203")  # ASCII parts of the name, and the birth date


def ball(row: int, column: int, slices=range(1, 4), radius: float = 2.5) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    mask[list(slices)] = (y - row) ** 2 + (x - column) ** 2 <= radius**2
    return mask


LIVER = {"Liver": np.ones(SHAPE, bool), "Portal": ball(6, 8)}


def add_ct(folder: Path, patient: str, number: int, **options) -> list[Path]:
    """A CT series of a patient; `number` makes series and voxels its own."""

    def change(index, header):
        header.PatientID = patient
        header.FrameOfReferenceUID = f"{uid(number)}.9"

    return write_series(folder, voxels(number), series=uid(number), change=change, **options)


def add_seg(path: Path, sources, segments, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_segments(path, sources, segments, **options)


def add_patient(tree: Path, number: int, segments=None, patient: str | None = None) -> Path:
    """Patient, study and series folders as NBIA's retriever makes them; returns the patient's."""
    patient = patient or f"CRLM-CT-{1000 + number}"
    folder = tree / "Colorectal-Liver-Metastases" / f"p{number}" / "06-06-1992-CT"
    files = add_ct(folder / "101.000000-NA-1", patient, number)
    segments = LIVER | {"Tumor_1": ball(5, 6)} if segments is None else segments
    add_seg(folder / "300.000000-Segmentation-2" / "1-1.dcm", files, segments)
    return folder.parent


def cropped(tree: Path, number: int) -> np.ndarray:
    """A patient whose segmentation holds a part of the grid; returns the mask of the whole."""
    folder = add_patient(tree, number)
    part = (slice(2, 5), slice(3, 11), slice(4, 10))
    expected = np.zeros(SHAPE, bool)
    expected[part] = ball(6, 7, range(2, 5))[part]
    segments = {"Liver": np.ones((3, 8, 6), bool), "Tumor_1": expected[part]}
    place = (np.array(ORIGIN) + np.array([4, 3, 2]) * SPACING[::-1]).tolist()
    positions = [[*place[:2], place[2] + 2.5 * index] for index in range(3)]
    seg = next(folder.rglob("1-1.dcm"))
    add_seg(seg, sorted(folder.rglob("0*.dcm")), segments, positions=positions)
    return expected


@pytest.fixture
def tree(tmp_path):
    """Three patients: one cropped, one with tumours that overlap, one with a truncated slice."""
    tree = tmp_path / "dicom"
    cropped(tree, 1)
    add_patient(tree, 2, LIVER | {"Tumor_1": ball(5, 6), "Tumor_2": ball(5, 8)})
    broken = next(add_patient(tree, 3).rglob("004.dcm"))
    broken.write_bytes(broken.read_bytes()[:-100])
    return tree


def log(out: Path) -> dict[str, dict[str, str]]:
    with (out / "import_log.csv").open(newline="") as file:
        return {row["patient"]: row for row in csv.DictReader(file)}


def listed(out: Path) -> list[str]:
    with (out / "cohort.csv").open(newline="") as file:
        return [row["patient"] for row in csv.DictReader(file)]


def image_of(out: Path, patient: str, kind: str = "ct") -> sitk.Image:
    return sitk.ReadImage(str(out / patient / f"{patient}_{kind}.nii.gz"))


def reasons(tree: Path, out: Path) -> dict[str, str]:
    outcome = import_collection(tree, out)
    return {record.patient: record.reason for record in outcome.refused}


def content(out: Path) -> dict[str, tuple[bytes, int]]:
    files = (file for file in out.rglob("*") if file.is_file())
    return {str(f.relative_to(out)): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


# What comes in


def test_collection(tree, tmp_path, capsys):
    out = tmp_path / "out"
    assert exit_code(main, ["--dicom", str(tree), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"{out}/cohort.csv: 2 patients taken" in said.out
    assert "refused: CRLM-CT-1003: Colorectal-Liver-Metastases/p3/" in said.err
    assert f"error: 1 refused; {out}/import_log.csv says why" in said.err
    assert listed(out) == list(IDS[:2])
    masks = ball(6, 7, range(2, 5)), ball(5, 6) | ball(5, 8)
    masks[0][:, :3] = masks[0][:, 11:] = masks[0][..., :4] = masks[0][..., 10:] = False
    for number, (patient, mask) in enumerate(zip(IDS, masks, strict=False), start=1):
        image, written = image_of(out, patient), image_of(out, patient, "tumour")
        series = next((tree / "Colorectal-Liver-Metastases" / f"p{number}").rglob("101*"))
        expected = by_simpleitk(series)
        assert image.GetPixelID() == sitk.sitkInt16
        assert written.GetPixelID() == sitk.sitkUInt8
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels(number) - 1024)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written) > 0, mask)
        for volume in (image, written):
            assert volume.GetSize() == expected.GetSize()
            for what in ("Spacing", "Origin", "Direction"):
                theirs = getattr(expected, f"Get{what}")()
                np.testing.assert_allclose(getattr(volume, f"Get{what}")(), theirs, atol=1e-5)
    taken, refused = log(out)[IDS[1]], log(out)[IDS[2]]
    assert (taken["status"], taken["reason"], taken["slices"]) == ("taken", "", "6")
    assert (taken["tumour_slices"], taken["lesions"], taken["mask_label"]) == ("3", "2", "lesions")
    assert (taken["spacing_mm"], taken["image_series"]) == ("0.8 x 0.7 x 2.5", uid(2))
    seg = pydicom.dcmread(
        next(tree.rglob("p2")).joinpath("06-06-1992-CT").glob("300*/*").__next__()
    )
    assert taken["segmentation_series"] == seg.SeriesInstanceUID
    assert refused["status"] == "refused"
    assert "004.dcm: its pixels are cut off or damaged" in refused["reason"]
    assert str(tmp_path) not in refused["reason"]


def test_cohort_is_read_and_checked(tree, tmp_path, capsys):
    out = tmp_path / "out"
    add_patient(tree, 4)
    import_collection(tree, out)
    cases = read_cohort(out / "cohort.csv", conditions=["ct"])
    assert sorted(case.patient for case in cases) == [*IDS[:2], "CRLM-CT-1004"]
    assert (out / "cohort.csv").read_text().startswith("patient,condition,image,mask,mask_label\n")
    assert cohort_command.main(["check", str(out / "cohort.csv")]) == 0, capsys.readouterr().err


def test_nothing_of_the_patient_is_written(tree, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    exit_code(main, ["--dicom", str(tree), "--out", str(out)])
    said = capsys.readouterr()
    texts = [said.out.encode(), said.err.encode(), caplog.text.encode()]
    for file in out.rglob("*"):
        texts.append(str(file).encode())
        if file.is_file():
            data = file.read_bytes()
            texts += [data, gzip.decompress(data)] if file.suffix == ".gz" else [data]
        if file.suffix == ".gz":
            head = gzip.decompress(file.read_bytes())[148:252]  # descrip and aux_file
            assert not head.strip(b"\0"), head
    for text in texts:
        for private in PRIVATE:
            assert private.encode() not in text


@pytest.mark.parametrize("flip", [1, -1])
def test_oblique_series(tmp_path, flip):
    axes = rotation(20)
    axes[2] *= flip
    files = add_ct(tmp_path / "dicom" / "ct", "P", 1, axes=axes)
    add_seg(tmp_path / "dicom" / "seg.dcm", files, {"tumor 1": ball(5, 6)})
    assert not reasons(tmp_path / "dicom", tmp_path / "out")
    image, expected = image_of(tmp_path / "out", "P"), by_simpleitk(tmp_path / "dicom" / "ct")
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (image, expected)))
    np.testing.assert_allclose(image.GetDirection(), expected.GetDirection(), atol=1e-5)
    mask = sitk.GetArrayFromImage(image_of(tmp_path / "out", "P", "tumour"))
    np.testing.assert_array_equal(mask, ball(5, 6)[::flip])


def test_flat_folder_of_files_without_endings(tmp_path):
    """All patients' files in one folder, some in another, some twice."""
    flat = tmp_path / "dicom"
    for number, patient in enumerate(IDS, start=1):
        names = [f"{number}{index}" for index in range(SHAPE[0])]
        files = add_ct(flat, patient, number, names=names)
        add_seg(flat / f"s{number}", files, {"Tumor_1": ball(5, 6)})
        (flat / "deep").mkdir(exist_ok=True)
        (flat / "deep" / f"{number}").write_bytes(files[2].read_bytes())  # twice
        files[3].rename(flat / "deep" / files[3].name)
    (flat / "LICENSE").write_text("CC BY 4.0")
    (flat / "stray").write_bytes(b"\0" * 128 + b"DICM" + b"\0\1\2" * 9)
    out = tmp_path / "out"
    assert set(reasons(flat, out)) == {""}
    assert "stray: not a DICOM file, or cut off" in log(out)[""]["reason"]
    assert listed(out) == list(IDS)
    for number, patient in enumerate(IDS, start=1):
        array = sitk.GetArrayFromImage(image_of(out, patient))
        np.testing.assert_array_equal(array, voxels(number) - 1024)
    (flat / "stray").unlink()
    assert not reasons(flat, out)
    assert list(log(out)) == list(IDS)


def test_values_that_are_no_whole_numbers(tmp_path):
    def change(index, header):
        header.RescaleSlope = 0.5

    files = write_series(tmp_path / "dicom", change=change)
    add_seg(tmp_path / "dicom" / "seg.dcm", files, {"Tumor_1": ball(5, 6)})
    import_collection(tmp_path / "dicom", tmp_path / "out")
    image = image_of(tmp_path / "out", "P-17")
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels() * 0.5 - 1024)


def test_one_patients_voxels_at_a_time(tmp_path, monkeypatch):
    for number in (1, 2, 3):
        add_patient(tmp_path / "dicom", number)
    read, arrays = dicom_series.read_series, []

    def watch(*args, **options):
        gc.collect()
        assert all(array() is None for array in arrays)
        found = read(*args, **options)
        arrays.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(volumes, "read_series", watch)
    import_collection(tmp_path / "dicom", tmp_path / "out")
    assert len(arrays) == 3


def test_odd_names(tmp_path):
    names = ("..", "A/1", "A_1", 'Ü 1, "x"', "N" * 60 + "é" * 4, ".partial-1", "%2E.", ".a.partial")
    for number, name in enumerate(names, start=1):
        add_patient(tmp_path / "dicom", number, patient=name)
    out = tmp_path / "new" / "out"
    assert not reasons(tmp_path / "dicom", out)
    assert sorted(listed(out)) == sorted(names)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"out"}
    cases = read_cohort(out / "cohort.csv", conditions=["ct"])
    numbers = {name: number for number, name in enumerate(names, start=1)}
    for case in cases:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(case.images[0].image)))
        np.testing.assert_array_equal(array, voxels(numbers[case.patient]) - 1024)
    before = content(out)
    assert len(import_collection(tmp_path / "dicom", out).skipped) == len(names)
    assert {k: v[0] for k, v in before.items()} == {k: v[0] for k, v in content(out).items()}


# Again, and stopped


def test_done_are_skipped_and_refused_tried_again(tree, tmp_path, capsys):
    out = tmp_path / "out"
    import_collection(tree, out)
    before = content(out)
    broken = next(tree.rglob("p3/**/004.dcm"))
    broken.write_bytes(broken.read_bytes() + bytes(100))
    capsys.readouterr()
    assert exit_code(main, ["--dicom", str(tree), "--out", str(out)]) == 0
    assert "skipped: 2 patients were there already" in capsys.readouterr().out
    assert listed(out) == list(IDS)
    after = content(out)
    for name in before:
        if "/" in name:
            assert after[name] == before[name]
    assert {patient: row["status"] for patient, row in log(out).items()} == dict.fromkeys(
        IDS, "taken"
    )
    (out / IDS[0] / f"{IDS[0]}_tumour.nii.gz").unlink()
    assert import_collection(tree, out).taken == (IDS[0],)
    assert listed(out) == list(IDS)


def test_the_log_keeps_what_other_runs_said(tree, tmp_path):
    out = tmp_path / "out"
    import_collection(tree, out)
    add_patient(tmp_path / "more", 4)
    import_collection(tmp_path / "more", out)
    assert [row["status"] for row in log(out).values()] == ["taken", "taken", "refused", "taken"]
    assert listed(out) == [*IDS[:2], "CRLM-CT-1004"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left")])
@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_stopped_in_the_middle(tmp_path, monkeypatch, capsys, error, writes):
    tree, out = tmp_path / "dicom", tmp_path / "out"
    add_patient(tree, 1)
    add_patient(tree, 2)
    write, count = volumes.write_image, iter(range(99))

    def stop(*args):
        if next(count) == writes:
            raise error
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "write_image", stop)
        code = exit_code(main, ["--dicom", str(tree), "--out", str(out)])
    assert code == (1 if isinstance(error, OSError) else 130)
    assert capsys.readouterr().err.splitlines()[-1].startswith(("error: no space", "stopped"))
    whole = list(IDS[: writes // 2])
    assert listed(out) == whole
    assert list(log(out)) == whole
    assert {path.name for path in out.iterdir() if path.is_dir()} == set(whole)
    assert import_collection(tree, out).skipped == tuple(whole)
    assert listed(out) == list(IDS[:2])


def test_killed_between_files_and_table(tmp_path, monkeypatch):
    """Nothing is cleaned up after a kill: a patient may be whole and not listed, or half."""
    tree, out = tmp_path / "dicom", tmp_path / "out"
    add_patient(tree, 1)
    import_collection(tree, out)
    tables = (out / "cohort.csv", out / "import_log.csv")
    header = [file.read_text().splitlines()[0] for file in tables]
    for file, line in zip(tables, header, strict=True):
        file.write_text(f"{line}\n")
    (out / ".CRLM-CT-1002.0.partial").mkdir()
    (out / ".CRLM-CT-1002.0.partial" / "CRLM-CT-1002_ct.nii.gz").write_bytes(b"half")
    assert import_collection(tree, out).skipped == (IDS[0],)
    assert listed(out) == list(log(out)) == [IDS[0]]
    assert {path.name for path in out.iterdir()} == {IDS[0], *(file.name for file in tables)}


# Which series and which segmentation


def test_the_series_that_was_drawn_on(tmp_path):
    folder = add_patient(tmp_path / "dicom", 1)
    add_ct(folder / "arterial", IDS[0], 7)
    assert not reasons(tmp_path / "dicom", tmp_path / "out")
    array = sitk.GetArrayFromImage(image_of(tmp_path / "out", IDS[0]))
    np.testing.assert_array_equal(array, voxels(1) - 1024)


def test_the_collections_own_segmentation_among_several(tmp_path):
    """The Imaging Data Commons adds an AI's, of liver and tumour."""
    folder = add_patient(tmp_path / "dicom", 1)
    files = sorted(folder.rglob("0*.dcm"))
    other = add_seg(folder / "ai" / "1.dcm", files, {"Liver": ball(1, 1), "Tumor": ball(9, 9)})
    assert not reasons(tmp_path / "dicom", tmp_path / "out")
    mask = sitk.GetArrayFromImage(image_of(tmp_path / "out", IDS[0], "tumour"))
    np.testing.assert_array_equal(mask, ball(5, 6))
    left = f"left aside: segmentation {pydicom.dcmread(other).SeriesInstanceUID}"
    assert log(tmp_path / "out")[IDS[0]]["reason"] == left


@pytest.mark.parametrize("tumours", [1, 2])
def test_two_segmentations(tmp_path, tumours):
    folder = add_patient(tmp_path / "dicom", 1, {"Tumor_1": ball(5, 6)})
    files = sorted(folder.rglob("0*.dcm"))
    label = "Tumor_1" if tumours == 2 else "Liver"
    other = add_seg(folder / "other.dcm", files, {label: ball(9, 9)})
    reason = reasons(tmp_path / "dicom", tmp_path / "out").get(IDS[0], "")
    if tumours == 1:
        assert not reason
        mask = sitk.GetArrayFromImage(image_of(tmp_path / "out", IDS[0], "tumour"))
        np.testing.assert_array_equal(mask, ball(5, 6))
    else:
        assert reason.startswith("2 segmentations with tumour: ")
        assert pydicom.dcmread(other).SeriesInstanceUID in reason
        assert "1-1.dcm" in reason
        assert "other.dcm" in reason


def test_what_is_refused_and_why(tmp_path):
    tree = tmp_path / "dicom"
    add_patient(tree, 1, LIVER)  # without tumour
    next(add_patient(tree, 2).rglob("1-1.dcm")).unlink()  # without segmentation
    for file in add_patient(tree, 3).rglob("0*.dcm"):  # without image
        file.unlink()
    add_patient(tree, 4, LIVER | {"Tumor_1": np.zeros(SHAPE, bool)})
    next(add_patient(tree, 5).rglob("000.dcm")).unlink()  # an end slice: evenly spaced all the same
    next(add_patient(tree, 6).rglob("003.dcm")).unlink()
    header = next(add_patient(tree, 7).rglob("003.dcm"))
    header.write_bytes(header.read_bytes()[:300])  # before it says whose it is
    folder = add_patient(tree, 8)
    for file in folder.rglob("0*.dcm"):
        file.unlink()
    add_ct(folder / "other", "CRLM-CT-1008", 18)  # not the one drawn on
    seg = next(add_patient(tree, 9).rglob("1-1.dcm"))
    seg.write_bytes(seg.read_bytes()[:-300])
    add_patient(tree, 10, patient="Same")
    add_patient(tree, 11, patient="SAME")
    add_patient(tree, 12, patient="Good")
    found = reasons(tree, tmp_path / "out")
    expected = {
        "CRLM-CT-1001": "no segment is labelled 'Tumor*' (its labels are 'Liver', 'Portal')",
        "CRLM-CT-1002": "no segmentation among its files",
        "CRLM-CT-1003": "no CT series among its files",
        "CRLM-CT-1004": "its tumour segments mark no voxel",
        "CRLM-CT-1005": "drawn on 1 images that are not among the 5 of series",
        "CRLM-CT-1006": "slices are unevenly spaced, 5 mm between 002.dcm and 004.dcm",
        "CRLM-CT-1007": "003.dcm: not a DICOM file, or cut off or damaged",
        "CRLM-CT-1008": f"drawn on series {uid(8)}, which is not among the patient's ({uid(18)})",
        "CRLM-CT-1009": "1-1.dcm: not a readable DICOM segmentation, or cut off",
        "Same": "differ in upper and lower case only",
        "SAME": "differ in upper and lower case only",
    }
    assert set(found) == set(expected)
    for patient, reason in expected.items():
        assert reason in found[patient]
        assert "\n" not in found[patient]
        assert "/crlm_jax_" not in found[patient]  # the folder of links
    assert listed(tmp_path / "out") == ["Good"]


# Folders and the clinical table


def test_wrong_folders(tree, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("none")
    other = tmp_path / "other"
    other.mkdir()
    (other / "cohort.csv").write_text("patient,condition,image,mask\n")
    calls = {
        (tmp_path / "none", tmp_path / "out"): "no such folder",
        (empty, tmp_path / "out"): "no DICOM file",
        (tree, tree / "out"): "lies in --dicom",
        (tree, tree): "lies in --dicom",
        (tree, empty / "notes.txt" / "out"): "cannot be written",
        (tree, other): "holds another cohort.csv",
    }
    for (folder, out), message in calls.items():
        assert exit_code(main, ["--dicom", str(folder), "--out", str(out)]) == 1
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_clinical_table(tmp_path):
    tree, name = tmp_path / "dicom", "Colorectal-Liver-Metastases-Clinical-data-April-2023.xlsx"
    add_patient(tree, 1)
    (tree / name).write_bytes(b"PK\3\4 sheet")
    (tree / f"~${name}").write_bytes(b"lock")
    outcome = import_collection(tree, tmp_path / "out")
    assert outcome.clinical == tree / name
    assert (tmp_path / "out" / name).read_bytes() == b"PK\3\4 sheet"
    (tree / "deep").mkdir()
    (tree / "deep" / "clinical.csv").write_text("a,b\n")
    with pytest.raises(ImportFailed, match=f"several clinical tables .*{name}.*--clinical"):
        import_collection(tree, tmp_path / "out")
    import_collection(tree, tmp_path / "out", clinical=tree / "deep" / "clinical.csv")
    assert (tmp_path / "out" / "clinical.csv").read_text() == "a,b\n"
    with pytest.raises(ImportFailed, match="file not found"):
        import_collection(tree, tmp_path / "out", clinical=tmp_path / "none.csv")
    (tmp_path / "cohort.csv").write_text("a,b\n")
    with pytest.raises(ImportFailed, match="rename it"):
        import_collection(tree, tmp_path / "out", clinical=tmp_path / "cohort.csv")
