"""The model's responses beside the reference's: categories, their table and κ."""

import dataclasses
import json

import pytest

from crlm_jax.config.schema import Config
from crlm_jax.imaging.lesions import Lesion
from crlm_jax.measures import summary
from crlm_jax.measures.case import CaseResult
from crlm_jax.measures.response import count_several_images, find_responses
from crlm_jax.measures.table import MEASURES
from crlm_jax.recist import rules
from crlm_jax.recist.rules import TimePoint
from crlm_jax.runs.results import NOT_EVALUABLE, ResponseAgreement, Summary
from crlm_jax.runs.rows import CaseRow
from crlm_jax.stats import agreement


def point(*diameters) -> TimePoint:
    ends = ((0.0, 0.0), (0.0, 1.0))
    lesions = (Lesion(9, 9.0, length, 0, (0.0, 0.0, 0.0), length, ends) for length in diameters)
    return TimePoint(tuple(lesions), 5.0)


def case(patient, condition, reference, prediction) -> CaseResult:
    points = {"reference": [point(*reference)], "prediction": [point(*prediction)]}
    row = CaseRow(patient, condition, 4, 2, {measure.name: 0.5 for measure in MEASURES})
    return CaseResult(row, [], points, empty_prediction=False, empty_reference=False)


def summarise(*patients) -> ResponseAgreement:
    """A patient is (reference before, after, prediction before, after)."""
    cases = []
    for name, (before, after, found_before, found_after) in enumerate(patients):
        cases += [case(str(name), "pre_dwi", before, found_before)]
        cases += [case(str(name), "post_dwi", after, found_after)]
    config = Config()
    config.evaluation.resamples = 100
    config.data.conditions = ("pre_dwi", "post_dwi")
    found = find_responses(cases)
    return summary.summarise(config, cases, found).responses["dwi"]


PR, SD = ((30,), (15,)), ((30,), (29,))
SMALL = ((9,), (6,))  # not measurable: non-CR/non-PD
NONE = ((), ())


def test_lesions_that_are_not_measurable_have_a_category_of_their_own():
    found = summarise(PR + PR, SD + SD, SMALL + SMALL, SD + SMALL, NONE + NONE)
    names = found.categories
    assert names == ["CR", "PR", "non-CR/non-PD", "SD", "PD", "NE"]
    counts = {(a, b): n for a, row in zip(names, found.table, strict=True)
              for b, n in zip(names, row, strict=True) if n}  # fmt: skip
    assert counts == {
        ("PR", "PR"): 1,
        ("SD", "SD"): 1,
        ("non-CR/non-PD", "non-CR/non-PD"): 1,
        ("SD", "non-CR/non-PD"): 1,
        ("NE", "NE"): 1,
    }
    assert (found.patients, found.not_evaluable) == (5, 1)
    assert found.kappa["agreement"] == 0.75


def test_the_scale_of_kappa_is_the_old_one_where_all_have_measurable_lesions():
    found = summarise(PR + PR, SD + PR, SD + SD)
    expected = agreement.cohen_kappa(
        ["PR", "PR", "SD"], ["PR", "SD", "SD"], ["CR", "PR", "SD", "PD"], "linear", 100
    )
    assert found.kappa["kappa"] == pytest.approx(expected["kappa"])
    assert summarise(PR + PR, SMALL + SMALL).kappa["kappa"] == 1


def test_a_patient_in_whom_the_model_finds_nothing_is_no_agreement():
    found = summary.response_agreement(
        [("PR", "PR")] * 3 + [("SD", "SD")] * 3 + [("PR", "NE")] * 4 + [("NE", "NE"), ("NE", "PD")],
        {}, 0, 100,
    )  # fmt: skip
    assert (found.patients, found.not_evaluable, found.kappa["n"]) == (12, 6, 6)
    assert (found.not_evaluable_by_reference, found.not_evaluable_by_model_alone) == (2, 4)
    assert found.same_category == 0.6
    written = found.to_json()
    assert written["same_category"] == 0.6
    assert ResponseAgreement.from_json(written) == found
    nobody = summary.response_agreement([("NE", "NE")], {}, 0, 100)
    assert nobody.same_category is None
    assert NOT_EVALUABLE == rules.NOT_EVALUABLE


def test_patients_with_several_images_have_no_response_and_are_counted():
    cases = []
    for name in "abc":
        cases += [case(name, "pre_dwi", (30,), (30,)), case(name, "post_dwi", (15,), (15,))]
    cases += [case("d", "pre_dwi", (30,), (30,)), case("a", "pre_t2wi", (30,), (30,))]
    for number in (2, 5, 6, 7):  # b before, c after; d and a's other sequence have no follow-up
        cases[number].points.update({who: two * 2 for who, two in cases[number].points.items()})
    assert list(find_responses(cases)["dwi"]) == ["a"]
    assert count_several_images(cases) == {"dwi": 2}
    config = Config()
    config.evaluation.resamples, config.data.conditions = 100, ("pre_dwi", "post_dwi")
    found = summary.summarise(config, cases, find_responses(cases))
    assert found.several_images == {"dwi": 2}
    assert Summary.from_json(json.loads(json.dumps(found.to_json()))).several_images == {"dwi": 2}


def test_a_case_keeps_its_slice_thickness_on_the_way_to_another_process():
    result = case("1", "pre_dwi", (30,), (15,))
    result.points["reference"] = [dataclasses.replace(point(30), slice_thickness=7.5)]
    assert CaseResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_results_of_an_older_version_are_read():
    old = {
        "data": "phantom",
        "method": "segan",
        "critic_weights": None,
        "conditions": {},
        "responses": {
            "dwi": {
                "patients": 1,
                "not_evaluable": 0,
                "kappa": {"kappa": None},
                "categories": ["CR", "PR", "SD", "PD", "NE"],
                "table": [[1, 0, 0, 0, 0], *[[0] * 5] * 4],
            }
        },
    }
    assert Summary.from_json(old).several_images == {}
    read = Summary.from_json(old).responses["dwi"]
    assert read.categories[-1] == "NE"
    assert read.paired == {}  # it paired none
    assert (read.same_category, read.not_evaluable_by_model_alone) == (1.0, 0)
