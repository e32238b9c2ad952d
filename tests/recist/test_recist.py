"""RECIST 1.1 on lesions of known diameters: targets, each response at its limits, the command."""

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.errors import UserError
from crlm_jax.imaging.dicom.segmentation import write_segmentation
from crlm_jax.imaging.dicom.series import read_series
from crlm_jax.imaging.lesions import Lesion
from crlm_jax.recist import command as recist_command
from crlm_jax.recist import rules
from crlm_jax.recist.matching import match_lesions
from crlm_jax.recist.rules import Response, TimePoint
from crlm_jax.recist.thickness import slice_thickness
from tests.imaging.dicom.dicoms import write_series
from tests.imaging.test_lesions import grid
from tests.recist.bodies import ball

BASELINE = (30.0, 20.0)  # mm
RUN = {"algorithm": "CRLM-GAN", "version": "1.2.3", "fingerprint": "0123abcd"}


def lesion(diameter, place=0.0, volume=100.0) -> Lesion:
    ends = ((0.0, 0.0), (0.0, diameter))
    return Lesion(10, volume, diameter, 0, (place, 0.0, 0.0), diameter / 2, ends)


def point(*diameters, spacing=5.0, places=None) -> TimePoint:
    """Lesions 100 mm apart: the first of one point lies where the first of another does."""
    places = places or [100.0 * i for i in range(len(diameters))]
    return TimePoint(tuple(map(lesion, diameters, places)), spacing)


def compare(before, after, *, same_frame) -> Response:
    """Compares time points whose lesions are balls."""
    match = match_lesions(bodies(before), bodies(after)) if same_frame else None
    return rules.compare(before, after, match)


def bodies(at):
    return [ball(lesion.diameter, *lesion.centre) for lesion in at.lesions]


# One time point


@pytest.mark.parametrize(
    ("diameter", "slices", "expected"),
    [
        (10.0, 5.0, True),
        (9.99, 5.0, False),
        (10.0, 1.0, True),
        (10.0, 5.1, False),
        (14.0, 7.0, True),
        (13.99, 7.0, False),
        (float(np.float32(0.1)) * 100 - 2e-6, 3.0, True),  # 10 mm but for the spacing's float32
        (3 * 4.2, 6.3, True),  # 12.600000000000001 and 12.6
    ],
)
def test_measurable_from_10_mm_and_from_twice_the_slice_thickness(diameter, slices, expected):
    known, unknown = TimePoint((), 3.0, slices), TimePoint((), slices)
    assert rules.is_measurable(lesion(diameter), known) is expected
    assert (known.measurable_by, unknown.measurable_by) == ("slice thickness", "slice spacing")
    # The spacing stands for a thickness that is not known.
    assert rules.is_measurable(lesion(diameter), unknown) is expected


def test_the_thickness_decides_also_where_slices_overlap_or_lie_apart():
    for thickness, spacing, targets in ((8.0, 4.0, []), (4.0, 8.0, [0]), (None, 8.0, [])):
        assert rules.choose_targets(TimePoint((lesion(12.0),), spacing, thickness)) == targets


def test_targets_are_the_two_largest_measurable_lesions():
    assert rules.choose_targets(point(12.0, 40.0, 9.0, 25.0, 24.9)) == [1, 3]
    assert rules.sum_of_diameters(point(12.0, 40.0, 9.0, 25.0, 24.9)) == 65
    assert rules.choose_targets(point(9.0, 12.0)) == [1]
    assert rules.choose_targets(point(9.0, 12.0, spacing=7.0)) == []
    assert rules.sum_of_diameters(point(9.0)) == rules.sum_of_diameters(point()) == 0
    alike = TimePoint((lesion(20, volume=5), lesion(20, volume=7), lesion(20, volume=6)), 5.0)
    assert rules.choose_targets(alike) == [1, 2]


