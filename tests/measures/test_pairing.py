"""The lesions of two time points in a run: where they are paired, and what is said of it."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Config
from crlm_jax.data.phantom import make_phantom
from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import label_lesions
from crlm_jax.measures.case import CaseResult
from crlm_jax.measures.response import find_responses
from crlm_jax.measures.summary import summarise, write_results
from crlm_jax.measures.table import MEASURES
from crlm_jax.recist.matching import locate_lesions
from crlm_jax.recist.places import LesionPlaces
from crlm_jax.recist.rules import measure_time_point
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.rows import CaseRow
from tests.finished_runs import evaluate_bright, prepare, write_volume
from tests.recist.scans import motion, move_file

GRID = Geometry((60, 40, 20), (1.0, 1.0, 5.0), (-30.0, -20.0, 0.0), tuple(np.eye(3).ravel()))
OLD, NEW = (8, 10, 10), (8, 10, 40)  # corners (slice, row, column)


def mask(*boxes):
    """Lesions of 15 × 15 mm and two slices: a corner each."""
    array = np.zeros(GRID.axial_size, bool)
    for z, row, column in boxes:
        array[z : z + 2, row : row + 15, column : column + 15] = True
    return array


def case(condition, reference, prediction, frame=None, grid=GRID) -> CaseResult:
    masks = {"reference": reference, "prediction": prediction}
    return CaseResult(
        row=CaseRow("1", condition, 4, 2, {measure.name: 0.5 for measure in MEASURES}),
        lesions=[],
        points={who: [measure_time_point(each, grid)] for who, each in masks.items()},
        empty_prediction=False,
        empty_reference=False,
        places={
            who: LesionPlaces.pack(label_lesions(each)[0], grid) for who, each in masks.items()
        },
        frame=frame,
    )


def configuration(cohort="cohort.csv") -> Config:
    config = Config()
    config.data.cohort, config.data.conditions = cohort, ("pre_dwi", "post_dwi")
    config.evaluation.resamples = 100
    return config


def respond(frames, cohort="cohort.csv"):
    """The model sees the old lesion as gone and another in its stead; the reference keeps it."""
    cases = [
        case("pre_dwi", mask(OLD), mask(OLD), frames[0]),
        case("post_dwi", mask(OLD), mask(NEW), frames[1]),
    ]
    config = configuration(cohort)
    found = find_responses(cases)
    readers = found["dwi"]["1"]
    return config, cases, found, {who: readers[who].response for who in readers}


def test_places_are_the_same_after_the_way_to_another_process():
    lesions = mask(OLD, NEW, (0, 0, 0))
    places = LesionPlaces.pack(label_lesions(lesions)[0], GRID)
    result = case("pre_dwi", lesions, mask(), frame="1.2.3")
    there = CaseResult.from_json(json.loads(json.dumps(result.to_json())))
    assert there == result
    assert there.places["prediction"].bodies() == []
    assert len(places.packed) < 1000
    expected = locate_lesions(lesions, GRID)
    for body, own in zip(there.places["reference"].bodies(), expected, strict=True):
        np.testing.assert_array_equal(body.points, own.points)


@pytest.mark.parametrize(
    ("frames", "cohort", "paired"),
    [
        (("1.2.3", "1.2.3"), "cohort.csv", "by position"),
        (("1.2.3", "1.2.4"), "cohort.csv", "sums only"),
        ((None, None), "cohort.csv", "sums only"),
        (("1.2.3", None), "cohort.csv", "sums only"),
        ((None, None), "phantom", "sums only"),  # its scans are mm of breath apart
    ],
)
def test_lesions_are_paired_where_scans_share_a_frame(frames, cohort, paired):
    config, cases, found, responses = respond(frames, cohort)
    assert {response.paired for response in responses.values()} == {paired}
    assert responses["reference"].category == "SD"
    # Each reader's lesions are paired with the reader's own: only the model's moved.
    model = responses["prediction"]
    assert (model.category, model.new) == (("PD", (0,)) if paired == "by position" else ("SD", ()))
    told = summarise(config, cases, found).responses["dwi"]
    assert {name: n for name, n in told.paired.items() if n} == {paired: 1}
    assert told.doubtful == 0


def test_a_lesion_out_of_the_other_image_is_not_called_new(tmp_path):
    tall = Geometry((60, 40, 40), GRID.spacing, GRID.origin, GRID.direction)
    after = np.zeros(tall.axial_size, bool)
    after[30:32, 10:25, 10:25] = True
    reference = np.zeros(tall.axial_size, bool)
    reference[8:10, 10:25, 10:25] = True
    cases = [
        case("pre_dwi", mask(OLD), mask(OLD), "1.2"),
        case("post_dwi", reference, reference | after, "1.2", tall),
    ]
    config = configuration()
    found = find_responses(cases)
    readers = found["dwi"]["1"]
    assert readers["reference"].response.paired == "by position"
    assert readers["prediction"].response.paired == "sums only"
    assert "lesion 2 of the follow-up lies outside" in readers["prediction"].doubts[0]
    told = summarise(config, cases, found)
    write_results(RunFolder(tmp_path), cases, found, told, [])
    with (tmp_path / "responses.csv").open() as file:
        rows = {row["mask"]: row for row in csv.DictReader(file)}
    assert (rows["reference"]["paired"], rows["reference"]["doubts"]) == ("by position", "")
    assert "outside the baseline's image" in rows["prediction"]["doubts"]


@pytest.mark.slow
def test_a_run_registers_what_shares_no_frame(tmp_path, capsys):
    conditions = ("pre_t2wi", "post_t2wi")
    # Version 2's scans are out of register themselves, which would hide the known motion.
    kwargs = {"patients": 1, "seed": 3, "conditions": conditions}
    phantom = make_phantom(tmp_path / "phantom", version=1, **kwargs).parent
    known = motion((12, -9, 13), (4, 3, -5), centre=(-50, 0, 20))
    rows, images = [], tmp_path / "images"
    images.mkdir()
    for condition in conditions:
        stem = phantom / "phantom-001" / condition
        for name in ("", "_mask"):
            by = known if condition == "post_t2wi" else motion((0, 0, 0), (0, 0, 0))
            move_file(f"{stem}{name}.nii.gz", by, images / f"{condition}{name}.nii.gz")
        rows.append(f"../x,{condition},{condition}.nii.gz,{condition}_mask.nii.gz,test")
        image = np.zeros((2, 64, 64), np.int16)
        image[:, 20:40, 20:40] = 200
        for who, split in (("thin", "test"), ("teach", "train")):
            name = f"{who}_{condition}"
            write_volume(images / f"{name}.nii.gz", image)
            write_volume(images / f"{name}_mask.nii.gz", (image > 0).astype(np.uint8))
            rows.append(f"{who},{condition},{name}.nii.gz,{name}_mask.nii.gz,{split}")
    config, prepared = prepare(images, rows, conditions)
    config.evaluation.resamples = 100
    config.evaluation.register = True
    run = tmp_path / "run"
    run.mkdir()
    measured = evaluate_bright(config, prepared, run)
    responses = find_responses(measured)
    found = responses["t2wi"]
    assert found["../x"]["reference"].response.paired == "by position, registered"
    assert len(found["../x"]["reference"].response.pairs) == 4
    assert found["../x"]["reference"].response.new == ()
    # Two slices cannot be aligned; the run goes on, and says so.
    assert found["thin"]["reference"].response.paired == "sums only"
    assert "3 slices or more" in found["thin"]["reference"].doubts[0]
    assert "warning: thin, t2wi: the registration is doubtful" in capsys.readouterr().err
    (picture,) = (run / "registrations").iterdir()
    assert min(sitk.ReadImage(str(picture)).GetSize()) > 500
    told = summarise(config, measured, responses).responses["t2wi"]
    assert told.paired == {"by position": 0, "by position, registered": 1, "sums only": 1}
    assert told.doubtful == 1
