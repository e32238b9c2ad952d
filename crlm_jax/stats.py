"""Means over patients with bootstrap confidence intervals."""

import warnings

import numpy as np
from scipy import stats


def bootstrap_mean(
    values: np.ndarray, resamples: int = 9999, seed: int = 0
) -> dict[str, float | int | None]:
    """Computes a mean with its 95 % bootstrap confidence interval over patients.

    The interval is bias-corrected and accelerated (BCa; Efron, J Am Stat Assoc 82:171, 1987), as
    scipy computes it. Where all values are equal it is that value. With fewer than two patients
    there is none.

    Args:
      values: (n,) one value a patient.
      resamples: number of bootstrap samples.
      seed: of the resampling.

    Returns:
      `mean`, `ci_low`, `ci_high` (None where undefined) and `n`.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0:
        return {"mean": None, "ci_low": None, "ci_high": None, "n": 0}
    mean = float(values.mean())
    if values.size == 1:
        return {"mean": mean, "ci_low": None, "ci_high": None, "n": 1}
    if np.all(values == values[0]):
        return {"mean": mean, "ci_low": mean, "ci_high": mean, "n": int(values.size)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (values,), np.mean, n_resamples=resamples, method="BCa", rng=np.random.default_rng(seed)
        ).confidence_interval
    return {
        "mean": mean,
        "ci_low": float(interval.low),
        "ci_high": float(interval.high),
        "n": int(values.size),
    }