def test_a_mask_is_measured():
    mask = np.zeros((5, 40, 60), bool)
    mask[1, 5, 5:25] = True  # 20 px
    mask[2, 6, 25:30] = True  # touches it by a corner: one lesion
    mask[4, 5, 5:15] = True  # in the same place beyond a slice's gap: another
    mask[3, 30:38, 50] = True
    found = rules.measure_time_point(mask, grid(mask.shape, (0.8, 0.8, 6.0)))
    assert found.slice_spacing == 6
    assert [part.diameter for part in found.lesions] == pytest.approx([16, 6.4, 8])
    assert [part.short_axis for part in found.lesions] == pytest.approx([0.8, 0.8, 0.8])
    assert found.patient_volume == pytest.approx(mask.sum() * 0.8 * 0.8 * 6)
    assert rules.choose_targets(found) == [0]
    empty = rules.measure_time_point(np.zeros_like(mask), grid(mask.shape, (1, 1, 1)))
    assert (empty.lesions, empty.patient_volume) == ((), 0)
    with pytest.raises(ValueError, match="on a grid of"):
        rules.measure_time_point(mask[1:], grid(mask.shape, (1, 1, 1)))


# Responses


@pytest.mark.parametrize("same_frame", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "category"),
    [
        ((50.0, 50.0), (35.0, 35.0), "PR"),  # −30 % exactly
        ((50.0, 50.0), (35.0, 35.01), "SD"),  # −29.99 %
        ((10.1,), (7.07,), "PR"),  # −30 %, but for rounding
        ((12.0,), (2.0,), "PR"),  # below 10 mm it counts as measured
        ((50.0, 50.0), (60.0, 60.0), "PD"),  # +20 %
        ((50.0, 50.0), (60.0, 59.99), "SD"),
        ((24.95,), (29.94,), "SD"),  # +20 % and 4.99 mm
        ((25.0,), (30.0,), "PD"),  # +20 % and 5 mm, both exactly
        ((33.7,), (40.44,), "PD"),  # +20 %, but for rounding
        ((12.0,), (16.9,), "SD"),  # +40 %, but less than 5 mm
        ((50.0, 50.0), (52.5, 52.5), "SD"),  # +5 mm, but 5 %
        (BASELINE, BASELINE, "SD"),
        ((30.0, 20.0, 8.0), (), "CR"),
    ],
)
def test_response_at_its_limits(before, after, category, same_frame):
    response = compare(point(*before), point(*after), same_frame=same_frame)
    assert response.category == category
    assert category in rules.CATEGORIES
    assert response.change_mm == pytest.approx(response.follow_up_sum - response.baseline_sum)
    assert response.change_percent == pytest.approx(
        100 * (response.follow_up_sum / response.baseline_sum - 1)
    )
    assert response.paired == ("by position" if same_frame else "sums only")


def test_volumes_are_of_all_lesions():
    before = TimePoint((lesion(30, 0, 900), lesion(20, 100, 500), lesion(5, 200, 100)), 5.0)
    after = TimePoint((lesion(28, 0, 700), lesion(19, 100, 50)), 5.0)
    response = compare(before, after, same_frame=True)
    assert (response.volume_baseline, response.volume_follow_up) == (1500, 750)
    assert response.volume_change_percent == -50
    assert (response.baseline_sum, response.follow_up_sum, response.category) == (50, 47, "SD")


@pytest.mark.parametrize(
    ("before", "after", "shared", "sums_only"),
    [
        ((9.0, 5.0), (), "CR", "CR"),
        ((9.0, 5.0), (3.0,), "non-CR/non-PD", "non-CR/non-PD"),
        ((9.0,), (20.0,), "non-CR/non-PD", "non-CR/non-PD"),
        ((9.0,), (9.0, 40.0), "PD", "non-CR/non-PD"),  # new lesions are known on a shared frame
        ((), (), "NE", "NE"),
        ((), (9.0,), "PD", "PD"),  # there was none: whatever is there is new
        ((), (40.0, 9.0), "PD", "PD"),
    ],
)
def test_without_a_measurable_lesion_the_response_is_that_of_table_2(
    before, after, shared, sums_only
):
    for same_frame, category in ((True, shared), (False, sums_only)):
        response = compare(point(*before), point(*after), same_frame=same_frame)
        assert (response.category, response.change_percent) == (category, None)
        assert category in rules.CATEGORIES
        assert (response.baseline_sum, response.follow_up_sum) == (0, 0)
        said = "no lesion is measurable" if before else "no lesion at baseline"
        assert any(said in note for note in response.notes)
        assert (response.volume_change_percent is None) == (not before)
        assert bool(response.new) == (category == "PD")


