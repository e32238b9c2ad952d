"""Statistics against published examples, brute force and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from crlm_jax.stats.agreement import bland_altman, cohen_kappa
from crlm_jax.stats.comparison import SMALL, bootstrap_mean, holm, paired_difference
from tests.benchmarks.bootstrap import OF_LESIONS, SCENARIOS, by_lesion, coverage


def test_interval_holds_the_mean_and_is_seeded():
    values = np.random.default_rng(0).uniform(size=45)
    first, again = bootstrap_mean(values), bootstrap_mean(values)
    assert first == again
    assert first != bootstrap_mean(values, seed=1)
    assert first["mean"] == pytest.approx(values.mean())
    assert first["n"] == 45
    # A normal interval of the mean is close for 45 uniform values.
    half = 1.96 * values.std(ddof=1) / np.sqrt(45)
    assert first["ci_low"] == pytest.approx(values.mean() - half, abs=0.01)
    assert first["ci_high"] == pytest.approx(values.mean() + half, abs=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], {"mean": None, "ci_low": None, "ci_high": None, "n": 0}),
        ([0.5], {"mean": 0.5, "ci_low": None, "ci_high": None, "n": 1}),
        ([0.0, 0.0, 0.0], {"mean": 0.0, "ci_low": 0.0, "ci_high": 0.0, "n": 3}),
    ],
)
def test_too_few_or_equal_values(values, expected):
    assert bootstrap_mean(np.array(values)) == expected | {"small": True}
    owners = list(range(len(values)))
    assert bootstrap_mean(values, patients=owners) == expected | {"small": True}


@pytest.mark.parametrize(("n", "small"), [(SMALL - 1, True), (SMALL, False)])
def test_few_patients_are_marked(n, small):
    values = np.linspace(0, 1, 2 * n)
    assert bootstrap_mean(values[:n], 99)["small"] is small
    assert bootstrap_mean(values, 99, patients=np.arange(2 * n) % n)["small"] is small


@pytest.mark.parametrize("n", [2, 5, SMALL - 1])
def test_few_patients_have_students_interval(n):
    values = np.random.default_rng(n).beta(5, 2, n)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    for result in (bootstrap_mean(values), bootstrap_mean(values, patients=range(n))):
        assert (result["ci_low"], result["ci_high"]) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("scenario", "n"), [("none", 10), ("none", 5), ("lesions", 15)])
def test_the_interval_of_few_patients_covers(scenario, n):
    """BCa covers 90, 84 and 91 % there; what is asserted leaves 2 % for chance."""
    draw, mean = SCENARIOS[scenario]
    assert coverage(draw, mean, n, simulations=800, resamples=9, seed=1) >= 0.90


def test_one_value_a_patient_is_the_plain_bootstrap():
    values = np.random.default_rng(3).beta(5, 2, 30)
    plain, clustered = bootstrap_mean(values), bootstrap_mean(values, patients=range(30))
    assert clustered == pytest.approx(plain, abs=1e-12)


def brute_force_bca(values, patients, resamples, seed):
    """Efron's BCa by loops over patients: concatenates the values of those drawn."""
    rng, names = np.random.default_rng(seed), sorted(set(patients))
    of = {p: [v for v, q in zip(values, patients, strict=True) if q == p] for p in names}

    def mean(chosen):
        return float(np.mean(list(itertools.chain.from_iterable(of[p] for p in chosen))))

    whole = mean(names)
    drawn = np.array([mean(rng.choice(names, len(names))) for _ in range(resamples)])
    z0 = scipy_stats.norm.ppf(np.mean(drawn < whole) + np.mean(drawn == whole) / 2)
    without = np.array([mean([q for q in names if q != p]) for p in names])
    away = without.mean() - without
    a = np.sum(away**3) / (6 * np.sum(away**2) ** 1.5)
    z = z0 + scipy_stats.norm.ppf([0.025, 0.975])
    return np.quantile(drawn, scipy_stats.norm.cdf(z0 + z / (1 - a * z)))


