"""The check of a cohort: what is counted, and that every problem is found in one go."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from crlm_jax.config.schema import Data
from crlm_jax.data.cohort import check
from crlm_jax.data.cohort.b_values import b_value_of
from crlm_jax.data.cohort.check import check_cohort, summary_rows
from crlm_jax.data.cohort.command import main
from crlm_jax.data.cohort.rows import ImageRow
from crlm_jax.imaging.volumes import read_image, to_original_grid
from crlm_jax.system.console import exit_code
from tests.cohorts import make_cohort
from tests.imaging import test_bvals as bvals
from tests.imaging.dicom import dicoms

HEADER = "patient,condition,image,mask,mask_label,split"


def write_volume(path: Path, voxels: np.ndarray, spacing=(1.5, 1.5, 7.0)) -> None:
    volume = sitk.GetImageFromArray(voxels)
    volume.SetSpacing(spacing)
    sitk.WriteImage(volume, str(path))


def write_pair(folder: Path, name: str, mask: np.ndarray, *, low: int = 0, high: int = 900) -> str:
    """Writes an image of noise between two values and its mask; returns their two cells."""
    rng = np.random.default_rng(list(name.encode()))
    voxels = rng.integers(low, high, mask.shape).astype(np.int16)
    write_volume(folder / f"{name}.nii.gz", voxels)
    write_volume(folder / f"{name}_roi.nii.gz", mask.astype(np.uint8))
    return f"{name}.nii.gz,{name}_roi.nii.gz"


def a_mask(*lesions: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros((4, 12, 12), bool)
    for lesion in lesions:
        mask[lesion] = True
    return mask


ONE = np.s_[1:3, 2:4, 2:5]  # 12 voxels of 7 × 1.5 × 1.5 mm
FAR = np.s_[3:4, 8:9, 8:9]  # 1 voxel


@pytest.fixture
def cohort(tmp_path) -> Path:
    """Three patients: DWI of all, CT of one; the third without tumour."""
    lines = [
        HEADER,
        f"a,dwi,{write_pair(tmp_path, 'a', a_mask(ONE, FAR))},,train",
        f"b,dwi,{write_pair(tmp_path, 'b', a_mask(FAR))},,test",
        f"b,ct,{write_pair(tmp_path, 'b_ct', a_mask(ONE), low=-1000)},1,test",
        f"c,dwi,{write_pair(tmp_path, 'c', a_mask())},,train",
    ]
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_summary_counts_and_units(cohort):
    report = check_cohort(cohort)
    assert report.problems == ()
    rows = [dict(zip(check.HEADER, row, strict=True)) for row in summary_rows(report)]
    assert [row["condition"] for row in rows] == ["ct", "dwi", "in all"]
    assert list(rows[1].values()) == [
        "dwi", "3", "2/1", "3", "12", "4", "3", "16 (16–189)", "7", "1.5",
    ]  # fmt: skip
    assert rows[2]["patients"] == "3"
    assert rows[2]["images"] == "4"
    assert (rows[0]["with tumour"], rows[0]["lesion mm³"]) == ("2", "189")


def test_warnings_do_not_fail(cohort, capsys):
    assert exit_code(main, ["check", str(cohort)]) == 0
    out, err = capsys.readouterr()
    assert "condition dwi: no tumour in any image of c;" in err
    assert "condition ct: 2 of 3 patients have no image under it: a, c" in err
    assert "condition ct: no train patient has an image under it" in err
    assert "16 (16–189)" in out
    assert "split as in the file: 2 train (of whom 1 are kept to validate), 1 test" in out
    assert "error" not in err


@pytest.mark.parametrize(
    ("condition", "low", "high", "part"),
    [
        ("ct", 0, 900, "looks like another modality than ct: no voxel is below 0 HU"),
        ("ct_portal", 0, 900, "rescale slope and intercept"),
        ("dwi", -1000, 900, "looks like another modality than dwi: 1 % of its voxels are below"),
        ("ct", -1000, 900, None),
        ("dwi", -20, 900, None),
    ],
)
def test_images_that_look_like_another_modality(tmp_path, condition, low, high, part):
    lines = ["patient,condition,image,mask"]
    for name in ("a", "b"):
        cells = write_pair(tmp_path, name, a_mask(ONE), low=low, high=high)
        lines.append(f"{name},{condition},{cells}")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    report = check_cohort(path)
    assert report.problems == ()
    doubts = [warning for warning in report.warnings if "looks like" in warning]
    assert len(doubts) == (0 if part is None else 2)
    assert part is None or f"row 2: {tmp_path / 'a.nii.gz'}: " in doubts[0]
    assert part is None or part in doubts[0]


def test_an_adc_map_has_its_own_remedy(tmp_path):
    cells = write_pair(tmp_path, "a_ADC", a_mask(ONE))
    report = check_cohort(write_cohort(tmp_path, [f"a,dwi,{cells}"]))
    (doubt,) = (warning for warning in report.warnings if "looks like" in warning)
    assert doubt.endswith(
        "it is an ADC map by its name; give the diffusion image itself, or a condition of maps "
        "such as pre_adc"
    )


def test_doubts_of_a_mask_name_the_mask(tmp_path):
    lines = ["patient,condition,image,mask"]
    soft = np.zeros((24, 24), np.uint8)
    soft[8:16, 8:16], soft[7, 8:16] = 255, 99
    for seed, name in enumerate("ab"):
        noise = np.random.default_rng(seed).integers(0, 255, (24, 24)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(noise), str(tmp_path / f"{name}.png"))
        sitk.WriteImage(sitk.GetImageFromArray(soft), str(tmp_path / f"{name}_roi.png"))
        lines.append(f"{name},pre_dwi,{name}.png,{name}_roi.png")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    warnings = check_cohort(path).warnings
    assert len(warnings) == 2
    assert f"row 2: {tmp_path / 'a_roi.png'}: a mask with soft edges" in warnings[0]


def test_lesions_below_a_pixel_of_the_network_are_counted(tmp_path, capsys):
    mask = np.zeros((3, 96, 96), bool)
    mask[0, 40, 40] = mask[1, 40, 40] = mask[1, 70, 70] = mask[2, 10:40, 10:40] = True
    cells = write_pair(tmp_path, "a", mask, low=-100, high=200)
    other = write_pair(tmp_path, "b", mask[[2, 2]], low=-100, high=200)
    path = tmp_path / "cohort.csv"
    path.write_text(f"patient,condition,image,mask\na,ct,{cells}\nb,ct,{other}\n")
    assert exit_code(main, ["check", str(path), "--image-size", "32"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "at 32 × 32 pixels 3 lesions in 2 slices (rows 2) are smaller than a pixel" in line
    assert exit_code(main, ["check", str(path)]) == 0  # 224 pixels: all are larger
    assert capsys.readouterr().err == ""
    assert exit_code(main, ["check", str(path), "--image-size", "0"]) == 1
    assert "--image-size 0" in capsys.readouterr().err


def test_a_window_that_clips_and_a_matrix_that_is_stretched(tmp_path):
    mask = np.zeros((2, 24, 36), bool)
    mask[0, 4:9, 4:9] = True
    lines = ["patient,condition,image,mask"]
    for name in "ab":
        cells = write_pair(tmp_path, name, mask, low=-400, high=1000)
        lines.append(f"{name},ct,{cells}")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    first = [warning for warning in check_cohort(path).warnings if "row 2: " in warning]
    assert f"{tmp_path / 'a.nii.gz'}: its slices are 54 mm wide and 36 mm high" in first[0]
    assert "% of its tumour voxels are black or white in the window from -150 to 250" in first[1]
    wide = Data(ct_window=(-500.0, 1100.0))
    assert not any("black or white" in text for text in check_cohort(path, data=wide).warnings)


def test_many_like_warnings_are_one_line_with_a_count(tmp_path):
    lines = ["patient,condition,image,mask"]
    for number in range(12):
        cells = write_pair(tmp_path, f"p{number}", a_mask(ONE), low=number, high=240)
        lines.append(f"p{number},ct,{cells}")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    (warning,) = check_cohort(path).warnings
    assert warning.startswith(f"{path}: 12 like warnings, rows 2, 3, 4, 5, 6, 7, 8, 9, … (12 in")
    assert f"; first: {tmp_path / 'p0.nii.gz'}: looks like another modality than ct" in warning


def test_every_problem_of_rows_images_and_masks_at_once(cohort, capsys):
    folder = cohort.parent
    whole = (folder / "a.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_volume(folder / "small.nii.gz", np.ones((2, 3, 3), np.uint8))
    more = [
        "d,DWI,a.nii.gz,b_roi.nii.gz,,train",
        "e,dwi,cut.nii.gz,a_roi.nii.gz,,train",
        f"g,dwi,{write_pair(folder, 'g', a_mask(ONE)).split(',')[0]},small.nii.gz,,train",
        "h,dwi,gone.nii.gz,a_roi.nii.gz,,train",
    ]
    cohort.write_text(cohort.read_text() + "\n".join(more) + "\n")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert exit_code(main, ["check", str(cohort)]) == 1
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    for part in (
        f"error: {cohort}, row 6, column 'condition': 'DWI'",
        f"error: {cohort}, row 7: {folder / 'cut.nii.gz'}: the file is cut off",
        f"error: {cohort}, row 8: the mask {folder / 'small.nii.gz'} and the image",
        f"error: {cohort}, row 9, column 'image': file not found: gone.nii.gz; correct the path",
    ):
        assert sum(line.startswith(part) for line in errors) == 1, part
    assert "4 problems to correct" in err
    assert "patients have no image" not in err
    assert out == ""
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_phantom_is_labelled(tmp_path):
    for prefix, marked in (("phantom-", True), ("p", False)):
        cells = [write_pair(tmp_path, name, a_mask(ONE)) for name in ("1", "2")]
        rows = [f"{prefix}{i},dwi,{pair}" for i, pair in enumerate(cells)]
        (tmp_path / "cohort.csv").write_text("\n".join(["patient,condition,image,mask", *rows]))
        title = str(check.summary_table(check_cohort(tmp_path / "cohort.csv")).title)
        assert title == f"cohort.csv{' (PHANTOM, version 1)' * marked}: medians (range)"


def write_dicom(
    folder: Path, name: str, condition: str, array: np.ndarray, above: int, **series
) -> str:
    """Writes a DICOM series, and what is above a value as its mask; returns the cohort's row."""
    dicoms.write_series(folder / name, array, **series)
    image = read_image(folder / name)
    mask = to_original_grid(image.voxels > above, image.geometry)
    sitk.WriteImage(mask, str(folder / f"{name}.nii.gz"))
    return f"{name},{condition},{name},{name}.nii.gz"


