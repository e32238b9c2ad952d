"""The command that predicts: what it takes, where its results go, and what it refuses."""

import csv
import os
import threading
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Data
from crlm_jax.errors import UserError
from crlm_jax.imaging import masks, volumes
from crlm_jax.imaging.dicom import segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.predict import command as predict_command
from crlm_jax.predict import outputs, stream
from crlm_jax.predict import segmenter as predict_segmenter
from crlm_jax.predict.scans import Scan
from crlm_jax.system.console import exit_code
from tests.imaging import test_bvals as bvals
from tests.imaging.dicom import dicoms, enhanced
from tests.predict.test_segmenter import ball, identity, tiny_run

__all__ = ["tiny_run"]  # a fixture


@pytest.fixture
def run(monkeypatch):
    """Calls the command with a segmenter that thresholds; returns its exit code."""

    def call(*words, segmenter=None) -> int:
        made = segmenter or identity()
        monkeypatch.setattr(predict_command, "load", lambda run, **options: made)
        return exit_code(
            predict_command.main, [str(word) for word in ("--run", "runs/none", *words)]
        )

    return call


def scan_file(path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(ball(**options)[0], str(path))
    return path


def bright_series(folder: Path, **options) -> Path:
    """A CT series with a bright block in four slices."""
    array = np.full((6, 32, 32), 924, np.int16)  # -100 HU
    array[1:5, 8:14, 20:27] = 1224
    dicoms.write_series(folder, array, **options)
    return folder


def mask_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def rows(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# One scan


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_the_ending_decides_the_format(tmp_path, run, ending):
    image, inside = ball(direction=np.diag((-1, -1, 1)))
    scan = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(scan))
    assert run("--image", scan, "--out", tmp_path / f"mask{ending}") == 0
    written = sitk.ReadImage(str(tmp_path / f"mask{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), inside)
    assert written.GetSize() == image.GetSize()
    for about in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(written, about)(), getattr(image, about)(), atol=1e-5)


def test_a_picture(tmp_path, run):
    grey = (np.indices((32, 32))[1] > 20).astype(np.uint8) * 200
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(tmp_path / "slice.png"))
    assert run("--image", tmp_path / "slice.png", "--out", tmp_path / "mask.png") == 0
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.png"), (grey > 0) * 255)


@pytest.mark.parametrize("options", [[], ["--one-segment"]])
def test_dicom_in_and_out(tmp_path, run, options):
    folder = bright_series(tmp_path / "ct", axes=dicoms.rotation(20))
    assert run("--image", folder, "--out", tmp_path / "seg.dcm", *options) == 0
    array, geometry, series = read_series(folder)
    found = segmentation.read_segmentation(tmp_path / "seg.dcm", geometry, series)
    np.testing.assert_array_equal(found, array > 50)
    assert found.sum() == 4 * 6 * 7


def test_a_condition_that_windows_otherwise_is_another_result(tmp_path, run):
    array = np.full((6, 32, 32), 924, np.int16)  # -100 HU
    array[1:5, 8:14, 20:27], array[1:5, 20:26, 5:12], array[0, 0, 0] = 1144, 1084, 824
    dicoms.write_series(tmp_path / "ct", array)
    made = identity(conditions=("ct", "pre_dwi", "post_dwi"))
    found = {}
    for name in ("ct", "pre_dwi", "post_dwi"):
        words = ["--image", tmp_path / "ct", "--out", tmp_path / f"{name}.dcm"]
        assert run(*words, "--condition", name, segmenter=made) == 0
        found[name] = pydicom.dcmread(tmp_path / f"{name}.dcm")
    assert found["ct"].pixel_array.sum() != found["pre_dwi"].pixel_array.sum()
    for uid in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert found["ct"][uid].value != found["pre_dwi"][uid].value
        assert found["post_dwi"][uid].value == found["pre_dwi"][uid].value  # windowed alike


def test_contours_and_a_report_of_every_series(tmp_path, run, capsys):
    for number in (1, 2):
        bright_series(tmp_path / "in" / f"p{number}", series=dicoms.uid(number))
    words = ["--image", tmp_path / "in", "--sr", tmp_path / "out", "--out", tmp_path / "out"]
    assert run(*words, "--as", "rtstruct") == 0
    volume = volumes.read_image(tmp_path / "in" / "p2")
    drawn = masks.read_mask(tmp_path / "out" / "p2.dcm", None, volume)
    np.testing.assert_array_equal(drawn, volume.voxels > 50)
    assert pydicom.dcmread(tmp_path / "out" / "p2.dcm").Modality == "RTSTRUCT"
    report = hd.sr.srread(tmp_path / "out" / "p2_sr.dcm")
    assert report.content.get_volumetric_roi_measurement_groups() == []
    assert run(*words) == 0  # once more, with a DICOM-SEG that the report refers to
    again = hd.sr.srread(tmp_path / "out" / "p2_sr.dcm")
    assert again.SeriesInstanceUID == report.SeriesInstanceUID
    assert again.SOPInstanceUID != report.SOPInstanceUID
    segmented = pydicom.dcmread(tmp_path / "out" / "p2.dcm")
    (group,) = again.content.get_volumetric_roi_measurement_groups()
    assert group.referenced_segment.referenced_sop_instance_uid == segmented.SOPInstanceUID
    assert "Musterfrau" not in "".join(capsys.readouterr())
    scans = [Scan(tmp_path / "in" / f"p{number}", name) for number, name in ((1, "a"), (2, "a_sr"))]
    with pytest.raises(VolumeError, match=r"a_sr\.dcm: --sr and --out would write the same file"):
        outputs.plan_jobs(scans, outputs.Outputs(tmp_path / "out", report=tmp_path / "out"))


def test_dicom_to_nifti_lies_on_the_series(tmp_path, run):
    folder = bright_series(tmp_path / "ct", axes=dicoms.rotation(20))
    assert run("--image", folder, "--out", tmp_path / "mask.nii.gz") == 0
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    scan, mask = reader.Execute(), sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    for place in np.argwhere(sitk.GetArrayFromImage(mask))[::17]:
        point = mask.TransformIndexToPhysicalPoint(place[::-1].tolist())
        assert scan[scan.TransformPhysicalPointToIndex(point)] == 200
    assert mask_of(tmp_path / "mask.nii.gz").sum() == 4 * 6 * 7


def test_lesions_are_listed(tmp_path, run):
    scan = scan_file(tmp_path / "scan.nii.gz")
    assert run("--image", scan, "--out", tmp_path / "mask.nii.gz") == 0
    (row,) = rows(tmp_path / "mask_lesions.csv")
    inside = ball()[1]
    assert tuple(row) == outputs.LESION_COLUMNS
    assert (row["scan"], row["condition"], row["lesion"], row["slice"]) == ("scan", "ct", "1", "4")
    assert float(row["volume_mm3"]) == pytest.approx(inside.sum() * 3.6, abs=0.05)
    assert float(row["diameter_mm"]) == pytest.approx(13 * 1.2, abs=0.6)  # 12 and a bit, in y
    place = [float(row[f"centre_{axis}_mm"]) for axis in "lps"]
    assert place == pytest.approx([5 + 9, -60 + 20 * 1.2, 900 + 4 * 3], abs=0.06)


def test_probability_threshold_and_small_lesions(tmp_path, run):
    scan = scan_file(tmp_path / "scan.nii.gz")
    words = ["--image", scan, "--out", tmp_path / "mask.nii.gz"]
    assert run(*words, "--probability", tmp_path / "p.nii.gz") == 0
    image, probability = ball()[0], sitk.ReadImage(str(tmp_path / "p.nii.gz"))
    grey = to_uint8(volumes.from_image(image), "ct", Data())
    np.testing.assert_allclose(sitk.GetArrayFromImage(probability), grey / 255, atol=1e-6)
    assert probability.GetOrigin() == pytest.approx(image.GetOrigin())


def test_options_reach_the_segmenter(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        predict_command,
        "load",
        lambda run, **options: seen.update(options, run=run) or identity(),
    )
    predict_command.main(
        f"--run runs/x --image {scan_file(tmp_path / 'a.nii.gz')} --out {tmp_path / 'm.nii.gz'}"
        " --tta --threshold 0.3 --min-lesion-mm3 20 --device cpu:2".split()
    )
    assert seen.pop("device").id == 2
    assert seen == {
        "run": ["runs/x"], "tta": True, "threshold": 0.3, "min_lesion_mm3": 20.0,
        "liver": None, "engine": "auto",
    }  # fmt: skip


def test_overlays_are_drawn_of_the_slices_with_a_lesion(tmp_path, run):
    scan = scan_file(tmp_path / "scan.nii.gz", shape=(8, 32, 32))
    assert run(
        "--image", scan, "--out", tmp_path / "m.nii.gz", "--overlay", tmp_path / "o"
    ) == 0  # fmt: skip
    slices = np.flatnonzero(ball(shape=(8, 32, 32))[1].any(axis=(1, 2)))
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        f"scan_z{z:03d}.png" for z in slices
    ]
    picture = mask_of(tmp_path / "o" / "scan_z004.png")[..., :3].astype(int)
    line = (abs(picture - (230, 159, 0)) < 20).all(axis=-1)
    bright = (abs(picture - 223) < 3).all(axis=-1)  # the lesion's grey level, 200 HU
    outline, lesion = np.argwhere(line).mean(axis=0), np.median(np.argwhere(bright), axis=0)
    np.testing.assert_allclose(outline, lesion, atol=12)  # of some 600 pixels