def test_cluster_bootstrap_equals_brute_force():
    values, patients = by_lesion(np.random.default_rng(1), 24)
    names = [f"p{i}" for i in patients]
    result = bootstrap_mean(values, 4000, patients=names)
    low, high = brute_force_bca(values, names, 4000, seed=5)
    assert result["n"] == 24
    assert result["mean"] == pytest.approx(values.mean())
    width = high - low
    assert result["ci_low"] == pytest.approx(low, abs=0.05 * width)
    assert result["ci_high"] == pytest.approx(high, abs=0.05 * width)


def test_copies_of_a_value_within_a_patient_add_nothing():
    values = np.random.default_rng(2).uniform(size=25)
    once = bootstrap_mean(values)
    copied = bootstrap_mean(np.tile(values, 4), patients=list(range(25)) * 4)
    assert copied == pytest.approx(once, abs=1e-12)
    ignored = bootstrap_mean(np.tile(values, 4))
    assert ignored["ci_high"] - ignored["ci_low"] < 0.6 * (once["ci_high"] - once["ci_low"])


def test_patients_that_are_alike_as_a_whole_have_no_width():
    result = bootstrap_mean([0.2, 0.8, 0.8, 0.2, 0.5], patients=["a", "a", "b", "b", "c"])
    assert result["ci_low"] == result["mean"] == result["ci_high"] == pytest.approx(0.5)
    alone = bootstrap_mean([0.2, 0.8], patients=["a", "a"])
    assert (alone["mean"], alone["ci_low"], alone["n"]) == (0.5, None, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bootstrap_mean([0.1, np.nan, 0.3]),
            "values, number 2: nan is not a finite number",
        ),
        (lambda: bootstrap_mean([0.1, None]), "values, number 2"),
        (lambda: bootstrap_mean([0.1, np.inf]), "values, number 2: inf"),
        (lambda: bootstrap_mean([[0.1, 0.2]]), r"values: shape \(1, 2\)"),
        (lambda: bootstrap_mean([0.1, 0.2], patients=["a"]), "patients: 1 for 2 values"),
        (lambda: paired_difference({"a": 1, "b": np.nan}, {"a": 1, "b": 0}), "ours, patient 'b'"),
        (lambda: paired_difference({"a": 1}, {"a": None}), "reference, patient 'a'"),
        (lambda: holm([0.1, 1.2]), r"1.2 is not within \[0, 1\]"),
        (lambda: holm([0.1, np.nan]), "p_values, number 2"),
        (lambda: bland_altman([1, 2], [1]), "a has 2 values and b has 1"),
        (lambda: bland_altman([1, np.nan], [1, 2]), "a, number 2"),
        (lambda: cohen_kappa(["CR"], [], ["CR", "PR"]), "a has 1 ratings and b has 0"),
        (lambda: cohen_kappa(["CR"], ["NE"], ["CR", "PR"]), "b, number 1: 'NE'"),
        (lambda: cohen_kappa(["CR"], ["CR"], ["CR", "CR"]), "each once"),
        (lambda: cohen_kappa(["CR"], ["CR"], ["CR", "PR"], "cubic"), "none, linear, quadratic"),
    ],
)
def test_what_cannot_be_used_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# docs/explanation/statistics.md has what long runs give. These few are seeded, with a standard
# error of 1.3 to 2 %: nominal 90 % or 99 % intervals, or some shifted by a quarter of their
# width, fall outside.
@pytest.mark.parametrize(
    ("scenario", "low", "high"),
    [("none", 0.88, 0.965), ("often", 0.92, 0.98), ("lesions", 0.89, 0.975), ("naive", 0.79, 0.89)],
)
def test_coverage_at_45_patients(scenario, low, high):
    draw, mean = SCENARIOS[scenario]
    assert low <= coverage(draw, mean, 45, simulations=300, resamples=799, seed=1) <= high


def test_the_simulated_means_are_true():
    rng = np.random.default_rng(0)
    for name in ("none", "rare", "often"):
        draw, mean = SCENARIOS[name]
        assert draw(rng, 200_000)[0].mean() == pytest.approx(mean, abs=0.003)
    assert by_lesion(rng, 50_000)[0].mean() == pytest.approx(OF_LESIONS, abs=0.003)


