"""The command: what it reads, prints and writes."""

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.data.phantom import make_phantom
from crlm_jax.errors import UserError
from crlm_jax.imaging.dicom.results import Algorithm
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.recist import command as recist_command
from crlm_jax.recist.thickness import slice_thickness
from tests.imaging.dicom.dicoms import uid, write_segments, write_series
from tests.recist.scans import motion, move_file

RUN = {"algorithm": Algorithm("CRLM-GAN", "1.2.3", "0123abcd")}


def write(path, boxes, spacing=(1.0, 1.0, 5.0), values=None):
    """A mask with rows of pixels: (slice, row, first column, length)."""
    array = np.zeros((6, 40, 80), np.uint8)
    for number, (z, row, column, length) in enumerate(boxes):
        array[z, row, column : column + length] = values[number] if values else 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return str(path)


@pytest.fixture
def masks(tmp_path):
    pre = write(tmp_path / "pre.nii.gz", [(1, 5, 5, 40), (3, 20, 10, 20), (5, 35, 60, 6)])
    post = write(tmp_path / "post.nrrd", [(1, 5, 15, 20), (3, 20, 10, 20), (5, 5, 70, 6)])
    return ["--pre", pre, "--post", post]


def run(argv, capsys):
    recist_command.main(argv)
    return capsys.readouterr()


def test_command_prints_lesions_sums_and_response(masks, capsys):
    out = run(masks, capsys).out
    assert "sum of diameters: 60.0 → 40.0 mm (-20.0 mm, -33.3 %)" in out
    assert "tumour volume: 330.0 → 230.0 mm³ (-100.0 mm³, -30.3 %)" in out
    assert "response (RECIST 1.1): PR; paired: sums only" in out
    assert "not a diagnosis" in out
    assert max(map(len, out.splitlines())) <= 120
    rows = [line.split() for line in out.splitlines()]
    assert ["target", "1", "40.0", "1.0", "1", "200", "–"] in rows
    assert ["in", "sum", "–", "1", "20.0", "1.0", "1", "100"] in rows
    out = run([*masks, "--same-frame"], capsys).out
    assert "response (RECIST 1.1): PD; paired: by position" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["target", "1", "40.0", "1.0", "1", "200", "1", "20.0", "1.0", "1", "100"] in rows
    assert ["new", "–", "3", "6.0", "1.0", "5", "30"] in rows
    assert ["non-target", "3", "6.0", "1.0", "5", "30", "–"] in rows