def test_the_real_command_with_a_real_run(tmp_path, tiny_run, capsys):
    scan = scan_file(tmp_path / "scan.nii.gz")
    words = f"--run {tiny_run} --image {scan} --out {tmp_path / 'm.nii.gz'}".split()
    assert predict_command.main(words) == 0
    expected = predict_segmenter.load(tiny_run)(sitk.ReadImage(str(scan)))
    np.testing.assert_array_equal(mask_of(tmp_path / "m.nii.gz"), sitk.GetArrayFromImage(expected))
    assert "1 mask(s)" in capsys.readouterr().out


# Many scans


def test_one_bad_scan_does_not_stop_the_others(tmp_path, run, capsys):
    folder = tmp_path / "scans"
    for name in ("a", "c"):
        scan_file(folder / f"{name}.nii.gz")
    (folder / "b.nii.gz").write_bytes(b"no image")
    scan_file(folder / "d.nrrd")
    assert run("--image", folder, "--out", tmp_path / "masks") == 1
    made = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert made == ["a.nii.gz", "c.nii.gz", "d.nrrd", "lesions.csv"]
    assert [row["scan"] for row in rows(tmp_path / "masks" / "lesions.csv")] == ["a", "c", "d"]
    told = capsys.readouterr().err
    assert "b.nii.gz" in told
    assert "1 of 4 scans failed; the others are done" in told