def write_cohort(folder: Path, lines: list[str], header: str = "patient,condition,image,mask"):
    path = folder / "cohort.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_images_without_tumour_need_no_mask(tmp_path):
    header = "patient,condition,image,mask,tumour"
    for name in "abcd":
        write_pair(tmp_path, name, a_mask(ONE) if name in "ab" else a_mask())
    good = [
        "a,dwi,a.nii.gz,a_roi.nii.gz,yes",
        "c,dwi,c.nii.gz,c_roi.nii.gz,no",
        "d,dwi,d.nii.gz,,no",
    ]
    report = check_cohort(write_cohort(tmp_path, good, header))
    assert report.problems == ()
    assert [(i.slices, i.tumour_slices, i.lesions) for i in report.images] == [
        (4, 2, 1), (4, 0, 0), (4, 0, 0),
    ]  # fmt: skip
    bad = ["b,dwi,b.nii.gz,b_roi.nii.gz,no", "c,dwi,c.nii.gz,c_roi.nii.gz,yes"]
    problems = check_cohort(write_cohort(tmp_path, good[:1] + bad, header)).problems
    assert [problem.split(": ", 2)[-1] for problem in problems] == [
        "12 voxels of it are tumour, but the column 'tumour' says 'no'; correct one of them, or "
        "leave the mask out",
        "no voxel of it is tumour, but the column 'tumour' says 'yes'; correct one of them, or "
        "mask_label",
    ]


