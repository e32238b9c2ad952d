"""What a report says of the probability: whether it is calibrated, and what its threshold does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crlm_jax.measures import froc
from crlm_jax.measures.calibration import FAINT, Reliability, errors_by_case
from crlm_jax.measures.froc import FrocPoint
from crlm_jax.report import figures
from crlm_jax.report.html import embed
from crlm_jax.runs.finished import FinishedRun
from crlm_jax.runs.results import ConditionSummary
from crlm_jax.runs.rows import CalibrationRow, FrocRow, read_calibration, read_froc
from crlm_jax.stats import comparison
from crlm_jax.stats.cells import format_mean
from crlm_jax.system.files import own_names


@dataclass(frozen=True)
class ProbabilitySection:
    """What the template shows of a run's probability under a condition."""

    condition: str
    image: str  # data URL
    text: str


def sections(run: FinishedRun, keep: Path | None) -> list[ProbabilitySection]:
    """Returns a section a condition; none for masks, and for a run from before these tables.

    Args:
      run: with its tables.
      keep: folder where the figures are written too; None: nowhere.
    """
    return list(_sections(run, keep))


def _sections(run: FinishedRun, keep: Path | None) -> Iterator[ProbabilitySection]:
    every_bin = read_calibration(run.folder.calibration)
    every_threshold = read_froc(run.folder.froc)
    own, mark = _own_threshold(run), " ".join(run.marks)
    conditions = list(run.summary.conditions)
    for name, condition in zip(
        own_names(f"probability_{each}" for each in conditions), conditions, strict=True
    ):
        bins = [row for row in every_bin if row.condition == condition]
        lesions = [row for row in every_threshold if row.condition == condition]
        if not bins or not lesions:
            continue
        pooled, points = Reliability.pooled(bins), froc.points(lesions)
        title = " · ".join(filter(None, (mark, condition)))
        figure = figures.probability(pooled.curve(), points, own, title)
        if own is None:
            said = _thresholds_text(run.summary.conditions[condition])
        else:
            said = _threshold_text(points, lesions, own)
        text = f"{_calibration_text(run, pooled, bins)} {said}"
        yield ProbabilitySection(condition, embed(figure, keep and keep / f"{name}.png"), text)


def _own_threshold(run: FinishedRun) -> float | None:
    """Returns the threshold of a run; None: each fold of a cross-validation chose its own."""
    chosen = run.config.evaluation.choose_threshold
    of_folds = run.evaluation is not None and run.evaluation.of == "folds"
    return None if chosen and of_folds else run.config.evaluation.threshold


def _calibration_text(run: FinishedRun, pooled: Reliability, rows: Sequence[CalibrationRow]) -> str:
    def number(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.2g}"

    text = f"expected calibration error {number(pooled.error())} over all voxels"
    if pooled.error_beyond() is None:
        return f"{text}; no voxel is above a probability of {100 * FAINT:g} %."
    mean = comparison.bootstrap_mean(errors_by_case(rows), run.config.evaluation.resamples)
    text += (
        f", {number(pooled.error_beyond())} over those above a probability of {100 * FAINT:g} % "
        f"(mean of the cases’ own: {format_mean(mean)})."
    )
    unseen = pooled.unseen()
    if unseen is not None:
        text += f" {100 * unseen:.1f} % of the tumour’s voxels lie at {100 * FAINT:g} % or below."
    return text


def _threshold_text(points: Sequence[FrocPoint], rows: Sequence[FrocRow], own: float) -> str:
    """Says what the run's own threshold gives."""
    there = [row for row in rows if row.threshold == float(f"{own:.6f}")]
    if not there:
        return ""
    found, reference = (
        sum(getattr(row, name) for row in there) for name in ("lesions_found", "lesions_reference")
    )
    (point,) = (each for each in points if each.threshold == there[0].threshold)
    return (
        f"At the run’s threshold, {own:g}: {found} of {reference} lesions found, "
        f"{point.false_positives:.1f} false a case."
    )


def _thresholds_text(summary: ConditionSummary) -> str:
    """Says what the folds' own thresholds give together, each for its patients."""
    found, reference, false = (
        summary.sums[name] for name in ("lesions_found", "lesions_reference", "false_positives")
    )
    return (
        f"Each fold chose its own threshold, so that no point is ringed; at their own: {found} of "
        f"{reference} lesions found, {false / summary.cases:.1f} false a case."
    )