def test_a_cohort_file_names_patients_conditions_and_masks(tmp_path, run):
    scan_file(tmp_path / "x" / "1.nii.gz")
    scan_file(tmp_path / "x" / "2.nii.gz")
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("patient,condition,image\np1,ct,x/1.nii.gz\nMüller/2,ct,x/2.nii.gz\n")
    assert run("--image", cohort, "--out", tmp_path / "out" / "{name}_mask.nrrd") == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["Müller_2_ct_mask.nrrd", "lesions.csv", "p1_ct_mask.nrrd"]
    listed = [row["patient"] for row in rows(tmp_path / "out" / "lesions.csv")]
    assert listed == ["p1", "Müller/2"]


def test_a_tree_of_dicom_series(tmp_path, run):
    bright_series(tmp_path / "in" / "p1" / "ct")
    bright_series(tmp_path / "in" / "p2", series=dicoms.uid(2))
    assert run("--image", tmp_path / "in", "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "lesions.csv", "p1_ct.dcm", "p2.dcm",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".dcm", ".nii.gz"])
def test_an_enhanced_diffusion_image(tmp_path, run, ending):
    array = np.zeros(dicoms.SHAPE, np.int16)
    array[2, 3:8, 4:9] = 1000
    path = enhanced.write_enhanced(
        tmp_path / "a.dcm",
        [(array[::-1].copy(), enhanced.diffusion(0)), (array, enhanced.diffusion(1000))],
    )
    out = tmp_path / f"mask{ending}"
    # White is 1500, half as bright again as the body.
    words = ["--image", path, "--condition", "pre_dwi", "--out", out]
    assert run(*words, "--threshold", 1 / 3) == 0
    image = volumes.read_image(path)
    np.testing.assert_array_equal(masks.read_mask(out, None, image), array > 0)


def test_a_diffusion_nifti_by_b_value(tmp_path, run):
    path = bvals.write(tmp_path)
    out = tmp_path / "mask.nii.gz"
    assert run("--image", path, "--b-value", 50, "--condition", "pre_dwi", "--out", out) == 0
    mask, image = volumes.read_image(out), volumes.read_image(path, b_value=50)
    assert mask.geometry == image.geometry


def test_a_folder_of_diffusion_niftis_by_b_value(tmp_path, run, capsys):
    path = bvals.write(tmp_path)
    words = ["--condition", "pre_dwi", "--out", tmp_path / "out"]
    for name in ("file", "folder"):
        image = path if name == "file" else tmp_path
        out = tmp_path / name / "m.nii.gz"
        assert run("--image", image, "--b-value", 50, "--condition", "pre_dwi", "--out", out) == 0
    np.testing.assert_array_equal(*(mask_of(tmp_path / x / "m.nii.gz") for x in ("file", "folder")))
    capsys.readouterr()
    assert run("--image", tmp_path, "--series", "description=*T2*", *words) == 1
    assert f"{tmp_path}: its images are not DICOM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_segmentation_of_a_mosaic_is_refused_before_the_network_runs(tmp_path, run, capsys):
    path = dicoms.save(enhanced.make_mosaic(dicoms.voxels()), tmp_path / "in" / "a.dcm")
    network = lambda _: pytest.fail("the network runs")  # noqa: E731
    job = outputs.Job(Scan(path, "a"), tmp_path / "mask.dcm")
    segmenter = identity()
    object.__setattr__(segmenter, "network", network)
    _, (failed,) = stream.predict_scans(segmenter, [job], warn=pytest.fail)
    assert "a MOSAIC" in str(failed)
    assert "write the mask as NIfTI" in str(failed)
    assert run("--image", path, "--out", tmp_path / "mask.nii.gz") == 0


def test_a_broken_file_in_a_tree_does_not_stop_the_series(tmp_path, run, capsys):
    bright_series(tmp_path / "in" / "p1")
    bright_series(tmp_path / "in" / "p2", series=dicoms.uid(2))
    os.truncate(tmp_path / "in" / "p2" / "000.dcm", 200)  # its series cannot be told
    assert run("--image", tmp_path / "in", "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / "p1.dcm").is_file()
    assert not (tmp_path / "out" / "p2.dcm").exists()
    assert "p2/000.dcm" in capsys.readouterr().err


def test_the_next_scan_is_read_while_the_network_works(tmp_path, monkeypatch):
    second_read = threading.Event()
    plain = volumes.read_image

    def reading(path, **options):
        volume = plain(path, **options)
        if path.name == "2.nii.gz":
            second_read.set()
        return volume

    monkeypatch.setattr(volumes, "read_image", reading)
    waited = []

    def network(batch):
        waited.append(second_read.wait(20))
        return batch[..., 0] / np.float32(255)

    segmenter = identity()
    object.__setattr__(segmenter, "network", network)
    jobs = [
        outputs.Job(Scan(scan_file(tmp_path / f"{i}.nii.gz"), str(i)), tmp_path / f"m{i}.nii")
        for i in (1, 2)
    ]
    warned: list[str] = []
    found, failed = stream.predict_scans(segmenter, jobs, warn=warned.append)
    assert not failed
    assert [row.scan for row in found] == ["1", "2"]
    assert all(waited)
    assert all("32 mm wide and 38 mm high" in text for text in warned)
    assert len(warned) == 2


def failing_at(number: int, error: BaseException):
    """A segmenter whose network raises an error in one of its calls, counted from 1."""
    calls = []

    def network(batch):
        calls.append(batch)
        if len(calls) == number:
            raise error
        return batch[..., 0] / np.float32(255)

    return identity(network=network, batch=12)  # slices of a scan


@pytest.mark.parametrize("error", [MemoryError("4 GiB"), RuntimeError("RESOURCE_EXHAUSTED: 4 GiB")])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_scan_for_which_the_memory_is_not_enough_fails_alone(
    tmp_path, run, capsys, number, error
):
    for name in "123":
        scan_file(tmp_path / "in" / f"{name}.nii.gz")
    words = ["--image", tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*words, segmenter=failing_at(number, error)) == 1
    others = [name for name in "123" if name != str(number)]
    assert [row["scan"] for row in rows(tmp_path / "out" / "lesions.csv")] == others
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        f"{name}.nii.gz" for name in others
    ]
    said = capsys.readouterr().err
    assert f"{number}.nii.gz: the memory is not enough for this scan" in said
    assert "1 of 3 scans failed; the others are done" in said


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt()])
def test_what_is_done_is_listed_where_the_command_breaks_off(tmp_path, run, capsys, error):
    for name in "123":
        scan_file(tmp_path / "in" / f"{name}.nii.gz")
    words = ["--image", tmp_path / "in", "--out", tmp_path / "out"]
    with pytest.raises(type(error)):
        run(*words, segmenter=failing_at(3, error))
    assert [row["scan"] for row in rows(tmp_path / "out" / "lesions.csv")] == ["1", "2"]
    assert "broken off: 2 of 3 scans are done, and listed in" in capsys.readouterr().err
    with pytest.raises(type(error)):
        run(*words[:3], tmp_path / "none", segmenter=failing_at(1, error))
    assert list((tmp_path / "none").iterdir()) == []