def test_a_mask_of_the_liver_is_checked_as_the_others_are(tmp_path, capsys):
    pairs = [write_pair(tmp_path, name, a_mask(ONE)) for name in "abcde"]
    liver = np.zeros((4, 12, 12), np.uint8)
    liver[:3, :11] = 1
    both = liver + a_mask(ONE)  # the tumour in it is a second label
    cut = liver * ~a_mask(np.s_[2:3])  # a slice of the tumour lies outside
    for name, voxels in (("a", liver), ("b", both), ("c", cut), ("d", 0 * liver), ("e", liver)):
        write_volume(tmp_path / f"{name}_liver.nii.gz", voxels)
    write_volume(tmp_path / "e_liver.nii.gz", liver, spacing=(1.5, 1.5, 6.0))
    rows = [f"{n},dwi,{pair},{n}_liver.nii.gz" for n, pair in zip("abcde", pairs, strict=True)]
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(["patient,condition,image,mask,liver", *rows[:3]]) + "\n")
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr().err
    assert "b_liver.nii.gz: both of its labels are taken as liver" in said
    assert "c_liver.nii.gz: 6 of 12 tumour voxels lie outside this mask of the liver" in said
    assert "a_liver" not in said
    path.write_text("\n".join(["patient,condition,image,mask,liver", *rows]) + "\n")
    assert main(["check", str(path)]) == 1
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert len(errors) == 2
    assert "row 5: liver mask: " in errors[0]
    assert "no voxel of it is liver" in errors[0]
    assert "row 6: liver mask: " in errors[1]
    assert "spacing" in errors[1]
    write_volume(tmp_path / "d_liver.nii.gz", both + 3 * a_mask(FAR))
    found = check_cohort(path).problems[0]
    assert "has 3 labels, of which one may be the liver" in found


