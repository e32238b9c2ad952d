"""Statistics over patients: bootstrap intervals, paired comparison, agreement.

The patient is the unit throughout: what is resampled, compared and counted as `n`. All tests are
two-sided and all intervals are at 95 %; `docs/explanation/statistics.md` has their measured
coverage. What cannot be used, such as a NaN, is a ValueError that says where it stands. Statistics of
a table of patients, as a command (`table_one.py`):

    python -m crlm_jax.stats cohort patients.csv --group split
"""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Numbers = dict[str, float | int | None]

# Below so many patients an interval is marked `small`: of 10 patients, nominal 95 % intervals held
# the true mean in 85 to 90 % of simulations (docs/explanation/statistics.md), of 5 in 73 to 84 %.
SMALL = 20


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    resamples: int = 9999,
    seed: int = 0,
    *,
    patients: Sequence[Hashable] | None = None,
) -> Numbers:
    """Computes a mean with its 95 % bootstrap confidence interval over patients.

    The interval is bias-corrected and accelerated (BCa; Efron, J Am Stat Assoc 82:171, 1987), as
    scipy computes it. Where a patient has several values (lesions, images), `patients` names whose
    each is. Patients are then drawn with all their values (the cluster bootstrap; Davison and
    Hinkley, Bootstrap Methods and their Application, 1997, section 3.8), and the mean of each draw
    is Σ_p (sum of the values of p) / Σ_p (number of values of p). Taking such values for
    independent would make the interval too narrow.

    Where the mean is the same whatever patients are drawn, the interval is that value. With fewer
    than two patients there is none; below `SMALL` it is too narrow to be relied on.

    Args:
      values: (n,) one value a patient, or one a lesion or image with `patients`.
      resamples: number of bootstrap samples; `seed`: of their drawing.
      patients: the patient of each value.

    Returns:
      `mean`, `ci_low`, `ci_high` (None where undefined), `n` (patients) and `small` (n < `SMALL`).
    """
    values = finite(values, "values")
    mean = float(values.mean()) if values.size else None
    if patients is None:
        data, each = (values,), values
    else:
        sums, counts = _by_patient(values, patients)
        data, each = (sums, counts), sums / counts
    n, interval = int(each.size), (None, None)
    if n > 1:
        same = np.allclose(each, each[0], rtol=1e-12, atol=0)
        interval = (mean, mean) if same else _bca(data, resamples, seed)
    low, high = interval
    return {"mean": mean, "ci_low": low, "ci_high": high, "n": n, "small": n < SMALL}


def finite(
    values: Sequence[float] | np.ndarray, name: str, labels: Sequence[Hashable] = ()
) -> np.ndarray:
    """Returns values (n,) as float64; a ValueError names the first that is not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: shape {array.shape}; give one value each, in one dimension")
    if wrong := np.flatnonzero(~np.isfinite(array)).tolist():
        which = f"patient {labels[wrong[0]]!r}" if labels else f"number {wrong[0] + 1}"
        raise ValueError(
            f"{name}, {which}: {array[wrong[0]]} is no finite number; leave out the {len(wrong)} "
            f"of {array.size} without one, and say so"
        )
    return array


def _by_patient(values: np.ndarray, patients: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each patient."""
    if len(patients) != values.size:
        raise ValueError(f"patients: {len(patients)} for {values.size} values; give one a value")
    place = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
    index = np.array([place[patient] for patient in patients], np.intp)
    return np.bincount(index, values), np.bincount(index).astype(np.float64)


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis) / counts.sum(axis)


def _bca(data: tuple[np.ndarray, ...], resamples: int, seed: int) -> tuple[Any, Any]:
    """BCa interval of the mean of one array, or of the ratio of sums and counts by patient."""
    settings: dict[str, Any] = {"n_resamples": resamples, "method": "BCa", "vectorized": True}
    rng, statistic = np.random.default_rng(seed), np.mean if len(data) == 1 else _ratio
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(data, statistic, paired=len(data) > 1, rng=rng, **settings)
    low, high = (float(end) for end in result.confidence_interval)
    return (low, high) if np.isfinite([low, high]).all() else (None, None)


def paired_difference(
    ours: Mapping[Hashable, float],
    reference: Mapping[Hashable, float],
    resamples: int = 9999,
    seed: int = 0,
) -> Numbers:
    """Compares two methods on the same patients: mean of ours − reference, its CI and a p-value.

    The interval is `bootstrap_mean`'s of the differences. The p-value is of the Wilcoxon
    signed-rank test (Biometrics Bull 1:80, 1945), two-sided, by scipy: are the differences
    symmetric about zero? Zero differences are ranked with the others, then their ranks are dropped
    (Pratt, J Am Stat Assoc 54:655, 1959), so that patients on whom both methods do alike count
    against a difference. It is exact up to 50 patients without ties and zeros, up to 13 with them,
    and a normal approximation beyond. Where no patient differs, p = 1. Differences are rounded to
    12 decimals first, or rounding errors would break ties.

    The interval is about the mean and the test about ranks: they may disagree. The least p of n
    patients is 2^(1 − n): fewer than six never reach 0.05. For several comparisons see `holm`.

    Args:
      ours: value of a patient, by patient.
      reference: the same of the other method; only patients in both are compared.
      resamples: number of bootstrap samples; `seed`: of their drawing.

    Returns:
      `mean`, `ci_low`, `ci_high`, `n`, `small` as `bootstrap_mean`'s, `p` (None without a patient
      in both) and `dropped`, the number of patients in one of the two only.
    """
    both = [patient for patient in ours if patient in reference]
    first, second = (
        finite([values[patient] for patient in both], name, both)
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

    The i-th smallest of m becomes max_{j ≤ i} min(1, (m − j + 1) · p_(j)). Rejecting where the
    adjusted value is at most 0.05 keeps the chance of any false rejection at 5 %, however the tests
    depend on one another. Give all comparisons made, not only those shown.

    Args:
      p_values: one a comparison.

    Returns:
      The adjusted p-values, in the same order.
    """
    p = finite(p_values, "p_values")
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p_values: {p[(p < 0) | (p > 1)][0]} is not within [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted.tolist()