# What is refused, with one clear line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--out", "{tmp}/mask.foo"], ["mask.foo", "endings", ".nii.gz"]),
        (["--out", "{tmp}/mask.dcm"], ["DICOM-SEG", "scan.nii.gz", ".nii.gz"]),
        (["--out", "{tmp}/mask.png"], ["PNG holds one slice"]),
        (["--out", "{tmp}/scan.nii.gz"], ["write over the scan"]),
        (["--out", "/proc/none/mask.nii.gz"], ["/proc/none", "permissions"]),
        (["--out", "{tmp}/m.nii.gz", "--probability", "{tmp}/p.dcm"], ["p.dcm", "endings"]),
        (["--out", "{tmp}/m.nii.gz", "--as", "rtstruct"], ["m.nii.gz", "RTSTRUCT", ".dcm"]),
        (["--out", "{tmp}/m.dcm", "--as", "rtstruct"], ["RTSTRUCT", "scan.nii.gz", ".nii.gz"]),
        (["--out", "{tmp}/m.nii.gz", "--sr", "{tmp}/r.dcm"], ["scan.nii.gz", "leave out --sr"]),
        (["--out", "{tmp}/m.nii.gz", "--sr", "{tmp}/r.nrrd"], ["r.nrrd", "endings .dcm"]),
        (["--out", "{tmp}/m.dcm", "--sr", "{tmp}/m.dcm"], ["--out and --sr", "same file"]),
        (["--out", "{tmp}/m.nii.gz", "--device", "abacus"], ["abacus", "cpu:0"]),
        (["--out", "{tmp}/m.nii.gz", "--series", "1.2"], ["scan.nii.gz", "not DICOM"]),
        (["--out", "{tmp}/m.nii.gz", "--image", "{tmp}/none.nii.gz"], ["none.nii.gz: file not"]),
        (["--out", "{tmp}/m.nii.gz", "--image", "{tmp}/empty"], ["empty", "no image"]),
        (["--out", "{tmp}/m.nii.gz", "--image", "{tmp}/two"], ["m.nii.gz", "2 scans", "{{name}}"]),
        (["--out", "{tmp}/m.nii.gz", "--image", "{tmp}/text.nii.gz"], ["not a NIfTI file"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(tmp_path, run, capsys, words, parts):
    scan_file(tmp_path / "scan.nii.gz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.nii.gz").write_text("text")
    for name in "ab":
        scan_file(tmp_path / "two" / f"{name}.nii.gz")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code = run("--image", tmp_path / "scan.nii.gz", *(word.format(tmp=tmp_path) for word in words))
    told = capsys.readouterr().err + (code if isinstance(code, str) else "")
    assert code != 0
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for part in parts:
        assert part.replace("{{", "{").replace("}}", "}") in errors[0]
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", [["--threshold", "2"], ["--condition", "Pre DWI"]])
def test_wrong_options_are_refused_before_anything_is_read(run, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--image", "x.nii.gz", "--out", "y.nii.gz", *words)
    assert words[0] in capsys.readouterr().err


def test_a_run_without_checkpoint(tmp_path, tiny_run, capsys):
    scan = scan_file(tmp_path / "scan.nii.gz")
    words = f"--run {tmp_path} --image {scan} --out {tmp_path / 'out' / 'm.nii'}".split()
    with pytest.raises(UserError, match="no run is here"):
        predict_command.main(words)
    (tmp_path / "config.json").write_text((tiny_run / "config.json").read_text())
    with pytest.raises(OSError, match="no complete checkpoint"):
        predict_command.main(words)


def test_a_run_with_several_windows_wants_the_condition(tmp_path, run, capsys):
    segmenter = identity(conditions=("ct", "pre_dwi"))
    words = ["--image", scan_file(tmp_path / "a.nii.gz"), "--out", tmp_path / "m.nii.gz"]
    assert run(*words, segmenter=segmenter) == 1
    assert "say which the scan is with --condition" in capsys.readouterr().err
    assert run(*words, "--condition", "ct", segmenter=segmenter) == 0


def test_a_truncated_series_is_refused(tmp_path, run, capsys):
    folder = bright_series(tmp_path / "ct")
    file = folder / "003.dcm"
    os.truncate(file, file.stat().st_size - 500)
    assert run("--image", folder, "--out", tmp_path / "m.nii.gz") == 1
    told = capsys.readouterr().err
    assert "003.dcm" in told
    assert not (tmp_path / "m.nii.gz").exists()


def test_another_modality_is_a_warning(tmp_path, run, capsys):
    bright = ball()[0] + 300  # no voxel below 0
    sitk.WriteImage(bright, str(tmp_path / "mr.nii.gz"))
    words = ["--image", tmp_path / "mr.nii.gz", "--out", tmp_path / "m.nii.gz"]
    assert run(*words) == 0
    assert "looks like another modality than ct: no voxel is below 0 HU" in capsys.readouterr().err
    mri = identity(conditions=("pre_dwi",))
    assert run(*words, segmenter=mri) == 0
    assert "another modality than" not in capsys.readouterr().err
    sitk.WriteImage(ball()[0] - 300, str(tmp_path / "mr.nii.gz"))
    assert run(*words, segmenter=mri) == 0
    assert "as in CT" in capsys.readouterr().err
    assert run(*words, "--condition", "ct", segmenter=mri) == 0
    assert "is ct, but the run was trained on pre_dwi" in capsys.readouterr().err


def test_a_condition_that_the_run_does_not_know_is_a_warning(tmp_path, run, capsys):
    sitk.WriteImage(ball()[0] + 300, str(tmp_path / "mr.nii.gz"))
    words = ["--image", tmp_path / "mr.nii.gz", "--out", tmp_path / "m.nii.gz"]
    mri = identity(conditions=("pre_dwi", "post_dwi"))
    for known in ("pre_dwi", "post_dwi"):
        assert run(*words, "--condition", known, segmenter=mri) == 0
        assert "see that the scans" not in capsys.readouterr().err
    assert run(*words, "--condition", "pre_t2wi", segmenter=mri) == 0
    assert (
        "warning: condition pre_t2wi: the run was trained on pre_dwi, post_dwi; see that the scans "
        "are of the same kind\n"
    ) in capsys.readouterr().err


def test_a_folder_is_listed_before_it_is_segmented(tmp_path, run, capsys):
    folder = tmp_path / "in"
    bright_series(folder / "s1")
    bright_series(folder / "s2", series=dicoms.uid(2))
    (folder / "logo.png").write_bytes(b"")
    assert run("--image", folder, "--out", tmp_path / "out") == 0
    told = capsys.readouterr()
    about = "(no description, CT, axial, 6 images, number 3)"
    assert told.out.splitlines()[:3] == [
        f"{folder}: 2 scan(s) to segment:",
        f"{folder / 's1'} {about}",
        f"{folder / 's2'} {about}",
    ]
    assert f"warning: {folder}: left out 1 picture(s) beside DICOM series: logo.png\n" in told.err
    assert run("--image", folder, "--out", tmp_path / "one", "--series", "modality=MR") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines[-3:]] == ["error"] * 3
    assert f"{folder}: has no DICOM series modality=MR; choose one with" in lines[-3]


def test_the_modality_of_a_series_is_read(tmp_path, run, capsys):
    folder = bright_series(tmp_path / "mr", modality="MR")
    assert run("--image", folder, "--out", tmp_path / "m.nii.gz") == 0
    assert "its DICOM modality is MR" in capsys.readouterr().err


def test_no_name_or_birth_date_goes_anywhere_but_into_dicom(tmp_path, run, capsys):
    bright_series(tmp_path / "in" / "p1")
    broken = bright_series(tmp_path / "in" / "p2", series=dicoms.uid(2))
    (broken / "002.dcm").unlink()
    words = ["--image", tmp_path / "in", "--out", tmp_path / "out" / "{name}.nii.gz"]
    assert run(*words, "--overlay", tmp_path / "out") == 1
    told = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    everything = written.decode("latin-1") + told.out + told.err
    for word in (*dicoms.PATIENT["PatientName"].split("^"), dicoms.PATIENT["PatientBirthDate"]):
        assert word not in everything
        assert word.encode() not in written
    assert dicoms.PATIENT["PatientID"] not in everything


def test_a_failing_write_leaves_no_part(tmp_path, run, monkeypatch):
    scan = scan_file(tmp_path / "scan.nii.gz")

    def full(image, path, **options):
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(sitk, "WriteImage", full)
    assert run("--image", scan, "--out", tmp_path / "mask.nii.gz") == 1
    assert sorted(tmp_path.iterdir()) == before


# What must not be lost


def written_over(folder: Path, run, capsys, *words, **options) -> str:
    """Runs the command, which must end before a network computes; returns its one error."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    never = identity(network=lambda batch: pytest.fail("a network has computed"))
    assert run(*words, segmenter=never, **options) == 1
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def test_a_result_never_replaces_a_mask_beside_the_scans(tmp_path, run, capsys):
    scan = scan_file(tmp_path / "p1.nii.gz")
    truth = sitk.GetImageFromArray(np.eye(12, dtype=np.uint8)[None])
    sitk.WriteImage(truth, str(tmp_path / "p1_mask.nii.gz"))
    out = tmp_path / "{name}_mask.nii.gz"
    line = written_over(tmp_path, run, capsys, "--image", tmp_path, "--out", out)
    assert "p1_mask.nii.gz: --out would write over what came with the scans" in line
    words = ["--out", tmp_path / "out" / "m.nii.gz", "--lesions"]
    line = written_over(tmp_path, run, capsys, "--image", scan, *words, scan)
    assert "p1.nii.gz: --lesions would write over the scan" in line
    line = written_over(tmp_path, run, capsys, "--image", scan, *words, words[1])
    assert "--out and --lesions would write the same file" in line


@pytest.mark.parametrize("option", ["--out", "--probability", "--lesions"])
def test_a_result_never_replaces_the_mask_of_a_liver(tmp_path, run, capsys, option):
    scan, liver = scan_file(tmp_path / "scan.nii.gz"), tmp_path / "liver.nii.gz"
    sitk.WriteImage(sitk.Cast(ball()[0] > -1000, sitk.sitkUInt8), str(liver))
    words = ["--image", scan, "--liver", liver, option, liver]
    if option != "--out":
        words += ["--out", tmp_path / "out" / "m.nii.gz"]
    line = written_over(tmp_path, run, capsys, *words)
    assert f"liver.nii.gz: {option} would write over the mask of a liver" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "{name}.nii.gz"], "p1_ct.nii.gz: --out would write over what came with"),
        (["--out", "o", "--lesions", "cohort.csv"], "--lesions would write over the cohort file"),
        (["--out", "l/{name}_of.nii.gz"], "p2_ct_of.nii.gz: --out would write over the mask of a"),
        (["--out", "o", "--overlay", "x"], "p2_ct_z004.png: --overlay would write over the scan"),
    ],
)
def test_a_result_never_replaces_what_a_cohort_names(
    tmp_path, run, capsys, monkeypatch, words, said
):
    monkeypatch.chdir(tmp_path)
    scan_file(Path("x/1.nii.gz"))
    scan_file(Path("x/2.nii.gz"))
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), "x/p2_ct_z004.png")
    mask = sitk.Cast(ball()[0] > 100, sitk.sitkUInt8)
    Path("l").mkdir()
    for name in ("p1_ct.nii.gz", "l/p2_ct_of.nii.gz"):
        sitk.WriteImage(mask, name)
    Path("cohort.csv").write_text(
        "patient,condition,image,mask,liver\np1,ct,x/1.nii.gz,p1_ct.nii.gz,\n"
        "p2,ct,x/2.nii.gz,none.nii.gz | [,l/p2_ct_of.nii.gz\np3,ct,x/p2_ct_z004.png,,\n"
    )
    words = ["--image", "cohort.csv", *words]
    assert said in written_over(tmp_path, run, capsys, *words)
    Path("cohort.csv").write_text("patient,condition,image,mask\np3,ct,x/1.nii.gz,\n")
    assert run("--image", "cohort.csv", "--out", "{name}.mha") == 0  # beside the cohort file


def test_no_result_lies_among_the_files_of_a_run(tmp_path, run, capsys):
    scan, folder = scan_file(tmp_path / "a" / "p1.nii.gz"), tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "lesions.csv").write_text("of the run")
    elsewhere = ["--out", tmp_path / "m.nii.gz"]
    for words in (
        ["--out", folder], ["--out", folder / "m.nii.gz"], [*elsewhere, "--overlay", folder],
        [*elsewhere, "--probability", folder], [*elsewhere, "--lesions", folder / "l.csv"],
    ):  # fmt: skip
        line = written_over(tmp_path, run, capsys, "--image", scan, *words)
        assert f"{folder}: {words[-2]} would write among the files of the run" in line
    assert run("--image", scan, "--out", folder / "masks") == 0


def test_a_list_of_lesions_that_cannot_be_written_is_found_first(tmp_path, run, capsys):
    scan = scan_file(tmp_path / "in" / "p1.nii.gz")
    (tmp_path / "in" / "file").touch()
    words = ["--image", scan, "--out", tmp_path / "out" / "m.nii.gz", "--lesions"]
    for path, said in (
        (tmp_path / "in", "--lesions is a folder; name a file"),
        (tmp_path / "in" / "{name}.csv", "--lesions is one list of all scans; leave {name} out"),
        (tmp_path / "in" / "file" / "l.csv", "no file can be written in this folder"),
    ):
        assert said in written_over(tmp_path, run, capsys, *words, path)
    assert run(*words, tmp_path / "new" / "folder" / "l.csv") == 0
    assert len(rows(tmp_path / "new" / "folder" / "l.csv")) == 1


def test_pictures_of_an_earlier_prediction_go_with_the_new_ones(tmp_path, run):
    pictures = tmp_path / "pictures"
    nothing = identity(min_lesion_mm3=1e9)  # the middle slice is drawn
    for name, made in (("a", None), ("a_z001", None), ("a", nothing)):
        scan = scan_file(tmp_path / f"{name}.nii.gz")
        words = ["--image", scan, "--out", tmp_path / "out" / "m.nii.gz", "--overlay"]
        assert run(*words, pictures, segmenter=made) == 0
    names = {path.name for path in pictures.iterdir()}
    assert names == {*(f"a_z001_z00{z}.png" for z in range(1, 8)), "a_z006.png"}
    assert run(*words, tmp_path / "each" / "{name}") == 0
    assert [path.name for path in (tmp_path / "each").iterdir()] == ["a"]


def test_an_ending_in_capitals_is_the_same_format(tmp_path, run):
    grey = (np.indices((32, 32))[1] > 20).astype(np.uint8) * 200
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(tmp_path / "slice.png"))
    assert run("--image", tmp_path / "slice.png", "--out", tmp_path / "mask.PNG") == 0
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.PNG"), (grey > 0) * 255)
    folder = bright_series(tmp_path / "ct")
    assert run("--image", folder, "--out", tmp_path / "seg.DCM") == 0
    assert pydicom.dcmread(tmp_path / "seg.DCM").Modality == "SEG"


@pytest.mark.parametrize("asked", ["post_dwi", "pre_dwi"])
def test_a_condition_that_contradicts_a_cohort_is_an_error(tmp_path, run, capsys, asked):
    for name in "12":
        scan_file(tmp_path / f"{name}.nii.gz")
    cohort, out = tmp_path / "cohort.csv", tmp_path / "out"
    made = identity(conditions=("pre_dwi", "post_dwi"))
    cohort.write_text("patient,condition,image\np1,pre_dwi,1.nii.gz\np1,post_dwi,2.nii.gz\n")
    words = ["--image", cohort, "--out", out, "--condition", asked]
    assert run(*words, segmenter=made) == 1
    said = capsys.readouterr().err
    assert f"--condition {asked}: the cohort file says" in said
    assert "of 1 of 2 scans another condition; leave the option out" in said
    assert not out.exists()
    cohort.write_text("patient,condition,image\np1,post_dwi,2.nii.gz\n")
    assert run(*words[:4], "--condition", "post_dwi", segmenter=made) == 0