def test_command_writes_json_and_csv(masks, tmp_path, capsys):
    run([*masks, "--same-frame", "--out", str(tmp_path / "r.json")], capsys)
    told = json.loads((tmp_path / "r.json").read_text())
    assert (told["category"], told["paired"], told["new"]) == ("PD", "by position", [3])
    assert told["pairs"] == [[1, 1], [2, 2]]
    assert told["baseline_sum_mm"] == pytest.approx(60)
    found = told["time_point_pre"]["lesions"][0]
    assert sorted(found["ends"]) == [[5, 4.5], [5, 44.5]]
    assert (found["diameter"], found["short_axis"]) == pytest.approx((40, 1))
    assert "not a diagnosis" in told["disclaimer"]
    run([*masks, "--out", str(tmp_path / "r.csv")], capsys)
    with (tmp_path / "r.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["category"], row["paired"]) == ("PR", "sums only")
    assert (row["change_mm"], row["volume_baseline_mm3"]) == ("-20.00", "330.00")
    assert "not a diagnosis" in row["disclaimer"]


def test_command_writes_what_has_no_percentage(tmp_path, capsys):
    empty = write(tmp_path / "empty.mha", [])
    for name in ("r.json", "r.csv"):
        out = run(["--pre", empty, "--post", empty, "--out", str(tmp_path / name)], capsys).out
        assert "response (RECIST 1.1): NE" in out
    assert json.loads((tmp_path / "r.json").read_text())["change_percent"] is None


def test_command_takes_one_label_and_warns_of_doubtful_ones(masks, tmp_path, capsys):
    boxes = [(1, 5, 5, 70), (1, 25, 5, 20)]
    pre = write(tmp_path / "two.nii.gz", boxes, values=(1, 2))
    argv = ["--pre", pre, *masks[2:]]
    with pytest.raises(
        UserError, match=r"has the labels 1 \(70 voxels\), 2 .*; say which are tumo"
    ):
        run(argv, capsys)
    assert "90.0 → 40.0 mm" in run([*argv, "--label", "1,2"], capsys).out
    told = run([*argv, "--label", "2"], capsys)
    assert "20.0 → 0.0 mm" in told.out
    assert "post.nrrd: no voxel is labelled 2; it has 1" in told.err


def test_command_reads_segmentations_and_their_frame_of_reference(masks, tmp_path, capsys):
    def thin(_, header):
        header.SliceThickness = 2.5

    argv = []
    for when, length in (("pre", 15), ("post", 9)):
        write_series(tmp_path / when, change=thin)
        _, geometry, series = read_series(tmp_path / when)
        mask = np.zeros(geometry.size[::-1], bool)
        mask[2, 4, :length] = True  # of 0.8 mm
        write_segmentation(tmp_path / f"{when}.dcm", mask, series, **RUN)
        argv += [f"--{when}", str(tmp_path / f"{when}.dcm"), f"--{when}-image"]
        argv += [str(tmp_path / when)]
    out = run(argv, capsys).out
    assert "sum of diameters: 12.0 → 7.2 mm (-4.8 mm, -40.0 %)" in out
    assert "PR; paired: by position" in out

    def other(_, header):
        header.FrameOfReferenceUID = "1.2.3.4"

    write_series(tmp_path / "post", change=other)
    _, _, series = read_series(tmp_path / "post")
    write_segmentation(tmp_path / "post.dcm", mask, series, **RUN)
    assert "paired: sums only" in run(argv, capsys).out
    told = run([*argv, "--same-frame"], capsys)
    assert "paired: by position" in told.out
    assert "frame of reference is not the other's" in told.err
    with pytest.raises(UserError, match="give their folder by --pre-image"):
        recist_command.main([*argv[:2], *masks[2:]])
    with pytest.raises(UserError, match="no segment is labelled 'liver'"):
        recist_command.main([*argv, "--label", "liver"])


def test_command_chooses_the_series_by_a_pattern(tmp_path, capsys):
    argv = []
    for when, length in (("pre", 15), ("post", 9)):
        for number, description in ((1, "T2 tse"), (2, "T1 vibe")):
            names = [f"{number}_{index}" for index in range(6)]

            def describe(_, header, description=description):
                header.SeriesDescription, header.SliceThickness = description, 2.5

            folder = tmp_path / when
            write_series(folder, series=uid(number), names=names, change=describe)
        _, geometry, series = read_series(tmp_path / when, series="description=T2*")
        assert series.uid == uid(1)
        mask = np.zeros(geometry.size[::-1], bool)
        mask[2, 4, :length] = True  # of 0.8 mm
        write_segmentation(tmp_path / f"{when}.dcm", mask, series, **RUN)
        argv += [f"--{when}", str(tmp_path / f"{when}.dcm"), f"--{when}-image"]
        argv += [str(tmp_path / when)]
    assert "12.0 → 7.2 mm" in run([*argv, "--series", "description=t2*"], capsys).out
    with pytest.raises(UserError, match=r"holds 2 series; choose one with --series") as why:
        recist_command.main(argv)
    assert f"{uid(2)}: 'T1 vibe', CT, axial, 6 images" in str(why.value)


def test_command_says_by_what_lesions_are_measurable(masks, tmp_path, capsys):
    for name in ("r.json", "r.csv"):
        out = run([*masks, "--out", str(tmp_path / name)], capsys).out
        assert "from 10.0 mm, by the slice spacing of 5 mm; the thickness is not known" in out
        argv = [*masks, "--slice-thickness", "11.5", "--out", str(tmp_path / f"t{name}")]
        out = run(argv, capsys).out
        assert "measurable: from 23.0 mm, by the slice thickness of 11.5 mm\n" in out
        assert "sum of diameters: 40.0 →" in out  # the lesion of 20 mm is no target
    told = json.loads((tmp_path / "tr.json").read_text())
    assert (told["measurable_by"], told["measurable_from_mm"]) == ("slice thickness", 23)
    assert told["time_point_post"]["slice_thickness"] == 11.5
    assert json.loads((tmp_path / "r.json").read_text())["measurable_by"] == "slice spacing"
    with (tmp_path / "tr.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["measurable_by"], row["measurable_from_mm"]) == ("slice thickness", "23.00")
    for wrong in ("0", "nan"):
        with pytest.raises(SystemExit):
            run([*masks, "--slice-thickness", wrong], capsys)


@pytest.fixture
def course(tmp_path):
    """A lesion of 50 mm before, and 20, 24 and 26 mm at three follow-ups; all in one place."""
    argv = ["--same-frame"]
    for flag, length in (("--pre", 50), ("--post", 20), ("--post", 24), ("--post", 26)):
        argv += [flag, write(tmp_path / f"{length}.nii.gz", [(1, 5, 5, length)])]
    return argv


def test_command_lists_all_follow_ups(course, capsys):
    out = run(course, capsys).out
    assert [line.split("RECIST 1.1): ")[1][:2] for line in out.splitlines() if "1.1" in line] == [
        "PR", "PR", "PD"
    ]  # fmt: skip
    assert "over the smallest sum: 20.0 → 26.0 mm (+6.0 mm, +30.0 %)" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["baseline", "50.0", "250"] in rows
    assert ["follow-up", "1", "20.0", "-60.0", "%", "-60.0", "%", "100", "PR"] in rows
    assert ["follow-up", "3", "26.0", "-48.0", "%", "+30.0", "%", "130", "PD"] in rows
    assert max(map(len, out.splitlines())) <= 120
    assert out.count("not a diagnosis") == 1


def test_command_writes_a_row_for_each_follow_up(course, tmp_path, capsys):
    run([*course, "--out", str(tmp_path / "r.csv")], capsys)
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["follow_up"], row["category"]) for row in rows] == [
        ("1", "PR"), ("2", "PR"), ("3", "PD")
    ]  # fmt: skip
    assert [row["smallest_sum_mm"] for row in rows] == ["50.00", "20.00", "20.00"]
    assert rows[2]["change_from_smallest_percent"] == "30.00"
    run([*course, "--out", str(tmp_path / "r.json")], capsys)
    told = json.loads((tmp_path / "r.json").read_text())
    assert [each["category"] for each in told["follow_ups"]] == ["PR", "PR", "PD"]
    assert [each["post"][-9:] for each in told["follow_ups"]] == [
        "20.nii.gz", "24.nii.gz", "26.nii.gz"
    ]  # fmt: skip
    assert told["follow_ups"][2]["time_point_post"]["lesions"][0]["diameter"] == 26
    assert told["time_point_pre"]["lesions"][0]["diameter"] == 50