def test_a_scan_under_two_patients_is_a_warning(tmp_path):
    cells = write_pair(tmp_path, "a", a_mask(ONE))
    (tmp_path / "copy.nii").write_bytes(b"")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "copy.nii"))
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a_roi.nii.gz")), str(tmp_path / "b_roi.nii"))
    lines = [f"a,dwi,{cells}", "b,dwi,copy.nii,b_roi.nii"]
    lines.append(f"c,dwi,{write_pair(tmp_path, 'c', a_mask(ONE))}")
    path = write_cohort(tmp_path, lines)
    (warning,) = check_cohort(path).warnings
    assert warning == (
        f"{path}: 'a' (row 2, a.nii.gz) and 'b' (row 3, copy.nii) have the same voxels; the split "
        "may train on what it tests; if it is one scan, correct the patient or the path"
    )
    for condition in ("pre_dwi", "dwi"):
        same = write_cohort(tmp_path, [line.replace("b,dwi", f"a,{condition}") for line in lines])
        (warning,) = (text for text in check_cohort(same).warnings if "the same voxels" in text)
        assert warning == (
            f"{path}: 'a': dwi (row 2, a.nii.gz) and {condition} (row 3, copy.nii) have the same "
            "voxels; one scan counts as two; correct the path, or delete the row"
        )


def test_a_condition_of_different_b_values_is_a_warning(tmp_path):
    lines = []
    for seed, (name, b) in enumerate((("a", 800), ("b", 1000), ("c", 800), ("d", None))):

        def change(_, header, b=b):
            if b is not None:
                header.DiffusionBValue = float(b)

        array = np.abs(dicoms.voxels(seed))
        series = {"series": dicoms.uid(seed), "modality": "MR", "change": change}
        lines.append(write_dicom(tmp_path, name, "pre_dwi", array, 1400, **series))
    said = check_cohort(write_cohort(tmp_path, lines)).warnings
    (warning,) = (line for line in said if "different b-values" in line)
    assert "condition pre_dwi: " in warning
    assert "800 s/mm² (rows 2, 4); 1000 s/mm² (row 3); a network" in warning
    own = [line.replace("pre_dwi", f"pre_dwi_{line[0]}") for line in lines]
    assert "different b-values" not in str(check_cohort(write_cohort(tmp_path, own)).warnings)


