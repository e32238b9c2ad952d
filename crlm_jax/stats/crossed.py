"""Differences between methods whose trainings vary: runs and patients are both random.

A difference of two methods varies with the patients, and from one training to the next. A test over
patients alone takes what one pair of trainings happened to give for the methods' own. Here every
run has a difference of every patient, and the variance of the mean has a part of each.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

from crlm_jax.stats.comparison import Numbers, finite_array

Patient = TypeVar("Patient", bound=Hashable)

# With fewer runs there is no interval and no p: in the simulations of `tests/benchmarks/crossed.py`
# intervals of 3 runs held the true difference in 92.2 to 95.5 % and were false in up to 7.8 %.
LEAST_RUNS = 5


def crossed_difference(
    ours: Sequence[Mapping[Patient, float]], reference: Sequence[Mapping[Patient, float]]
) -> Numbers:
    r"""Compares two methods over runs that are paired, by seed or by trunk, and over patients.

    The differences d of run s and patient p, :math:`d_{sp} = ours_{sp} - reference_{sp}`, follow
    the two-way random model :math:`d_{sp} = μ + a_s + b_p + e_{sp}`. With the mean squares of its
    analysis of variance,

    .. math::
      \hat V(\bar d) = \frac{MS_S + B}{S P}, \quad B = \max(MS_P - MS_E, 0), \quad
      ν = \frac{(MS_S + B)^2}{MS_S^2 / (S - 1) + B^2 / (P - 1)}

    and the interval is that of Student's t with ν degrees of freedom. This is the analysis of
    studies with many readers and many cases (Dorfman, Berbaum and Metz, Invest Radiol 27:723, 1992;
    Obuchowski and Rockette, Commun Stat Simul Comput 24:285, 1995), where a training stands for a
    reader; ν is Satterthwaite's of the two parts.

    Runs that share a training set are independent given that set: the result is for trainings on
    it, not for other training sets.

    Args:
      ours: value by patient, of each run.
      reference: the same of the other method, run by run. Patients that every run has are compared.

    Returns:
      `mean`, `ci_low`, `ci_high`, `p` (None with fewer than `LEAST_RUNS` runs or two patients),
      `n` (patients), `runs`, and `run_sd`, the standard deviation of the runs' mean differences.

    Raises:
      ValueError: the methods have another number of runs, or a value is not finite.
    """
    if len(ours) != len(reference):
        raise ValueError(f"{len(ours)} runs of ours, {len(reference)} of the reference; pair them")
    sets = [set(values) for values in (*ours, *reference)]
    patients = [p for p in (ours[0] if ours else {}) if all(p in each for each in sets)]
    pairs = [
        [finite_array([v[p] for p in patients], "values", patients) for v in runs]
        for runs in (ours, reference)
    ]
    empty: Numbers = dict.fromkeys(("mean", "ci_low", "ci_high", "p", "run_sd"))
    found: Numbers = empty | {"n": len(patients), "runs": len(ours)}
    if not patients:
        return found
    difference = (np.array(pairs[0]) - np.array(pairs[1])).round(12)
    found["mean"] = mean = float(difference.mean())
    if len(ours) > 1:
        found["run_sd"] = float(difference.mean(axis=1).std(ddof=1))
    if len(ours) >= LEAST_RUNS and len(patients) > 1:
        error, freedom = _standard_error(difference)
        reach = float(stats.t.ppf(0.975, freedom)) * error if error else 0.0
        p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else float(not mean)
        found |= {"ci_low": mean - reach, "ci_high": mean + reach, "p": p}
    return found


def _standard_error(difference: np.ndarray) -> tuple[float, float]:
    """Returns the standard error of the mean of (runs, patients), and its degrees of freedom."""
    runs, patients = difference.shape
    mean, by_run, by_patient = difference.mean(), difference.mean(1), difference.mean(0)
    ms_runs = patients * float(np.square(by_run - mean).sum()) / (runs - 1)
    ms_patients = runs * float(np.square(by_patient - mean).sum()) / (patients - 1)
    rest = difference - by_run[:, None] - by_patient + mean
    ms_error = float(np.square(rest).sum()) / ((runs - 1) * (patients - 1))
    extra = max(ms_patients - ms_error, 0.0)
    if not ms_runs + extra:
        return 0.0, float(runs - 1)
    freedom = (ms_runs + extra) ** 2 / (ms_runs**2 / (runs - 1) + extra**2 / (patients - 1))
    return math.sqrt((ms_runs + extra) / (runs * patients)), freedom
