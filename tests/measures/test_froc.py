"""Lesions found and false positives by threshold, against picai_eval and the lesion table."""

import numpy as np
import pytest
from picai_eval.eval import evaluate_case
from scipy import ndimage

from crlm_jax.imaging.lesions import label_lesions
from crlm_jax.measures import evaluate
from crlm_jax.measures.detection import MATCH_IOU
from crlm_jax.measures.froc import THRESHOLDS, Sweep, points
from crlm_jax.runs.rows import FrocRow, read_froc, write_froc
from tests.finished_runs import prepare, write_volume


def image(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A reference of some lesions, and a probability that finds some and invents others."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(8, 40, 40)), (1, 2, 2))
    other = ndimage.gaussian_filter(rng.normal(size=(8, 40, 40)), (1, 2, 2))
    reference = noise > 2.2 * noise.std()
    seen = (noise + 0.6 * other) / noise.std()
    return (1 / (1 + np.exp(-3 * (seen - 2)))).astype(np.float32), reference


def test_every_point_is_picai_evals():
    """Its rule is the project's, but for the number of pairs, which it puts before their IoU."""
    found = other = 0
    for seed in range(3):
        probability, reference = image(seed)
        labels, lesions = label_lesions(reference)
        sweep = Sweep()
        sweep.add(probability, labels, lesions, 0.35)
        rows = sweep.rows("a", "ct")
        assert [row.threshold for row in rows] == sorted({*THRESHOLDS, 0.35})
        for row in rows:
            theirs, *_ = evaluate_case(
                (probability > row.threshold).astype(np.float32),
                reference.astype(np.int32),
                min_overlap=MATCH_IOU,
                allow_unmatched_candidates_with_minimal_overlap=False,
            )
            assert row.lesions_reference == lesions == sum(is_lesion for is_lesion, *_ in theirs)
            assert row.lesions_found == sum(
                is_lesion and confidence > 0 for is_lesion, confidence, _ in theirs
            )
            assert row.false_positives == sum(not is_lesion for is_lesion, *_ in theirs)
        (middle,) = (row for row in rows if row.threshold == 0.5)
        found += middle.lesions_found
        other += middle.false_positives + lesions - middle.lesions_found
    assert found > 5 < other  # there was something to tell apart


def test_the_point_at_the_runs_threshold_is_its_lesion_table(tmp_path):
    """Half of the images lie on another grid than the network's."""
    rows = []
    for number, patient in enumerate(("teach", "a", "b", "c")):
        probability, reference = image(10 + number)
        if number % 2:
            probability, reference = (np.repeat(x, 2, 1) for x in (probability, reference))
        write_volume(tmp_path / f"{patient}.nii.gz", np.rint(255 * probability).astype(np.int16))
        write_volume(tmp_path / f"{patient}_mask.nii.gz", reference.astype(np.uint8))
        split = "test" if number else "train"
        rows.append(f"{patient},ct,{patient}.nii.gz,{patient}_mask.nii.gz,{split}")
    config, slices = prepare(tmp_path, rows, ("ct",))
    config.evaluation.threshold = 0.35
    results = evaluate.evaluate_cases(config, slices, lambda x: x[..., 0] / np.float32(255))
    for result in results:
        (at,) = (row for row in result.froc if row.threshold == 0.35)
        measures = result.row.measures
        assert at.lesions_reference == measures["lesions_reference"] > 0
        assert at.lesions_found == measures["lesions_found"]
        assert at.false_positives == measures["false_positives"]
        assert len({row.false_positives for row in result.froc}) > 3
        assert evaluate.CaseResult.from_json(result.to_json()).froc == result.froc


def test_lesions_that_touch_in_the_reference_are_two_and_a_covered_one_counts():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, 2:6, 2:4], labels[0, 2:6, 4:6] = 1, 2
    sweep = Sweep()
    sweep.add((labels > 0) * np.float32(0.6), labels, 3, 0.5)
    (below,) = (row for row in sweep.rows("a", "ct") if row.threshold == 0.5)
    assert (below.lesions_reference, below.lesions_found, below.false_positives) == (3, 1, 0)
    assert sweep.found[0.6] == sweep.predicted[0.7] == 0  # float32 0.6 is not above 0.6


def test_the_curve_pools_lesions_and_has_the_mean_of_false_positives(tmp_path):
    rows = [
        FrocRow("a", "ct", 0.5, 3, 2, 1), FrocRow("a", "ct", 0.9, 3, 1, 0),
        FrocRow("b", "ct", 0.5, 1, 1, 4), FrocRow("b", "ct", 0.9, 1, 1, 1),
    ]  # fmt: skip
    write_froc(tmp_path / "froc.csv", rows)
    assert read_froc(tmp_path / "froc.csv") == rows
    low, high = points(rows)
    assert (low.threshold, low.sensitivity, low.false_positives) == (0.5, 3 / 4, 2.5)
    assert (high.sensitivity, high.false_positives) == (2 / 4, 0.5)
    assert points([FrocRow("c", "ct", 0.5, 0, 0, 2)])[0].sensitivity is None
    assert read_froc(tmp_path / "none.csv") == []


def test_images_of_a_case_are_added():
    sweep, single = Sweep(), Sweep()
    probability, reference = image(0)
    labels, lesions = label_lesions(reference)
    single.add(probability, labels, lesions, 0.5)
    for _ in range(2):
        sweep.add(probability, labels, lesions, 0.5)
    assert sweep.reference == 2 * lesions
    assert sweep.found == pytest.approx({at: 2 * n for at, n in single.found.items()})