def test_a_nifti_has_the_b_value_that_was_chosen(tmp_path):
    path = bvals.write(tmp_path, text="0 50 1000")
    row = ImageRow("a", "pre_dwi", path, None, 2)
    for asked, expected in ((None, 1000), (50, 50)):
        chosen = dataclasses.replace(row, b_value=asked)
        volume = read_image(path, b_value=asked)
        assert b_value_of(chosen, volume) == expected
    path.with_name("a.bval").write_text("800 800 800")
    assert b_value_of(row, volume) == 800
    path.with_name("a.bval").unlink()
    assert b_value_of(row, volume) is None


def test_a_dicom_series_under_two_patients_is_a_warning(tmp_path):
    lines = []
    for seed, name in enumerate("ab"):
        array = dicoms.voxels(seed)
        lines.append(write_dicom(tmp_path, name, "ct", array, 300, series=dicoms.uid(1)))
    said = check_cohort(write_cohort(tmp_path, lines)).warnings
    (warning,) = (line for line in said if "may train on what it tests" in line)
    assert "'a' (row 2, a) and 'b' (row 3, b) are one DICOM series by their UID" in warning


def test_names_that_differ_in_spelling_are_a_warning(tmp_path, capsys):
    lines = [f"{p},dwi,{write_pair(tmp_path, p, a_mask(ONE))}" for p in ("P01", "p-1", "P02")]
    path = write_cohort(tmp_path, lines)
    assert exit_code(main, ["check", str(path)]) == 0
    assert (
        f"warning: {path}: 'P01' (row 2) and 'p-1' (row 3) may be one patient; the split may train "
        "on what it tests; if it is one, write one name in all rows\n"
    ) == capsys.readouterr().err


def test_drawn_split_is_that_of_the_training(tmp_path):
    report = check_cohort(make_cohort(tmp_path, patients=6, shape=(2, 16, 16)))
    assert check.split_line(report) == (
        "split drawn at training (seed 0, 40 % to test, unless data.test_patients or data.fold is "
        "given): 3 train (of whom 1 are kept to validate), 3 test"
    )
    assert summary_rows(report)[0][:4] == ("pre_dwi", "6", "3/3", "6")


def test_a_cohort_that_cannot_be_split_is_a_problem(tmp_path):
    report = check_cohort(make_cohort(tmp_path, patients=1, shape=(2, 16, 16)))
    assert len(report.problems) == 1
    assert "no train case is left for pre_dwi" in report.problems[0]


def test_a_label_that_no_mask_holds_is_a_problem(cohort):
    lines = cohort.read_text().splitlines()
    header, *rows = (line.split(",") for line in lines)
    label = header.index("mask_label")
    rows = [[*row[:label], "9", *row[label + 1 :]] for row in rows]
    cohort.write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    assert check_cohort(cohort).problems == (
        f"{cohort}: no image holds tumour; correct the masks or mask_label",
    )


def test_unusable_file_and_workers(tmp_path, capsys):
    assert exit_code(main, ["check", str(tmp_path / "none.csv")]) == 1
    assert "none.csv: cohort file not found; correct the path" in capsys.readouterr().err
    assert exit_code(main, ["check", str(tmp_path), "--workers", "0"]) == 1
    assert "--workers 0: write 1 or more" in capsys.readouterr().err