# Hollander and Wolfe, Nonparametric Statistical Methods (1973), p. 29: depression scale factors of
# nine patients at two visits; exact one-sided p = 0.01953.
FIRST = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
SECOND = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_paired_difference_of_a_published_example():
    ours = {f"p{i}": x for i, x in enumerate(FIRST)}
    reference = {f"p{i}": x for i, x in reversed(list(enumerate(SECOND)))}
    result = paired_difference(ours | {"only": 1.0}, reference | {"other": 2.0, "third": 0.0})
    assert result["p"] == pytest.approx(2 * 0.01953125)
    assert result["mean"] == pytest.approx(np.mean(FIRST) - np.mean(SECOND))
    assert (result["n"], result["dropped"], result["small"]) == (9, 3, True)
    assert result["ci_low"] < result["mean"] < result["ci_high"]
    swapped = paired_difference(reference, ours)
    assert swapped["mean"] == pytest.approx(-result["mean"])
    assert swapped["p"] == pytest.approx(result["p"])


def test_zero_differences_are_ranked_and_dropped_and_small_samples_are_exact():
    difference = [0.0, 0.0, 0.1, 0.1, 0.2, 0.3, -0.1, 0.4]
    ranks = scipy_stats.rankdata(np.abs(difference)) * (np.array(difference) != 0)
    observed = ranks[np.array(difference) > 0].sum()
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=8)]
    expected = 2 * min(np.mean(np.array(sums) >= observed), np.mean(np.array(sums) <= observed))
    # 0.3 − 0.2 and 0.2 − 0.1 are not the same floating-point number; they have to tie.
    ours = dict(enumerate([0.5, 0.5, 0.3, 0.2, 0.3, 0.4, 0.1, 0.5]))
    reference = dict(enumerate([0.5, 0.5, 0.2, 0.1, 0.1, 0.1, 0.2, 0.1]))
    assert paired_difference(ours, reference)["p"] == pytest.approx(expected)


def test_degenerate_pairs():
    same = paired_difference({"a": 0.5, "b": 0.7}, {"a": 0.5, "b": 0.7})
    assert (same["p"], same["mean"], same["ci_low"], same["ci_high"]) == (1, 0, 0, 0)
    nobody = paired_difference({"a": 0.5}, {"b": 0.7})
    assert (nobody["p"], nobody["mean"], nobody["n"], nobody["dropped"]) == (None, None, 0, 2)
    one = paired_difference({"a": 0.5}, {"a": 0.7})
    assert (one["p"], one["n"], one["ci_low"]) == (1, 1, None)


def test_holm_of_the_values_in_the_tests_of_statsmodels():
    # statsmodels/stats/tests/test_multi.py: from mt.rawp2adjp of R's multtest.
    p = [
        0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238,
        0.177096952723, 5.23656777208e-005, 0.0202732688798, 0.00028140506198, 0.0149877310796,
    ]  # fmt: skip
    adjusted = holm(p)
    small = [5.23656777208e-4, 2.53264555782e-3, 1.199018486368e-1, 1.419128821586e-1]
    assert sorted(adjusted) == pytest.approx([*small, 1, 1, 1, 1, 1, 1])
    assert adjusted[6] == min(adjusted)
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([]) == []
    assert holm([0.3]) == [0.3]


def test_limits_of_agreement_of_bland_and_altman():
    # Stat Methods Med Res 8:135 (1999): systolic blood pressure of 85 patients by an observer and a
    # machine: difference −16.29, SD 19.61 mmHg; limits −54.7 and 22.1 with the intervals below,
    # which the authors computed from rounded numbers.
    shape = np.random.default_rng(0).normal(size=85)
    difference = -16.29 + 19.61 * (shape - shape.mean()) / shape.std(ddof=1)
    machine = np.linspace(90, 220, 85)
    result = bland_altman(machine + difference, machine)
    expected = {
        "bias": -16.29, "bias_ci_low": -20.5, "bias_ci_high": -12.1, "sd": 19.61,
        "lower": -54.7, "lower_ci_low": -61.9, "lower_ci_high": -47.5,
        "upper": 22.1, "upper_ci_low": 14.9, "upper_ci_high": 29.4, "n": 85, "small": False,
    }  # fmt: skip
    assert result == pytest.approx(expected, abs=0.1)


