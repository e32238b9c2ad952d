"""Agreement of two readers or methods: Bland and Altman's limits, Cohen's κ."""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from scipy import stats

from crlm_jax.stats.comparison import SMALL, Numbers, finite_array

_Z = 1.96  # of the limits of agreement, rounded as in Bland and Altman's paper


def bland_altman(a: Sequence[float], b: Sequence[float]) -> Numbers:
    """Computes the limits of agreement of two measurements of the same patients.

    With differences d = a − b of mean d̄ (the bias) and standard deviation s (n − 1), 95 % of
    differences are expected within the limits of agreement d̄ ± 1.96 s. Confidence intervals are
    estimate ± t · SE, t with n − 1 degrees of freedom, with the standard errors

      of d̄: s / √n        of a limit: s · √(1/n + 1.96² / (2 (n − 1)))

    (Bland and Altman, Stat Methods Med Res 8:135, 1999, section 2). The method assumes that the
    differences are about normal and do not grow with the measured size: plot them against
    (a + b) / 2 first. With few patients the limits are very uncertain, as their intervals show.

    Args:
      a: (n,) one value per patient, in the unit of the result.
      b: (n,) the values of the other reader or method, in the same order.

    Returns:
      `bias`, `sd`, `lower` and `upper` (the limits); for `bias`, `lower` and `upper` also
      `…_ci_low` and `…_ci_high`; `n`; `small`. Values are None if there are too few patients.
    """
    first, second = finite_array(a, "a"), finite_array(b, "b")
    if first.size != second.size:
        raise ValueError(
            f"a has {first.size} values and b has {second.size}; give one per patient in both"
        )
    difference = first - second
    n, names = int(difference.size), ("bias", "lower", "upper")
    result: Numbers = {f"{x}{end}": None for x in names for end in ("", "_ci_low", "_ci_high")}
    result |= {"sd": None, "n": n, "small": n < SMALL}
    if n:
        result["bias"] = bias = float(difference.mean())
    if n > 1:
        result["sd"] = sd = float(difference.std(ddof=1))
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
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    categories: Sequence[Hashable],
    weights: Literal["none", "linear", "quadratic"] = "none",
    resamples: int = 9999,
    seed: int = 0,
) -> Numbers:
    """Computes Cohen's κ, the agreement beyond chance of two ratings of the same patients.

      κ = 1 − Σ_jk v_jk o_jk / Σ_jk v_jk e_jk

    o is the observed table of shares, e the product of its margins, and v the disagreement of
    categories j and k: 1 if j ≠ k (`none`; Cohen, Educ Psychol Meas 20:37, 1960), |j − k|
    (`linear`) or (j − k)² (`quadratic`; Cohen, Psychol Bull 70:213, 1968). Use weights for ordered
    categories, such as CR, PR, SD, PD of RECIST. κ is 1 for full agreement and 0 for chance.

    If both readers put every patient into one and the same category, κ is undefined: None. The
    interval is the percentile bootstrap over patients, without the resamples whose κ is undefined.
    With few patients, or with nearly all in one category, the interval means little; if all ratings
    agree it is (1, 1) for any n.

    Args:
      a: (n,) category of each patient.
      b: (n,) categories by the other reader or method, in the same order.
      categories: all possible categories, in order.
      weights: of disagreements.
      resamples: number of bootstrap samples.
      seed: of the random draws.

    Returns:
      `kappa`, `ci_low`, `ci_high`, `agreement` (share of patients rated the same), each None if
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
        # Drawing n patients with replacement means drawing n cells of the table.
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(n, (table / n).ravel(), size=resamples)
        drawn = _kappa(drawn.reshape(-1, *table.shape), disagreement)
        low, high = np.quantile(drawn[~np.isnan(drawn)], (0.025, 0.975))
        result |= {"ci_low": float(low), "ci_high": float(high)}
    return result


def _ratings(
    a: Sequence[Hashable], b: Sequence[Hashable], categories: list[Hashable], weights: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the table of both ratings (K, K) in patients, and the disagreement (K, K)."""
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} ratings and b has {len(b)}; give one per patient in both")
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
    """Returns κ (R,) of tables (R, K, K); NaN if undefined."""
    shares = tables / tables.sum(axis=(1, 2), keepdims=True)
    observed = (shares * disagreement).sum(axis=(1, 2))
    chance = np.einsum("rj,jk,rk->r", shares.sum(axis=2), disagreement, shares.sum(axis=1))
    return 1 - np.divide(observed, chance, out=np.full_like(chance, np.nan), where=chance > 0)
