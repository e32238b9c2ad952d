"""The test cases of a run together: its tables, such as `cases.csv`, and `results.json`."""

from collections.abc import Mapping, Sequence

from crlm_jax.config.notices import is_phantom
from crlm_jax.config.schema import Config
from crlm_jax.measures.case import CaseResult
from crlm_jax.measures.response import PatientResponse, Responses, count_several_images
from crlm_jax.measures.table import MEASURES
from crlm_jax.measures.view import READERS
from crlm_jax.recist import rules
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.results import (
    Card,
    ConditionSummary,
    ResponseAgreement,
    Summary,
    results_json,
)
from crlm_jax.runs.rows import (
    CaseRow,
    ResponseRow,
    write_calibration,
    write_cases,
    write_froc,
    write_lesions,
    write_responses,
)
from crlm_jax.stats import agreement, comparison
from crlm_jax.system.files import write_whole


def summarise(
    config: Config,
    results: Sequence[CaseResult],
    responses: Responses,
    *,
    phantom: bool | None = None,
) -> Summary:
    """Summarises the test cases by condition: means with their 95 % intervals, and sums.

    The means are over patients. A case with an empty mask counts in them as its measures say; a
    case without a tumour slice has no measure by the paper's protocol.

    Args:
      config: the experiment.
      results: of all test cases.
      responses: from `find_responses`.
      phantom: whether network or images are of a phantom; None: as the configuration says.
    """
    phantom = is_phantom(config) if phantom is None else phantom
    conditions = {}
    for condition in config.data.conditions:
        chosen = [r for r in results if r.row.condition == condition]
        conditions[condition] = _summarise_condition(config, chosen)
    return Summary(
        data="phantom" if phantom else "cohort",
        method=config.method,
        critic_weights=config.critic.weights if config.loss.stages else None,
        conditions=conditions,
        responses={sequence: _agreement(config, pairs) for sequence, pairs in responses.items()},
        several_images=count_several_images(results),
    )


def _summarise_condition(config: Config, results: Sequence[CaseResult]) -> ConditionSummary:
    rows = [r.row for r in results]
    empty = [(r.empty_prediction, r.empty_reference) for r in results]
    counts = {
        "cases": len(results),
        "empty_prediction": sum(p and not r for p, r in empty),
        "empty_reference": sum(r and not p for p, r in empty),
        "both_empty": sum(p and r for p, r in empty),
        "without_tumour_slices": sum(row.tumour_slices == 0 for row in rows),
    }
    sizes = {
        name: {who: [size(result, who) for result in results] for who in READERS}
        for name, size in (("sum_of_diameters", _diameters), ("volume", _volume))
    }
    return condition_summary(rows, sizes, counts, config.evaluation.resamples)


def condition_summary(
    rows: Sequence[CaseRow],
    sizes: Mapping[str, Mapping[str, list[float]]],
    counts: Mapping[str, int],
    resamples: int,
) -> ConditionSummary:
    """Summarises the cases of one condition.

    Args:
      rows: a case each.
      sizes: `sum_of_diameters` (mm) and `volume` (mm³) of each case, by reader.
      counts: of `ConditionSummary`: `cases`, `empty_prediction` and so on.
      resamples: of the bootstrap.
    """
    columns = {
        measure.name: [v for row in rows if (v := row.measures[measure.name]) is not None]
        for measure in MEASURES
    }
    return ConditionSummary(
        means={
            measure.name: comparison.bootstrap_mean(columns[measure.name], resamples)
            for measure in MEASURES
            if measure.averaged
        },
        sums={m.name: int(sum(columns[m.name])) for m in MEASURES if m.summed},
        agreement={
            name: agreement.bland_altman(by["prediction"], by["reference"]) | dict(by)
            for name, by in sizes.items()
        },
        **counts,
    )


def _diameters(result: CaseResult, who: str) -> float:
    return sum(rules.sum_of_diameters(point) for point in result.points[who])


def _volume(result: CaseResult, who: str) -> float:
    return sum(point.patient_volume for point in result.points[who])


def _agreement(
    config: Config, patients: dict[str, dict[str, PatientResponse]]
) -> ResponseAgreement:
    readers = [[pair[who] for who in READERS] for pair in patients.values()]
    how = [ours.response.paired for ours, _ in readers]
    return response_agreement(
        [(ours.response.category, theirs.response.category) for ours, theirs in readers],
        {name: how.count(name) for name in rules.PAIRED},
        sum(bool(ours.doubts) for ours, _ in readers),
        config.evaluation.resamples,
    )


def response_agreement(
    both: Sequence[tuple[str, str]], paired: dict[str, int], doubtful: int, resamples: int
) -> ResponseAgreement:
    """Compares the categories of response of one sequence.

    Args:
      both: of every patient, that of the reference and that of the prediction.
      paired: patients by how their lesions were paired.
      doubtful: patients whose scans were registered in vain.
      resamples: of the bootstrap.
    """
    rated = [(a, b) for a, b in both if rules.NOT_EVALUABLE not in (a, b)]
    reference, prediction = zip(*rated, strict=True) if rated else ((), ())
    # A category of lesions that are not measurable is a step on κ's scale only if a patient has it:
    # weights are by rank, and would change where all have targets.
    scale = [
        category
        for category in rules.CATEGORIES
        if category in rules.TARGET_CATEGORIES or category in (*reference, *prediction)
    ]
    return ResponseAgreement(
        patients=len(both),
        not_evaluable=len(both) - len(rated),
        kappa=agreement.cohen_kappa(prediction, reference, scale, "linear", resamples),
        categories=list(rules.CATEGORIES),
        paired=paired,
        doubtful=doubtful,
        table=[[both.count((a, b)) for b in rules.CATEGORIES] for a in rules.CATEGORIES],
    )


def write_results(
    folder: RunFolder,
    results: Sequence[CaseResult],
    responses: Responses,
    summary: Summary,
    card: Card,
) -> None:
    """Writes the tables of cases, lesions, responses and thresholds, and `results.json`.

    `card` has the lines of the run card, which the report shows.
    """
    write_cases(folder.cases, [result.row for result in results])
    write_lesions(folder.lesions, [lesion for result in results for lesion in result.lesions])
    rows = [
        ResponseRow(
            patient=patient,
            sequence=sequence,
            mask=who,
            response=response.category,
            sum_pre_mm=response.baseline_sum,
            sum_post_mm=response.follow_up_sum,
            sum_change_percent=response.change_percent,
            volume_pre_mm3=response.volume_baseline,
            volume_post_mm3=response.volume_follow_up,
            volume_change_percent=response.volume_change_percent,
            paired=response.paired,
            doubts="; ".join(doubts),
        )
        for sequence, patients in responses.items()
        for patient, readers in patients.items()
        for who, (response, doubts) in readers.items()
    ]
    if rows:
        write_responses(folder.responses, rows)
    if bins := [row for result in results for row in result.calibration]:
        write_calibration(folder.calibration, bins)
    if thresholds := [row for result in results for row in result.froc]:
        write_froc(folder.froc, thresholds)
    write_whole(folder.results, results_json(summary, card))
