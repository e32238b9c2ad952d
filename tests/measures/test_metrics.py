"""Overlap, volumes and found lesions of masks whose values are known by hand or by other tools."""

import dataclasses
import itertools

import numpy as np
import pytest

from crlm_jax.imaging import lesions
from crlm_jax.imaging.geometry import Geometry
from crlm_jax.measures.detection import MATCH_IOU, LesionScores, match
from crlm_jax.measures.overlap import Counts, Volumes, overlap
from crlm_jax.measures.table import LESION, OVERLAP, VOLUME


def test_known_overlap():
    counts = Counts()
    counts.add(np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool))
    counts.add(np.array([1, 0], bool), np.array([0, 0], bool))
    # Pooled: TP 2, FP 2, FN 1.
    assert overlap(counts) == pytest.approx(
        {"dsc": 4 / 7, "iou": 2 / 5, "recall": 2 / 3, "precision": 1 / 2, "f1": 4 / 7}
    )


@pytest.mark.parametrize(
    ("counts", "value"),
    [(Counts(), 1.0), (Counts(0, 5, 0), 0.0), (Counts(0, 0, 5), 0.0), (Counts(0, 3, 4), 0.0)],
)
def test_empty_masks_have_a_stated_result(counts, value):
    stated = dict.fromkeys(OVERLAP, value)
    if counts.empty_reference:  # nothing is there to be found
        del stated["recall"]
    assert overlap(counts) == stated


def test_agrees_with_recorded_tools(fixtures):
    """MedPy's Dice and Jaccard wherever no mask is empty."""
    recorded = np.load(fixtures / "metrics.npz")
    shape = tuple(recorded["ref_shape"])
    reference = np.unpackbits(recorded["ref"], axis=1)[:, : np.prod(shape[1:])].reshape(shape)
    prediction = recorded["prob"] > 0.5
    checked = 0
    for i in range(len(reference)):
        if not prediction[i].any() or not reference[i].any():
            continue
        counts = Counts()
        counts.add(prediction[i], reference[i] > 0)
        values = overlap(counts)
        for name, tool in [("dsc", "dc"), ("iou", "jc"), ("recall", "recall"),
                           ("precision", "precision")]:  # fmt: skip
            assert values[name] == pytest.approx(float(recorded[f"medpy_{tool}"][i]), rel=1e-6)
        checked += 1
    assert checked == 5


def test_volumes_are_summed_over_images_of_different_spacing():
    volumes = Volumes()
    volumes.add(np.ones((2, 3, 4), bool), np.ones((2, 3, 4), bool), (5.0, 1.5, 2.0))  # 360 mm³
    volumes.add(np.array([[[1, 1, 0]]], bool), np.array([[[0, 0, 1]]], bool), (40.0, 1.0, 1.0))
    values = volumes.values()
    assert tuple(values) == VOLUME
    assert values == {
        "volume_reference": 400,
        "volume_predicted": 440,
        "volume_error": 40,
        "volume_error_relative": pytest.approx(0.1),
    }


def test_too_little_is_a_negative_error_and_no_reference_has_no_relative_one():
    some, none = np.ones((1, 2, 2), bool), np.zeros((1, 2, 2), bool)
    volumes = Volumes()
    volumes.add(none, some, (1.0, 1.0, 1.0))
    assert volumes.values()["volume_error"] == -4
    assert volumes.values()["volume_error_relative"] == -1
    volumes = Volumes()
    volumes.add(some, none, (1.0, 1.0, 1.0))
    assert (volumes.values()["volume_error"], volumes.values()["volume_error_relative"]) == (
        4,
        None,
    )


def numbered(shape, *boxes) -> np.ndarray:
    """Labels (1, H, W): each box ((top, bottom), (left, right)) gets the next number."""
    labels = np.zeros((1, *shape), np.int32)
    for number, (rows, columns) in enumerate(boxes, start=1):
        labels[0, slice(*rows), slice(*columns)] = number
    return labels