# Pairing by position


def test_a_vanished_target_counts_nothing_and_a_shrunk_one_its_diameter():
    before = point(40.0, 30.0, 20.0)
    after = point(6.0, 18.0, places=[5.0, 200.0])  # the second vanished
    response = compare(before, after, same_frame=True)
    assert response.pairs == ((0, 0), (2, 1))
    assert (response.targets, response.counted) == ((0, 1), (0,))
    assert (response.baseline_sum, response.follow_up_sum, response.category) == (70, 6, "PR")


def test_vanished_targets_beside_a_non_target_are_a_partial_response():
    after = point(5.0, places=[200.0])
    response = compare(point(30.0, 20.0, 8.0), after, same_frame=True)
    assert (response.category, response.follow_up_sum) == ("PR", 0)
    assert response.change_percent == -100
    assert any("non-target" in note for note in response.notes)


@pytest.mark.parametrize(("new", "said"), [(12.0, "12.0 mm"), (4.0, "4.0 mm")])
def test_a_new_lesion_is_progression_however_the_sum_changed(new, said):
    after = point(10.0, 10.0, new, places=[0.0, 100.0, 500.0])
    response = compare(point(*BASELINE), after, same_frame=True)
    assert (response.category, response.new, response.follow_up_sum) == ("PD", (2,), 20)
    (note,) = response.notes
    assert "lesion 3" in note
    assert said in note
    assert "without it, PR" in note


def test_a_new_lesion_after_all_others_vanished_is_progression():
    response = compare(point(*BASELINE), point(11.0, places=[500.0]), same_frame=True)
    assert (response.category, response.new, response.follow_up_sum) == ("PD", (0,), 0)
    assert any("truly share a frame" in note for note in response.notes)


def test_fragments_of_a_target_count_together_and_are_not_new():
    after = point(12.0, 10.0, places=[3.0, -14.0])
    response = compare(point(40.0), after, same_frame=True)
    assert (response.fragments, response.new, response.counted) == (((0, 1),), (), (0, 1))
    assert (response.follow_up_sum, response.category) == (22, "PR")
    assert "lesion 1 split, into lesion 2 too of the follow-up" in response.notes


def test_merged_targets_count_once():
    before = point(30.0, 20.0, places=[0.0, 26.0])
    response = compare(before, point(52.0, places=[10.0]), same_frame=True)
    assert (response.follow_up_sum, response.counted, response.category) == (52, (0,), "SD")
    assert any("merged" in note for note in response.notes)
    # Also where the lesion that they became is paired with one that is no target.
    before = point(30.0, 29.0, 28.0, places=[-9.0, 500.0, 15.0])
    response = compare(before, point(60.0, 29.0, places=[12.0, 500.0]), same_frame=True)
    assert (response.pairs, response.counted) == (((1, 1), (2, 0)), (0, 1))
    assert (response.follow_up_sum, response.category) == (89, "PD")


def test_a_new_lesion_beside_a_vanished_target_is_progression():
    response = compare(point(60.0), point(12.0, places=[38.0]), same_frame=True)
    assert (response.pairs, response.new, response.counted) == ((), (0,), ())
    assert (response.category, response.follow_up_sum) == ("PD", 0)


# Sums only


def test_without_a_shared_frame_the_largest_lesions_stand_for_the_targets():
    before, after = point(30.0, 20.0, 15.0), point(8.0, 25.0, 9.0, places=[900.0, 700.0, 500.0])
    response = compare(before, after, same_frame=False)
    assert (response.counted, response.follow_up_sum, response.category) == ((1, 2), 34, "PR")
    assert (response.pairs, response.new, response.fragments) == ((), (), ())
    assert any("new lesions cannot be told" in note for note in response.notes)
    one = compare(point(30.0), after, same_frame=False)  # as many as there were targets
    assert (one.counted, one.follow_up_sum) == ((1,), 25)


# The command


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
    told = run(argv, capsys)
    assert "90.0 → 40.0 mm" in told.out
    assert "warning" in told.err
    assert "its labels 1, 2 all count" in told.err
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
