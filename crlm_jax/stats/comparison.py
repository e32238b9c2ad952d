"""Means and differences over patients: intervals, paired tests, Holm's correction.

The patient is the unit throughout: patients are resampled, compared and counted as `n`. All tests
are two-sided and all intervals are at 95 %; `docs/explanation/statistics.md` reports their measured
coverage. A value that cannot be used, such as a NaN, is a ValueError that names its position.
"""

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

Numbers = dict[str, float | int | None]  # results by name, as `results.json` holds them
Patient = TypeVar("Patient", bound=Hashable)

# An interval of fewer patients is Student's, and marked `small`. In the simulations of
# docs/explanation/statistics.md, BCa intervals held the true mean in 85 to 90 % of the samples of
# 10 patients only.
SMALL = 20


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    resamples: int = 9999,
    seed: int = 0,
    *,
    patients: Sequence[Hashable] | None = None,
) -> Numbers:
    """Computes a mean with its 95 % confidence interval over patients.

    From `SMALL` patients on, the interval is a bootstrap's, bias-corrected and accelerated (BCa;
    Efron, J Am Stat Assoc 82:171, 1987), as scipy computes it. With fewer it is Student's t, which
    covers better there and may reach beyond the values that a measure can have.

    If a patient has several values (lesions, images), `patients` names the patient of each value.
    Patients are then drawn with all their values (the cluster bootstrap; Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, section 3.8), and the mean of each draw is
    Σ_p (sum of the values of p) / Σ_p (number of values of p). Student's interval has the
    linearised variance of that ratio. Treating such values as independent would make the interval
    too narrow.

    If all draws have the same mean, the interval is that value. With fewer than two patients there
    is no interval.

    Args:
      values: (n,) one value per patient, or with `patients` one per lesion or image.
      resamples: number of bootstrap samples.
      seed: of the random draws.
      patients: the patient of each value.

    Returns:
      `mean`, `ci_low`, `ci_high` (None where undefined), `n` (patients) and `small` (n < `SMALL`).
    """
    array = finite_array(values, "values")
    mean = float(array.mean()) if array.size else None
    data: tuple[np.ndarray, ...] = (array,)
    by_patient = array
    if patients is not None:
        sums, counts = _by_patient(array, patients)
        data, by_patient = (sums, counts), sums / counts
    n, low, high = int(by_patient.size), None, None
    if n > 1:
        same = np.allclose(by_patient, by_patient[0], rtol=1e-12, atol=0)
        if same:
            low, high = mean, mean
        elif n < SMALL:
            low, high = _student(*(data if len(data) > 1 else (array, np.ones(n))))
        else:
            low, high = _bca(data, resamples, seed)
    return {"mean": mean, "ci_low": low, "ci_high": high, "n": n, "small": n < SMALL}


def finite_array(
    values: Sequence[float] | np.ndarray, name: str, labels: Sequence[Hashable] = ()
) -> np.ndarray:
    """Returns values (n,) as float64; a ValueError names the first value that is not finite.

    `name` stands for the values in messages, `labels` for each of them; without labels a message
    gives the position.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: shape {array.shape}; give a list of numbers, in one dimension")
    if wrong := np.flatnonzero(~np.isfinite(array)).tolist():
        which = f"patient {labels[wrong[0]]!r}" if labels else f"number {wrong[0] + 1}"
        raise ValueError(
            f"{name}, {which}: {array[wrong[0]]} is not a finite number; leave out the "
            f"{len(wrong)} of {array.size} without a finite number, and report how many"
        )
    return array


def _by_patient(values: np.ndarray, patients: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum and the number of the values of each patient."""
    if len(patients) != values.size:
        raise ValueError(
            f"patients: {len(patients)} for {values.size} values; give one patient per value"
        )
    place = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
    index = np.array([place[patient] for patient in patients], np.intp)
    return np.bincount(index, values), np.bincount(index).astype(np.float64)


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis) / counts.sum(axis)


def _student(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Returns Student's interval of the ratio of sums and counts by patient."""
    mean, n = float(sums.sum() / counts.sum()), sums.size
    error = math.sqrt(np.square(sums - mean * counts).sum() / (n - 1) / n) / float(counts.mean())
    reach = float(stats.t.ppf(0.975, n - 1)) * error
    return mean - reach, mean + reach


def _bca(
    data: tuple[np.ndarray, ...], resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Returns the BCa interval of a mean, or of the ratio of sums and counts; (None, None): none.

    `data` is (values,), or (sums, counts) by patient.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            data,
            np.mean if len(data) == 1 else _ratio,
            n_resamples=resamples,
            method="BCa",
            vectorized=True,
            paired=len(data) > 1,
            rng=np.random.default_rng(seed),
        )
    low, high = (float(end) for end in result.confidence_interval)
    return (low, high) if np.isfinite([low, high]).all() else (None, None)


def paired_difference(
    ours: Mapping[Patient, float],
    reference: Mapping[Patient, float],
    resamples: int = 9999,
    seed: int = 0,
) -> Numbers:
    """Compares two methods on the same patients: mean of ours − reference, its CI and a p-value.

    The interval is that of `bootstrap_mean` for the differences. The p-value is that of the
    two-sided Wilcoxon signed-rank test (Biometrics Bull 1:80, 1945), by scipy, of whether the
    differences are symmetric about zero. Zero differences are ranked with the others, and then
    their ranks are dropped (Pratt, J Am Stat Assoc 54:655, 1959), so that patients without a
    difference count against one. The test is exact up to 50 patients without ties and zeros and up
    to 13 with them, and a normal approximation beyond. If no patient differs, p = 1. Differences
    are rounded to 12 decimals first, or rounding errors would break ties.

    The interval concerns the mean and the test concerns ranks, so they may disagree. The least p of
    n patients is 2^(1 − n): fewer than six never reach 0.05. For several comparisons see `holm`.

    Args:
      ours: value by patient.
      reference: value by patient for the other method; only patients in both are compared.
      resamples: number of bootstrap samples.
      seed: of the random draws.

    Returns:
      `mean`, `ci_low`, `ci_high`, `n` and `small` as from `bootstrap_mean`, `p` (None if no patient
      is in both) and `dropped`, the number of patients in only one of the two.
    """
    both = [patient for patient in ours if patient in reference]
    first, second = (
        finite_array([values[patient] for patient in both], name, both)
        for name, values in (("ours", ours), ("reference", reference))
    )
    difference = (first - second).round(12)
    p = 1.0 if both else None
    if np.any(difference):
        p = float(stats.wilcoxon(difference, zero_method="pratt").pvalue)
    dropped = len(ours.keys() | reference.keys()) - len(both)
    return bootstrap_mean(difference, resamples, seed) | {"p": p, "dropped": dropped}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number by Holm's step-down method (Scand J Stat 6:65, 1979).

    The i-th smallest of m becomes max_{j ≤ i} min(1, (m − j + 1) · p_(j)). Rejecting if the
    adjusted value is at most 0.05 keeps the probability of any false rejection at 5 %, for any
    dependence between the tests. Pass all comparisons made, not only those shown.

    Args:
      p_values: one per comparison.

    Returns:
      The adjusted p-values, in the same order.
    """
    p = finite_array(p_values, "p_values")
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p_values: {p[(p < 0) | (p > 1)][0]} is not within [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return [float(value) for value in adjusted]
