"""Differences over runs and patients: the numbers, and how often they are wrong."""

import numpy as np
import pytest
from scipy import stats

from crlm_jax.stats.crossed import LEAST_RUNS, crossed_difference
from tests.benchmarks.crossed import MIXES, simulate


def runs_of(values: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip("abcdefghij", map(float, row), strict=False)) for row in values]


def study(seed: int = 0, runs: int = 5, patients: int = 10):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0.4, 0.8, (runs, patients))
    return reference + rng.normal(0.02, 0.05, (runs, patients)), reference


def test_the_mean_and_its_spread():
    ours, reference = study()
    found = crossed_difference(runs_of(ours), runs_of(reference))
    each = (ours - reference).mean(axis=1)
    assert found["mean"] == pytest.approx(each.mean())
    assert found["run_sd"] == pytest.approx(each.std(ddof=1))
    assert (found["n"], found["runs"]) == (10, 5)
    assert found["ci_low"] < found["mean"] < found["ci_high"]


def test_without_an_effect_of_patients_the_runs_are_the_units():
    """Where patients vary less than noise, it is the t-test over the runs' means."""
    rng = np.random.default_rng(1)
    difference = 0.1 * rng.standard_normal((6, 1)) + 0.02 * rng.standard_normal((6, 8))
    difference -= difference.mean(0) - difference.mean()  # no patient differs from another
    found = crossed_difference(runs_of(difference), runs_of(np.zeros((6, 8))))
    expected = stats.ttest_1samp(difference.mean(1), 0)
    assert found["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((low, high))


def test_interval_and_p_agree():
    for seed in range(20):
        ours, reference = study(seed)
        found = crossed_difference(runs_of(ours), runs_of(reference))
        assert (found["p"] < 0.05) == (not found["ci_low"] <= 0 <= found["ci_high"])


@pytest.mark.parametrize("runs", [1, 2, LEAST_RUNS - 1])
def test_too_few_runs_have_a_difference_without_interval(runs):
    ours, reference = study(runs=runs)
    found = crossed_difference(runs_of(ours), runs_of(reference))
    assert found["mean"] == pytest.approx((ours - reference).mean())
    assert found["ci_low"] is found["ci_high"] is found["p"] is None


def test_patients_that_a_run_lacks_are_left_out():
    ours, reference = map(runs_of, study())
    del ours[2]["a"], reference[4]["b"]
    assert crossed_difference(ours, reference)["n"] == 8
    assert crossed_difference([{}], [{}])["mean"] is None


def test_equal_methods_and_a_constant_difference():
    same = runs_of(np.full((5, 4), 0.5))
    found = crossed_difference(same, same)
    assert (found["mean"], found["ci_low"], found["ci_high"], found["p"]) == (0, 0, 0, 1)
    better = crossed_difference(runs_of(np.full((5, 4), 0.6)), same)
    assert (better["ci_low"], better["p"]) == (pytest.approx(0.1), pytest.approx(0))


def test_runs_that_are_not_paired_are_refused():
    ours, reference = map(runs_of, study())
    with pytest.raises(ValueError, match="4 runs of ours, 5 of the reference"):
        crossed_difference(ours[:4], reference)
    ours[0]["a"] = float("nan")
    with pytest.raises(ValueError, match="'a'"):
        crossed_difference(ours, reference)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("runs", "patients"), [(5, 10), (5, 45), (10, 20)])
def test_intervals_hold_the_truth(mix, runs, patients):
    """93 to 97 % of the time, within what 1,500 studies can show (± 1.7 %)."""
    held, _ = simulate(np.random.default_rng(3), runs, patients, mix, False, 1500)
    assert 0.93 - 0.017 <= held <= 0.97 + 0.017


def test_a_test_over_patients_alone_is_wrong_far_too_often():
    held, false = simulate(np.random.default_rng(3), 5, 45, "seeds", False, 300)
    assert false > 0.3
    assert held > 0.9