def test_command_of_the_readme(cohort):
    command = [sys.executable, "-m", "crlm_jax.data.cohort", "check", str(cohort)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "dwi" in run.stdout
    assert all(line.startswith("warning: ") for line in run.stderr.splitlines())


def test_real_cohort(shared, capsys):
    data = shared / "data"
    assert exit_code(main, ["check", str(data / "cohort.csv")]) == 0
    out, err = capsys.readouterr()
    # Counted another way: by SimpleITK's own components, and picture by picture.
    labels = sitk.ReadImage(str(data / "ct_volume" / "labels.nii.gz")) == 2
    parts = sitk.ConnectedComponent(labels, True)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(parts)
    sizes = sorted(shape.GetPhysicalSize(label) for label in shape.GetLabels())
    voxels = sitk.GetArrayFromImage(labels)
    lesions, slices, tumour = len(sizes), len(voxels), int(voxels.any(axis=(1, 2)).sum())
    for file in (data / "ct_slices" / "masks").glob("*.png"):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0
        lesions += ndimage.label(mask, np.ones((3, 3)))[1]
        slices, tumour = slices + 1, tumour + int(mask.any())
    row = next(line.split() for line in out.splitlines() if line.strip().startswith("ct"))
    assert row[:7] == ["ct", "11", "7/4", "25", str(slices), str(tumour), str(lesions)]
    middle = sizes[len(sizes) // 2] if len(sizes) % 2 else sum(sizes[len(sizes) // 2 - 1 :][:2]) / 2
    assert row[7:] == [f"{middle:,.0f}", f"({sizes[0]:,.0f}–{sizes[-1]:,.0f})", "1", "1"]
    assert "7 train (of whom 1 are kept to validate), 4 test" in out
    assert "Pictures have no spacing" in out
    assert "no tumour in any image of msd-11596, msd-11653, msd-11891, msd-12145" in err
    assert "modality" not in err


def test_lesions_count_as_they_were_drawn(tmp_path):
    """Two boxes that touch: one mask, labels, files of their own, and on a finer grid."""
    left, right = np.s_[1:3, 2:4, 2:5], np.s_[1:3, 2:4, 5:8]
    rows = [HEADER]
    for name in ("one", "labels", "files", "fine"):
        cells = write_pair(tmp_path, name, a_mask(left, right))
        rows.append(f"{name},dwi,{cells},,{'test' if name == 'one' else 'train'}")
    labels = a_mask(left) + 2 * a_mask(right)
    write_volume(tmp_path / "labels_roi.nii.gz", labels.astype(np.uint8))
    for name, box in (("a", left), ("b", right)):
        write_volume(tmp_path / f"files_{name}.nii.gz", a_mask(box).astype(np.uint8))
    fine = sitk.GetImageFromArray(a_mask(left, right).astype(np.uint8).repeat(2, 1).repeat(2, 2))
    fine.SetSpacing((0.75, 0.75, 7.0))
    fine.SetOrigin((-0.375, -0.375, 0.0))
    sitk.WriteImage(fine, str(tmp_path / "fine_roi.nii.gz"))
    rows[3] = rows[3].replace("files_roi.nii.gz", "files_?.nii.gz")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(rows))
    said = check_cohort(path).problems
    assert len(said) == 2
    assert "row 3: " in said[0]
    assert "has the labels 1 (12 voxels), 2 (12 voxels)" in said[0]
    assert "row 5: the mask " in said[1]
    assert "--resample-masks" in said[1]
    rows[2] = rows[2].replace(",,train", ",lesions,train")
    path.write_text("\n".join(rows))
    report = check_cohort(path, data=Data(resample_masks=True))
    assert report.problems == ()
    assert [image.lesions for image in report.images] == [1, 2, 2, 1]
    assert [sum(image.volumes) for image in report.images] == [24 * 7 * 1.5 * 1.5] * 4
    (warning,) = [text for text in report.warnings if "fine_roi" in text]
    assert "resampled from 0.75 × 0.75 × 7 mm" in warning
    assert exit_code(main, ["check", str(path)]) == 1
    assert exit_code(main, ["check", str(path), "--resample-masks"]) == 0


def test_a_liver_without_tumour_beside_labelled_masks_is_said(tmp_path):
    rows = [HEADER]
    for name, value, label in (("a", 2, "2"), ("b", 1, ""), ("c", 2, ""), ("d", 1, "2")):
        cells = write_pair(tmp_path, name, a_mask(ONE))
        write_volume(tmp_path / f"{name}_roi.nii.gz", a_mask(ONE).astype(np.uint8) * value)
        rows.append(f"{name},dwi,{cells},{label},{'test' if name == 'a' else 'train'}")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(rows))
    report = check_cohort(path)
    assert report.problems == ()
    (warning,) = [text for text in report.warnings if "mask_label" in text]
    assert "column 'mask_label' is empty in rows 3, so that" in warning
    assert "elsewhere tumour is 2" in warning
