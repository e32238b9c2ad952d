"""Statistics over patients: bootstrap intervals, paired comparison, agreement.

The patient is the unit throughout: what is resampled, compared and counted as `n`. All tests are
two-sided and all intervals are at 95 %. `docs/statistics.md` has what their coverage was measured
to be. What cannot be used, such as a NaN, is a ValueError that says where it stands. Statistics of
a table of patients, as a command (`table_one.py`):

    python -m crlm_jax.stats cohort patients.csv --group split
"""

import sys
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats

Numbers = dict[str, float | int | None]
_Z = 1.96  # of the limits of agreement, as their authors write it

# Below so many patients an interval is marked `small`: of 10 patients, nominal 95 % intervals held
# the true mean in 85 to 90 % of the simulations in docs/statistics.md, of 5 in 73 to 84 %.
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
    values = _finite(values, "values")
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


def _finite(
    values: Sequence[float] | np.ndarray, name: str, labels: Sequence[Hashable] = ()
) -> np.ndarray:
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
        _finite([values[patient] for patient in both], name, both)
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
    p = _finite(p_values, "p_values")
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p_values: {p[(p < 0) | (p > 1)][0]} is not within [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted.tolist()


def bland_altman(a: Sequence[float], b: Sequence[float]) -> Numbers:
    """Computes how far two measurements of the same patients agree.

    With differences d = a − b of mean d̄ (the bias) and standard deviation s (n − 1), 95 % of
    differences are expected within the limits of agreement d̄ ± 1.96 s. Confidence intervals are
    estimate ± t · SE, t with n − 1 degrees of freedom, with the standard errors

      of d̄: s / √n        of a limit: s · √(1/n + 1.96² / (2 (n − 1)))

    (Bland and Altman, Stat Methods Med Res 8:135, 1999, section 2). It supposes differences that
    are about normal and do not grow with what is measured: plot them against (a + b) / 2 first.
    Of few patients the limits are very uncertain, as their intervals show.

    Args:
      a: (n,) one value a patient, in the unit of the result.
      b: (n,) the same by the other reader or method, in the same order.

    Returns:
      `bias`, `sd`, `lower` and `upper` (the limits); for `bias`, `lower` and `upper` also
      `…_ci_low` and `…_ci_high`; `n`; `small`. None where there are too few patients.
    """
    a, b = _finite(a, "a"), _finite(b, "b")
    if a.size != b.size:
        raise ValueError(f"a has {a.size} values and b has {b.size}; give one a patient in both")
    n, names = int(a.size), ("bias", "lower", "upper")
    result: Numbers = {f"{x}{end}": None for x in names for end in ("", "_ci_low", "_ci_high")}
    result |= {"sd": None, "n": n, "small": n < SMALL}
    if n:
        result["bias"] = bias = float((a - b).mean())
    if n > 1:
        result["sd"] = sd = float((a - b).std(ddof=1))
        t, of_limit = float(stats.t.ppf(0.975, n - 1)), (1 / n + _Z**2 / (2 * (n - 1))) ** 0.5 * sd
        values, errors = (bias, bias - _Z * sd, bias + _Z * sd), (sd / n**0.5, of_limit, of_limit)
        for x, value, error in zip(names, values, errors, strict=True):
            result |= {
                x: value,
                f"{x}_ci_low": value - t * error,
                f"{x}_ci_high": value + t * error,
            }
    return result


def cohen_kappa(
    a: Sequence[Any],
    b: Sequence[Any],
    categories: Sequence[Any],
    weights: Literal["none", "linear", "quadratic"] = "none",
    resamples: int = 9999,
    seed: int = 0,
) -> Numbers:
    """Computes Cohen's κ, the agreement beyond chance of two ratings of the same patients.

      κ = 1 − Σ_jk v_jk o_jk / Σ_jk v_jk e_jk

    o is the observed table of shares, e the product of its margins, and v the disagreement of
    categories j and k: 1 if j ≠ k (`none`; Cohen, Educ Psychol Meas 20:37, 1960), |j − k|
    (`linear`) or (j − k)² (`quadratic`; Cohen, Psychol Bull 70:213, 1968). Weight those with an
    order, such as CR, PR, SD, PD of RECIST. 1 is full agreement, 0 what chance gives.

    Where both put every patient in the same one category, κ is undefined: None. The interval is the
    percentile bootstrap over patients, without the resamples whose κ is undefined. Of few patients,
    or with nearly all in one category, it means little; where all agree it is (1, 1) for any n.

    Args:
      a: (n,) category of each patient.
      b: (n,) the same by the other reader or method, in the same order.
      categories: all there are, in their order.
      weights: of disagreements.
      resamples: number of bootstrap samples; `seed`: of their drawing.

    Returns:
      `kappa`, `ci_low`, `ci_high`, `agreement` (share of patients rated the same), each None where
      undefined; `n`; `small`.
    """
    table, disagreement = _ratings(a, b, list(categories), weights)
    n = int(table.sum())
    result: Numbers = dict.fromkeys(("kappa", "ci_low", "ci_high", "agreement"))
    result |= {"n": n, "small": n < SMALL}
    if n:
        kappa = float(_kappa(table[None], disagreement)[0])
        result["kappa"] = None if np.isnan(kappa) else kappa
        result["agreement"] = float(np.trace(table) / n)
    if n > 1 and result["kappa"] is not None:
        # To draw n patients with replacement is to draw their cells of the table.
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(n, (table / n).ravel(), size=resamples)
        drawn = _kappa(drawn.reshape(-1, *table.shape), disagreement)
        low, high = np.quantile(drawn[~np.isnan(drawn)], (0.025, 0.975))
        result |= {"ci_low": float(low), "ci_high": float(high)}
    return result


def _ratings(
    a: Sequence[Any], b: Sequence[Any], categories: list[Any], weights: str
) -> tuple[np.ndarray, np.ndarray]:
    """The table of both ratings (K, K) in patients, and the disagreement (K, K)."""
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} ratings and b has {len(b)}; give one a patient in both")
    if len(set(categories)) != len(categories) or len(categories) < 2:
        raise ValueError(f"categories: {categories}; give two or more, each once")
    powers = {"none": 0, "linear": 1, "quadratic": 2}
    if weights not in powers:
        raise ValueError(f"weights: {weights!r}; write one of {', '.join(powers)}")
    place = {category: i for i, category in enumerate(categories)}
    for name, ratings in (("a", a), ("b", b)):
        for number, rating in enumerate(ratings, start=1):
            if rating not in place:
                raise ValueError(f"{name}, number {number}: {rating!r} is not one of {categories}")
    table = np.zeros((len(categories), len(categories)), np.int64)
    for rating_a, rating_b in zip(a, b, strict=True):
        table[place[rating_a], place[rating_b]] += 1
    j, k = np.indices(table.shape)
    return table, np.where(j == k, 0.0, np.abs(j - k) ** float(powers[weights]))


def _kappa(tables: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """κ of tables (R, K, K); NaN where it is undefined."""
    shares = tables / tables.sum(axis=(1, 2), keepdims=True)
    observed = (shares * disagreement).sum(axis=(1, 2))
    chance = np.einsum("rj,jk,rk->r", shares.sum(axis=2), disagreement, shares.sum(axis=1))
    return 1 - np.divide(observed, chance, out=np.full_like(chance, np.nan), where=chance > 0)


if __name__ == "__main__":
    from crlm_jax import table_one

    sys.exit(table_one.main())