def test_every_follow_up_needs_its_image(course, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run([*course, "--post-image", str(tmp_path)], capsys)
    assert "3 --post, but 1 --post-image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "thickness"),
    [(["5", "6"], 6.0), ([None, "thick", "nan", "-1", "0"], None), (["thick", "5"], 5.0)],
)
def test_the_thickest_slice_counts_and_what_is_no_thickness_does_not(written, thickness):
    headers = tuple({"SliceThickness": value} for value in written)
    assert slice_thickness(SimpleNamespace(series=SimpleNamespace(headers=headers))) == thickness
    assert slice_thickness(SimpleNamespace(series=None)) is None


@pytest.mark.parametrize(
    ("written", "option", "expected"),
    [
        ("6.5", [], "from 13.0 mm, by the slice thickness of 6.5 mm"),
        ("6.5", ["--slice-thickness", "4"], "by the slice thickness of 6.5 mm"),
        ("0", [], "by the slice spacing of 2.5 mm"),
        ("", [], "by the slice spacing of 2.5 mm"),
        (None, ["--slice-thickness", "4"], "by the slice thickness of 4 mm"),
    ],
)
def test_command_reads_the_slice_thickness_of_dicom(written, option, expected, tmp_path, capsys):
    def change(_, header):
        del header.SliceThickness
        if written is not None:
            header.SliceThickness = written

    write_series(tmp_path / "series", change=change)
    _, geometry, series = read_series(tmp_path / "series")
    mask = np.zeros(geometry.size[::-1], bool)
    mask[2, 4, :15] = True  # of 0.8 mm
    write_segmentation(tmp_path / "mask.dcm", mask, series, **RUN)
    argv = ["--pre", str(tmp_path / "mask.dcm"), "--pre-image", str(tmp_path / "series")]
    told = run([*argv, "--post", argv[1], "--post-image", argv[3], *option], capsys)
    assert expected in told.out
    assert ("not --slice-thickness" in told.err) == (written == "6.5" and bool(option))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--post", "absent.nii.gz"], "absent.nii.gz: file not found"),
        (["--label", "Tumor*"], "must be a whole number"),
        (["--out", "no/such/folder/r.json"], "there is no folder"),
        (["--post", "{folder}/picture.png"], "a picture"),
        (["--post", "{folder}/soft.nii.gz"], "whole numbers"),
        (["--post-image", "{folder}/other.nii.gz"], "differ in spacing"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(masks, tmp_path, change, said):
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(tmp_path / "picture.png"))
    soft = sitk.Image((4, 4, 4), sitk.sitkFloat32) + 0.5
    sitk.WriteImage(soft, str(tmp_path / "soft.nii.gz"))
    write(tmp_path / "other.nii.gz", [(1, 1, 1, 1)], spacing=(1.0, 1.0, 6.0))
    change = [part.format(folder=tmp_path) for part in change]
    with pytest.raises((UserError, OSError), match=said) as stop:
        recist_command.main([*masks, *change])
    assert "\n" not in str(stop.value)


