"""The folds of a cross-validation together: every patient once, out of fold.

What the folds have measured is put together; nothing is measured again. The folds share most of
their training patients, so that they are no units: the patients are.
"""

from collections.abc import Sequence
from pathlib import Path

from crlm_jax.errors import UserError
from crlm_jax.measures.summary import condition_summary, response_agreement
from crlm_jax.measures.view import READERS
from crlm_jax.recist import rules
from crlm_jax.runs.finished import FinishedRun
from crlm_jax.runs.results import ConditionSummary, ResponseAgreement, Summary
from crlm_jax.runs.rows import CaseRow

_COUNTS = ("cases", "empty_prediction", "empty_reference", "both_empty", "without_tumour_slices")
_SIZES = ("sum_of_diameters", "volume")


def check_tested_once(folds: Sequence[FinishedRun]) -> None:
    """Raises UserError if two folds have tested the same patient."""
    tested: dict[str, FinishedRun] = {}
    for fold in folds:
        for row in fold.rows:
            if (other := tested.setdefault(row.patient, fold)) is not fold:
                raise UserError(
                    f"{other.folder.path} and {fold.folder.path} have both tested the patient "
                    f"{row.patient}, so they are not folds of one cross-validation; delete one of "
                    "them and start again with the same command"
                )


def pool_cases(folds: Sequence[FinishedRun]) -> list[tuple[CaseRow, list[Path]]]:
    """Returns the cases of all folds by patient and condition, with the viewer's files of each."""
    cases = [
        (row, files)
        for fold in folds
        for row, files in (fold.cases() or [(row, []) for row in fold.rows])
    ]
    return sorted(cases, key=lambda case: (case[0].patient, case[0].condition))


def pool_summary(folds: Sequence[FinishedRun]) -> Summary:
    """Summarises the test cases of all folds as those of one run.

    Args:
      folds: finished, of one experiment, who have tested different patients.
    """
    first, resamples = folds[0].summary, folds[0].config.evaluation.resamples
    sequences = dict.fromkeys(name for fold in folds for name in fold.summary.responses)
    several = [fold.summary.several_images for fold in folds]
    return Summary(
        data=first.data,
        method=first.method,
        critic_weights=first.critic_weights,
        conditions={name: _condition(name, folds, resamples) for name in first.conditions},
        responses={name: _responses(name, folds, resamples) for name in sequences},
        several_images={
            name: sum(part.get(name, 0) for part in several)
            for name in dict.fromkeys(name for part in several for name in part)
        },
    )


def _condition(name: str, folds: Sequence[FinishedRun], resamples: int) -> ConditionSummary:
    parts = [fold.summary.conditions[name] for fold in folds]
    cases = []  # a row, and its sizes by kind and reader
    for fold, part in zip(folds, parts, strict=True):
        rows = [row for row in fold.rows if row.condition == name]
        columns = [part.agreement[size][who] for size in _SIZES for who in READERS]
        cases += list(zip(rows, *columns, strict=True))
    cases.sort(key=lambda case: case[0].patient)
    rows, *columns = ([case[i] for case in cases] for i in range(1 + len(_SIZES) * len(READERS)))
    by_kind = iter(columns)
    sizes = {size: {who: next(by_kind) for who in READERS} for size in _SIZES}
    counts = {count: sum(getattr(part, count) for part in parts) for count in _COUNTS}
    return condition_summary(rows, sizes, counts, resamples)


def _responses(sequence: str, folds: Sequence[FinishedRun], resamples: int) -> ResponseAgreement:
    parts = [found for fold in folds if (found := fold.summary.responses.get(sequence))]
    both = [
        (reference, prediction)
        for part in parts
        for reference, row in zip(part.categories, part.table, strict=True)
        for prediction, count in zip(part.categories, row, strict=True)
        for _ in range(count)
    ]
    paired = {name: sum(part.paired.get(name, 0) for part in parts) for name in rules.PAIRED}
    return response_agreement(both, paired, sum(part.doubtful for part in parts), resamples)
