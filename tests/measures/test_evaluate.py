"""Evaluation with a segmenter whose answers are known: it thresholds the grey level."""

import dataclasses

import numpy as np
import pytest

from crlm_jax.data import slice_cache
from crlm_jax.measures import evaluate, summary
from crlm_jax.measures.case_view import SliceAttribution
from crlm_jax.measures.view import CaseView
from crlm_jax.method.attribution import Attribution
from crlm_jax.runs.folder import RunFolder
from tests.finished_runs import bright, evaluate_bright, prepare, write_volume


@pytest.fixture
def known(tmp_path):
    """Three test patients: half found, missed altogether, and one without any tumour."""
    rows = []
    shape = (3, 64, 64)
    for patient in ("half", "missed", "clean", "teach"):
        image, mask = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
        image[:, 0, 0] = 255  # gives every image the same range
        if patient != "clean":
            mask[1, 16:32, 16:32] = 1
        if patient in ("half", "teach"):
            image[1, 16:32, 16:24] = 200
        write_volume(tmp_path / f"{patient}.nii.gz", image)
        write_volume(tmp_path / f"{patient}_mask.nii.gz", mask)
        split = "train" if patient == "teach" else "test"
        rows.append(f"{patient},ct,{patient}.nii.gz,{patient}_mask.nii.gz,{split}")
    return prepare(tmp_path, rows, ("ct",))


@pytest.fixture
def measured(known):
    return evaluate_bright(*known)


def test_both_protocols_of_known_cases(measured):
    rows = {r.row.patient: r.row.measures for r in measured}
    assert set(rows) == {"half", "missed", "clean"}
    for suffix in ("", "_paper"):
        assert rows["half"]["recall" + suffix] == pytest.approx(0.5)
        assert rows["half"]["precision" + suffix] == pytest.approx(1.0)
        assert rows["half"]["dsc" + suffix] == pytest.approx(2 / 3)
        assert rows["missed"]["dsc" + suffix] == 0
    slices = {r.row.patient: (r.row.slices, r.row.tumour_slices) for r in measured}
    assert slices == {"half": (3, 1), "missed": (3, 1), "clean": (3, 0)}
    assert rows["clean"]["dsc"] == 1
    assert rows["clean"]["dsc_paper"] is None
    assert rows["clean"]["dsc_slices"] is None