def score(scores, prediction, reference, diameters=None) -> list[tuple[int, int]]:
    """Adds an image of 1 mm pixels, given its labels."""
    axes = tuple(np.eye(3).ravel())
    geometry = Geometry(prediction.shape[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
    predicted, true = (
        lesions.measure_lesions(labels, geometry) for labels in (prediction, reference)
    )
    if diameters:
        true = [dataclasses.replace(a, diameter=d) for a, d in zip(true, diameters, strict=True)]
    return scores.add(prediction, reference, predicted, true)


def test_of_two_predictions_on_one_lesion_the_better_finds_it():
    reference = numbered((10, 30), ((2, 8), (2, 22)))
    prediction = numbered((10, 30), ((2, 8), (2, 8)), ((2, 8), (10, 22)))
    scores = LesionScores()
    assert score(scores, prediction, reference) == [(2, 1)]
    values = scores.values()
    assert (values["lesions_found"], values["false_positives"]) == (1, 1)
    assert values["lesion_sensitivity"] == 1
    assert values["lesion_precision"] == 0.5
    assert values["lesion_f1"] == pytest.approx(2 / 3)


def test_one_prediction_over_two_lesions_finds_one():
    reference = numbered((10, 30), ((2, 8), (2, 8)), ((2, 8), (10, 22)))
    prediction = numbered((10, 30), ((2, 8), (2, 22)))
    scores = LesionScores()
    assert score(scores, prediction, reference) == [(1, 2)]
    values = scores.values()
    assert (values["lesions_reference"], values["lesions_found"]) == (2, 1)
    assert values["lesion_sensitivity"] == 0.5
    assert values["lesion_precision"] == 1


def test_pairs_are_chosen_together_not_greedily():
    """The best pair of all is given up where that finds both lesions."""
    reference = numbered((4, 40), ((0, 4), (0, 10)), ((0, 4), (11, 16)))
    prediction = numbered((4, 40), ((0, 4), (3, 15)), ((0, 4), (0, 3)))
    # IoU of prediction 1 with the lesions: 7/15 and 4/13; of prediction 2: 3/10 and 0.
    assert match(prediction, reference) == [(1, 2), (2, 1)]


def test_touching_lesions_are_one_and_their_prediction_counts_once():
    mask = np.zeros((1, 10, 30), bool)
    mask[0, 2:8, 2:10] = mask[0, 8:10, 10:20] = True  # by a corner
    apart = mask.copy()
    apart[0, 7, 9] = False
    scores = LesionScores()
    assert score(scores, lesions.label_lesions(apart)[0], lesions.label_lesions(mask)[0]) == [
        (1, 1)
    ]
    assert scores.values()["lesions_reference"] == 1
    assert scores.values()["false_positives"] == 1


def test_a_lesion_is_found_from_the_threshold_on():
    reference = numbered((10, 30), ((0, 10), (0, 10)))
    assert MATCH_IOU == 0.1
    assert match(numbered((10, 30), ((0, 1), (0, 10))), reference) == [(1, 1)]  # IoU 0.1
    assert match(numbered((10, 30), ((0, 1), (0, 9))), reference) == []  # IoU 0.09
    assert match(numbered((10, 30), ((0, 10), (9, 12))), reference) == []  # 10 / 120
    assert match(numbered((10, 30), ((0, 10), (10, 12))), reference) == []  # side by side


def test_pairs_are_the_best_of_all_one_to_one_assignments():
    rng = np.random.default_rng(0)
    for _ in range(30):
        prediction, reference = rng.integers(0, 5, (2, 3, 4, 4))
        iou = np.zeros((5, 5))
        for p, r in itertools.product(range(1, 5), repeat=2):
            ours, theirs = prediction == p, reference == r
            iou[p, r] = (ours & theirs).sum() / max((ours | theirs).sum(), 1)
        iou[iou < MATCH_IOU] = 0
        pairs = match(prediction, reference)
        assert all(iou[pair] >= MATCH_IOU for pair in pairs)
        assert len({p for p, _ in pairs}) == len({r for _, r in pairs}) == len(pairs)
        best = max(iou[range(1, 5), order].sum() for order in itertools.permutations(range(1, 5)))
        assert sum(iou[pair] for pair in pairs) == pytest.approx(best)


def test_noise_of_thousands_of_lesions_is_matched_in_little_memory():
    labels = np.zeros((1, 400, 400), np.int32)
    labels[0, ::2, ::2] = np.arange(1, 40001).reshape(200, 200)
    reference = np.where(labels % 1000 == 0, labels // 1000, 0)
    assert match(labels, reference) == [(1000 * n, n) for n in range(1, 41)]


@pytest.mark.parametrize(
    ("diameter", "size"),
    [
        (9.99, "lt10"),
        (10.0, "10to20"),
        (10 - 1e-12, "10to20"),  # 10 mm, but for the last digit
        (20.0, "10to20"),
        (20 + 1e-12, "10to20"),
        (20.01, "gt20"),
    ],
)
def test_size_classes_go_by_the_reference_diameter(diameter, size):
    reference = numbered((6, 20), ((0, 6), (0, 6)), ((0, 6), (10, 16)))
    prediction = numbered((6, 20), ((0, 6), (0, 6)))
    scores = LesionScores()
    assert score(scores, prediction, reference, [diameter, diameter]) == [(1, 1)]
    values = scores.values()
    for name in ("lt10", "10to20", "gt20"):
        expected = (2, 1) if name == size else (0, 0)
        assert (values[f"lesions_{name}"], values[f"found_{name}"]) == expected


def test_lesions_are_counted_over_images():
    one = numbered((6, 20), ((0, 6), (0, 6)))
    two = numbered((6, 20), ((0, 6), (0, 6)), ((0, 6), (10, 16)))
    none = np.zeros_like(one)
    scores = LesionScores()
    pairs = [score(scores, *image) for image in [(one, two), (none, one), (two, none), (two, two)]]
    assert pairs == [[(1, 1)], [], [], [(1, 1), (2, 2)]]
    assert scores.values() == {
        "lesions_reference": 5,
        "lesions_predicted": 5,
        "lesions_found": 3,
        "false_positives": 2,
        "lesion_sensitivity": 0.6,
        "lesion_precision": 0.6,
        "lesion_f1": 0.6,
        "lesions_lt10": 5,
        "found_lt10": 3,
        "lesions_10to20": 0,
        "found_10to20": 0,
        "lesions_gt20": 0,
        "found_gt20": 0,
    }
    assert tuple(scores.values()) == LESION


@pytest.mark.parametrize(("predicted", "true", "value"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0)])
def test_no_lesions_have_a_stated_result(predicted, true, value):
    labels = [numbered((6, 20), *[((0, 6), (0, 6))] * n) for n in (predicted, true)]
    scores = LesionScores()
    assert score(scores, *labels) == []
    values = scores.values()
    assert (values["lesion_precision"], values["lesion_f1"]) == (value, value)
    assert values["lesion_sensitivity"] == (value if true else None)
    assert (values["lesions_reference"], values["false_positives"]) == (true, predicted)