def test_command_refuses_an_ending_and_runs_as_a_module(masks):
    command = [sys.executable, "-m", "crlm_jax.recist", *masks]
    refused = subprocess.run([*command, "--out", "r.txt"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert ".json or .csv" in refused.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "PR; paired: sums only" in done.stdout


def discs(*centres: tuple[float, float, float]) -> list[np.ndarray]:
    """Discs (Z, H, W) by row, column and radius in pixels; the first ones keep what they share."""
    y, x = np.indices((40, 60))
    taken = np.zeros(y.shape, bool)
    found = []
    for row, column, radius in centres:
        disc = (np.hypot(y - row, x - column) < radius) & ~taken
        taken |= disc
        found.append(np.stack([disc] * 3))
    return found


def test_touching_lesions_of_segments_labels_or_files_stay_apart(tmp_path, capsys):
    before = discs((20, 14, 8), (20, 29, 8))
    after = discs((20, 14, 5.6), (20, 31, 4.6))
    argv: dict[str, list[str]] = {"segments": [], "labels": ["--label", "lesions"], "files": []}
    for when, masks in (("pre", before), ("post", after)):
        folder = tmp_path / when
        grid = {"spacing": (5.0, 1.5, 1.5), "origin": (0.0, 0.0, 0.0)}
        files = write_series(folder, np.arange(7200, dtype=np.int16).reshape(3, 40, 60), **grid)
        names = {f"Tumor {number}": mask for number, mask in enumerate(masks, start=1)}
        write_segments(tmp_path / f"{when}.dcm", files, names, spacing=grid["spacing"])
        argv["segments"] += [f"--{when}", str(tmp_path / f"{when}.dcm")]
        argv["segments"] += [f"--{when}-image", str(folder)]
        labels = masks[0] + 2 * (masks[1] & ~masks[0])
        argv["labels"] += [f"--{when}", save(tmp_path / f"{when}.nii.gz", labels)]
        for number, mask in enumerate(masks):
            save(tmp_path / f"{when}{number}.nrrd", mask)
        argv["files"] += [f"--{when}", f"{tmp_path}/{when}?.nrrd"]
    argv["joined"] = [part.replace("?.nrrd", "0.nrrd") for part in argv["files"]]
    argv["joined"] = [f"{p}|{p[:-6]}1.nrrd" if p.endswith("0.nrrd") else p for p in argv["joined"]]
    for name, each in argv.items():
        told = run([*each, "--same-frame"], capsys)
        assert "response (RECIST 1.1): PR" in told.out, name
        assert told.err == ""
    together = [*argv["labels"], "--label", "1,2", "--same-frame"]
    assert "response (RECIST 1.1): SD" in run(together, capsys).out


def save(path, array, spacing=(1.5, 1.5, 5.0), origin=(0.0, 0.0, 0.0)):
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return str(path)


def test_a_mask_on_another_grid_is_taken_if_asked_for(tmp_path, capsys):
    (disc,) = discs((20, 14, 8))
    mask = save(tmp_path / "mask.nii.gz", disc)
    fine = disc.repeat(2, 1).repeat(2, 2)
    fine = save(tmp_path / "fine.nii.gz", fine, (0.75, 0.75, 5.0), (-0.375, -0.375, 0.0))
    image = save(tmp_path / "image.nii.gz", np.indices(disc.shape).sum(axis=0))
    argv = ["--pre", fine, "--pre-image", image, "--post", mask, "--post-image", image]
    with pytest.raises(UserError, match=r"fine\.nii\.gz .*--resample-masks does it"):
        recist_command.main(argv)
    told = run([*argv, "--resample-masks", "--same-frame"], capsys)
    assert "(+0.0 mm, +0.0 %)" in told.out
    assert "fine.nii.gz: resampled from 0.75" in told.err
    cropped = sitk.ReadImage(mask)[3:30, 5:35]
    sitk.WriteImage(sitk.Flip(cropped, (True, False, False)), str(tmp_path / "crop.nii.gz"))
    told = run(["--pre", str(tmp_path / "crop.nii.gz"), *argv[2:], "--same-frame"], capsys)
    assert "(+0.0 mm, +0.0 %)" in told.out
    assert "crop.nii.gz: placed on the image's grid" in told.err


@pytest.fixture(scope="module")
def two_dates(tmp_path_factory):
    """A phantom patient; the second scan moved by 20 mm and 7°, on a grid of its own."""
    folder = tmp_path_factory.mktemp("dates")
    conditions = ("pre_t2wi", "post_t2wi")
    # Version 2's scans are out of register themselves, which would hide the known motion.
    make_phantom(folder / "cohort", patients=1, seed=3, version=1, conditions=conditions)
    stem = folder / "cohort" / "phantom-001"
    known = motion((12, -9, 13), (4, 3, -5), centre=(-50, 0, 20))
    argv = ["--pre", f"{stem}/pre_t2wi_mask.nii.gz", "--pre-image", f"{stem}/pre_t2wi.nii.gz"]
    still = [*argv, "--post", f"{stem}/post_t2wi_mask.nii.gz"]
    for flag, name in (("--post", "_mask"), ("--post-image", "")):
        out = folder / f"moved{name}.nii.gz"
        move_file(stem / f"post_t2wi{name}.nii.gz", known, out)
        argv += [flag, str(out)]
    return still, argv, folder


def test_command_registers_scans_of_two_dates(two_dates, tmp_path, capsys):
    still, argv, _ = two_dates
    out = tmp_path / "r.json"
    run([*still, "--same-frame", "--out", str(out)], capsys)
    expected = json.loads(out.read_text())
    assert "registration_shift_mm" not in expected
    assert "paired: sums only" in run(argv, capsys).out
    told = run([*argv, "--register", "--out", str(out)], capsys)
    assert told.err == ""
    assert "paired: by position, registered" in told.out
    found = json.loads(out.read_text())
    assert found["pairs"] == expected["pairs"]
    assert (found["new"], found["category"]) == (expected["new"], expected["category"])
    assert found["registration_shift_mm"] == pytest.approx(20, abs=4)
    assert found["registration_rotation_degrees"] == pytest.approx(7.1, abs=1)
    assert found["registration_doubts"] == ""
    # Diameters are those of each scan, which the registration does not touch.
    post = [point["time_point_post"]["lesions"][0]["diameter"] for point in (found, expected)]
    assert post[0] == pytest.approx(post[1], abs=1e-3)
    picture = sitk.ReadImage(str(tmp_path / "r_registration.png"))
    assert min(picture.GetSize()) > 500
    assert f"picture of the registration: {tmp_path / 'r_registration.png'}" in told.out


def test_a_doubtful_registration_pairs_nothing(two_dates, tmp_path, capsys):
    _, argv, folder = two_dates
    kwargs = {"patients": 1, "seed": 8, "conditions": ("post_t2wi",)}
    other = make_phantom(folder / "other", version=1, **kwargs).parent  # as in `two_dates`
    stem = other / "phantom-001" / "post_t2wi"
    argv = [*argv[:4], "--post", f"{stem}_mask.nii.gz", "--post-image", f"{stem}.nii.gz"]
    picture = tmp_path / "look.png"
    out = ["--out", str(tmp_path / "r.csv"), "--register-picture", str(picture)]
    told = run([*argv, "--register", *out], capsys)
    assert "the registration is doubtful" in told.err
    assert "paired: sums only" in told.out
    assert picture.exists()
    with (tmp_path / "r.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["registration_doubts"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--register"], "--register compares images, not masks"),
        (["--register", "--same-frame"], "give one of them"),
        (["--register-picture", "a.png"], "only --register draws it"),
        (["--register", "--register-picture", "a.jpg"], "choose the ending .png"),
        (["--register", "--register-picture", "no/such/a.png"], "there is no folder"),
    ],
)
def test_command_says_what_a_registration_needs(two_dates, masks, change, said, capsys):
    _, argv, _ = two_dates
    with pytest.raises(SystemExit) as stop:
        run([*(masks if change == ["--register"] else argv), *change], capsys)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_one_frame_of_reference_for_two_studies_is_warned_of(tmp_path, capsys):
    argv = []
    for when in ("pre", "post"):

        def change(_, header, when=when):
            header.FrameOfReferenceUID = "1.2.3.4"
            header.StudyInstanceUID = {"pre": "1.2.3.5", "post": "1.2.3.6"}[when]

        write_series(tmp_path / when, change=change)
        _, geometry, series = read_series(tmp_path / when)
        mask = np.zeros(geometry.size[::-1], bool)
        mask[2, 4, :15] = True
        write_segmentation(tmp_path / f"{when}.dcm", mask, series, **RUN)
        argv += [f"--{when}", str(tmp_path / f"{when}.dcm")]
        argv += [f"--{when}-image", str(tmp_path / when)]
    told = run(argv, capsys)
    assert "paired: by position" in told.out
    assert "of another study than the baseline, and yet of the same frame" in told.err
    assert "1.2.3" not in told.err
    assert run([*argv, "--same-frame"], capsys).err == ""