def test_the_mean_over_slices_is_not_the_pooled_value(tmp_path):
    """A large slice that is found, a small one that is half found, and one that is missed."""
    image, mask = np.zeros((4, 64, 64), np.int16), np.zeros((4, 64, 64), np.uint8)
    image[:, 0, 0] = 255
    mask[0, 8:40, 8:40] = image[0, 8:40, 8:40] = 1
    mask[1, 8:24, 8:24] = image[1, 8:24, 8:16] = 1
    mask[2, 8:16, 8:16] = 1
    image[image == 1] = 200
    rows = []
    for name, split in (("teach", "train"), ("p", "test")):
        write_volume(tmp_path / f"{name}.nii.gz", image)
        write_volume(tmp_path / f"{name}_mask.nii.gz", mask)
        rows.append(f"{name},ct,{name}.nii.gz,{name}_mask.nii.gz,{split}")
    config, slices = prepare(tmp_path, rows, ("ct",))
    (result,) = evaluate_bright(config, slices)
    found = result.row.measures
    # At 32 pixels: 256, 64 and 16 pixels of tumour, of which 256, 32 and none are found.
    assert found["dsc_paper"] == pytest.approx(2 * 288 / (288 + 336))
    assert found["dsc_slices"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["f1_slices"] == found["dsc_slices"]
    assert found["iou_slices"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["recall_slices"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["precision_slices"] == pytest.approx((1 + 1 + 0) / 3)  # an empty one scores 0
    means = summary.summarise(config, [result], {}).conditions["ct"].means
    assert means["dsc_slices"]["mean"] == found["dsc_slices"]


def test_the_clinical_choice_measures_validation_patients_as_test_patients(known, measured):
    config, prepared = known
    moved = {"test": "validation", "train": "train"}
    cases = tuple(dataclasses.replace(c, split=moved[c.split]) for c in prepared.cases)
    slices = slice_cache.prepare(cases, config.data)
    rows = [r.row.measures for r in measured]
    assert evaluate.validation_dsc(config, slices, bright) == pytest.approx(
        np.mean([row["dsc_paper"] for row in rows if row["dsc_paper"] is not None])
    )
    config.train.select = "clinical"
    for _ in range(2):  # what was read the first time is kept
        found = evaluate.validation_dsc(config, slices, bright)
        assert found == pytest.approx(np.mean([row["dsc"] for row in rows]))
    assert found != pytest.approx(1 / 3)  # the clean case counts


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_a_missed_lesion_never_scores_however_small(tmp_path, pixels, antialias):
    """At 32 pixels of 256, the nearest pixel holds nothing of the lesion."""
    rows = []
    for name, split in (("teach", "train"), ("missed", "test"), ("beside", "test")):
        image, mask = np.zeros((3, 256, 256), np.int16), np.zeros((3, 256, 256), np.uint8)
        image[:, :4, :4] = 255
        mask[1, 129 : 129 + pixels, 129 : 129 + pixels] = 1
        if name == "beside":  # another lesion, which is found
            mask[1, 160:224, 160:224] = 1
            image[1, 160:224, 160:224] = 200
        write_volume(tmp_path / f"{name}.nii.gz", image)
        write_volume(tmp_path / f"{name}_mask.nii.gz", mask)
        rows.append(f"{name},ct,{name}.nii.gz,{name}_mask.nii.gz,{split}")
    config, slices = prepare(tmp_path, rows, ("ct",), antialias=antialias)
    assert slices.index("test")["too_small"].sum() == 2
    measures = {r.row.patient: r.row.measures for r in evaluate_bright(config, slices)}
    for suffix in ("", "_paper", "_slices"):
        assert measures["missed"]["dsc" + suffix] == 0
        assert measures["missed"]["recall" + suffix] == 0
    if antialias:
        assert measures["beside"]["recall_paper"] < 1


def test_an_image_without_a_mask_is_measured_as_one_without_tumour(known, measured):
    config, prepared = known
    cases = tuple(
        dataclasses.replace(case, images=(dataclasses.replace(image, masks=(), tumour=False),))
        for case in prepared.cases
        for image in case.images
        if case.patient == "clean"
    )
    cases = (*cases, *(case for case in prepared.cases if case.patient != "clean"))
    again = evaluate_bright(config, slice_cache.prepare(cases, config.data))
    assert {r.row.patient: r.row.measures for r in again} == {
        r.row.patient: r.row.measures for r in measured
    }


def test_empty_masks_are_counted(known, measured):
    config, _ = known
    ct = summary.summarise(config, measured, {}).conditions["ct"]
    assert ct.cases == 3
    assert (ct.empty_prediction, ct.empty_reference, ct.both_empty) == (1, 0, 1)
    assert ct.without_tumour_slices == 1
    assert ct.means["dsc"]["n"] == 3
    assert ct.means["dsc"]["mean"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert ct.means["dsc_paper"]["n"] == 2
    assert ct.means["dsc_paper"]["mean"] == pytest.approx(1 / 3)


def test_the_csv_leaves_an_undefined_cell_empty(known, measured, tmp_path):
    config, _ = known
    told = summary.summarise(config, measured, {})
    summary.write_results(RunFolder(tmp_path), measured, {}, told, [])
    line = next(x for x in (tmp_path / "cases.csv").read_text().splitlines() if "clean" in x)
    assert line.startswith("clean,ct,3,0,1.000000,1.000000,,1.000000,1.000000,,,,,,,,,,,")


def test_distances_lesions_and_volumes_of_known_cases(measured):
    rows = {r.row.patient: r.row.measures for r in measured}
    half, missed, clean = (rows[name] for name in ("half", "missed", "clean"))
    assert half["hd"] == pytest.approx(8 * 1.5)  # the missing half is 8 pixels wide
    assert (half["lesions_found"], half["lesion_sensitivity"]) == (1, 1.0)
    assert half["volume_reference"] == pytest.approx(256 * 1.5 * 1.5 * 7)
    assert half["volume_error_relative"] == pytest.approx(-0.5)
    assert missed["hd95"] == pytest.approx(np.hypot(np.hypot(64 * 1.5, 64 * 1.5), 3 * 7))
    assert (missed["nsd_2mm"], missed["lesions_found"], missed["lesions_reference"]) == (0, 0, 1)
    assert (clean["hd95"], clean["nsd_2mm"], clean["volume_error_relative"]) == (0, 1, None)


def test_lesions_are_listed_with_their_partners(known, measured, tmp_path):
    config, _ = known
    told = summary.summarise(config, measured, {})
    summary.write_results(RunFolder(tmp_path), measured, {}, told, [])
    lines = (tmp_path / "lesions.csv").read_text().splitlines()
    found = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert [(r["patient"], r["mask"], r["lesion"], r["partner"]) for r in found] == [
        ("half", "reference", "1", "1"),
        ("half", "prediction", "1", "1"),
        ("missed", "reference", "1", ""),
    ]
    assert float(found[1]["short_axis_mm"]) < float(found[1]["diameter_mm"])


def test_the_viewer_gets_every_image(known, tmp_path):
    evaluate_bright(*known, tmp_path)
    views = [CaseView.load(file) for file in sorted((tmp_path / "views").iterdir())]
    by_title = {view.title: view for view in views}
    assert set(by_title) == {"half · ct", "missed · ct", "clean · ct"}
    half = by_title["half · ct"]
    layers = {layer.name: layer.voxels for layer in half.layers}
    assert (half.first_slice, half.window, half.unit) == (1, (0.0, 255.0), "HU")
    assert (layers["reference"].sum(), layers["prediction"].sum()) == (256, 128)
    assert (layers["probability"] > 127).sum() == 128
    assert [mark.text.rsplit(", ", 1)[1] for mark in half.marks] == ["found", "right"]
    assert by_title["missed · ct"].order < half.order < by_title["clean · ct"].order


def test_attribution_is_asked_for_where_most_is_predicted(known, tmp_path):
    asked = []

    def attribute(image, region):
        asked.append((image.shape, int(region.sum())))
        values = np.where(region, 2.0, -0.5)
        return Attribution(values, score=10.0, baseline_score=2.0, total=7.0, steps=16)

    evaluate_bright(*known, tmp_path, attribute=attribute)
    assert asked == [((32, 32, 1), 32)]  # only one case has a prediction
    views = [CaseView.load(file) for file in sorted((tmp_path / "views").iterdir())]
    (view,) = [v for v in views if v.title == "half · ct"]
    layer = next(layer for layer in view.layers if layer.name == "attribution of slice 2")
    assert (layer.kind, layer.shown) == ("signed", False)
    assert np.unique(np.flatnonzero(layer.voxels.any(axis=(1, 2)))).tolist() == [1]
    assert layer.voxels.max() == 127
    assert layer.voxels.min() == pytest.approx(-127 / 4, abs=1)
    assert "sum to 7 logits; the score less the baseline's is 8." in layer.note
    assert "Completeness error 12 %: NOT COMPLETE, above 1 %" in layer.note


def test_a_map_that_adds_up_is_called_complete():
    whole = Attribution(np.zeros((2, 2)), score=10.0, baseline_score=2.0, total=7.96, steps=32)
    note = SliceAttribution(3, whole).note()
    assert note.startswith("Attribution of slice 4: integrated gradients, 32 steps.")
    assert note.endswith("Completeness error 0.5 %.")


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_padding_of_the_last_batch_changes_nothing(known, measured, batch_size):
    config, prepared = known
    config.evaluation.batch_size = batch_size
    again = evaluate_bright(config, prepared)
    assert [r.row for r in again] == [r.row for r in measured]


def test_without_validation_patients_there_is_no_validation_dsc(known):
    config, prepared = known
    for select in ("paper", "clinical"):
        config.train.select = select
        assert evaluate.validation_dsc(config, prepared, bright) is None


def test_touching_lesions_count_as_their_reader_drew_them(tmp_path):
    image, one, two = (np.zeros((3, 64, 64), np.int16) for _ in range(3))
    image[:, 0, 0] = 255
    one[1, 16:32, 16:24] = two[1, 16:32, 24:40] = 1
    image[1, 16:32, 16:24] = 200
    write_volume(tmp_path / "image.nii.gz", image)
    write_volume(tmp_path / "teach.nii.gz", image + 1)
    for name, mask in (("one", one), ("two", two), ("all", one + two)):
        write_volume(tmp_path / f"{name}_mask.nii.gz", mask.astype(np.uint8))
    rows = [
        "drawn,ct,image.nii.gz,one_mask.nii.gz|two_mask.nii.gz,test",
        "teach,ct,teach.nii.gz,all_mask.nii.gz,train",
    ]
    (result,) = evaluate_bright(*prepare(tmp_path, rows, ("ct",)))
    lesions = [row for row in result.lesions if row.mask == "reference"]
    assert [(row.lesion, row.partner) for row in lesions] == [(1, 1), (2, None)]
    assert result.row.measures["lesion_sensitivity"] == 0.5
    assert len(result.points["reference"][0].lesions) == 2