def test_degenerate_agreement():
    assert set(bland_altman([], []).values()) == {None, 0, True}
    one = bland_altman([3.0], [1.0])
    assert (one["bias"], one["sd"], one["lower"], one["bias_ci_low"]) == (2, None, None, None)
    equal = bland_altman([3.0, 4.0], [1.0, 2.0])
    assert (equal["sd"], equal["lower"], equal["upper_ci_high"]) == (0, 2, 2)


def ratings(table):
    """The ratings of both readers from their table."""
    cells = [(j, k) for j, row in enumerate(table) for k, n in enumerate(row) for _ in range(n)]
    return [j for j, _ in cells], [k for _, k in cells]


def test_kappa_of_a_sas_example():
    # statsmodels/stats/tests/test_inter_rater.py: from SAS, with its asymptotic 95 % limits.
    a, b = ratings([[0, 4, 1], [0, 8, 0], [0, 1, 5]])
    plain = cohen_kappa(a, b, [0, 1, 2])
    assert plain["kappa"] == pytest.approx(0.4842, abs=5e-5)
    assert plain["agreement"] == pytest.approx(13 / 19)
    assert (plain["ci_low"], plain["ci_high"]) == pytest.approx((0.2137, 0.7547), abs=0.06)
    weighted = cohen_kappa(a, b, [0, 1, 2], "linear")
    assert weighted["kappa"] == pytest.approx(0.4701, abs=5e-5)
    assert (weighted["ci_low"], weighted["ci_high"]) == pytest.approx((0.1845, 0.7558), abs=0.06)
    assert weighted == cohen_kappa(a, b, [0, 1, 2], "linear")


def test_kappa_of_the_irr_example():
    # The anxiety ratings of R's irr, raters 2 and 3, nobody being rated 4.
    second = [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4]
    third = [2, 1, 4, 4, 3, 2, 1, 6, 1, 1, 1, 2, 3, 3, 1, 1, 3, 3, 2, 2]
    categories = [1, 2, 3, 4, 6]
    for weights, expected in (
        ("none", -0.006289308),
        ("linear", 0.1459075),
        ("quadratic", 0.2520325),
    ):
        result = cohen_kappa(second, third, categories, weights)
        assert result["kappa"] == pytest.approx(expected, abs=1e-6)
        assert result["ci_low"] < result["kappa"] < result["ci_high"]


def test_kappa_interval_equals_drawing_patients():
    rng = np.random.default_rng(4)
    a = rng.integers(0, 4, 40)
    b = np.where(rng.uniform(size=40) < 0.6, a, rng.integers(0, 4, 40))
    result = cohen_kappa(a.tolist(), b.tolist(), range(4), "quadratic")
    drawn = []
    for _ in range(1500):
        i = rng.integers(0, 40, 40)
        away = np.mean((a[i] - b[i]) ** 2)
        drawn.append(1 - away / np.mean(np.subtract.outer(a[i], b[i]) ** 2))
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert (result["ci_low"], result["ci_high"]) == pytest.approx((low, high), abs=0.04)


def test_degenerate_kappa():
    response = ["CR", "PR", "SD", "PD"]
    undefined = {"kappa": None, "ci_low": None, "ci_high": None}
    one = cohen_kappa(["SD"] * 9, ["SD"] * 9, response)
    assert one == undefined | {"agreement": 1, "n": 9, "small": True}
    assert cohen_kappa([], [], response) == undefined | {"agreement": None, "n": 0, "small": True}
    chance = cohen_kappa(["SD"] * 4, ["SD", "PD", "SD", "PD"], response)
    assert chance["kappa"] == 0
    full = cohen_kappa(["SD", "PD", "CR"], ["SD", "PD", "CR"], response, "linear")
    assert (full["kappa"], full["ci_low"], full["ci_high"]) == (1, 1, 1)
    single = cohen_kappa(["SD"], ["PD"], response)
    assert (single["kappa"], single["ci_low"]) == (0, None)
