import numpy as np
import pytest

from crlm_jax.stats import bootstrap_mean


def test_interval_holds_the_mean_and_is_seeded():
    values = np.random.default_rng(0).uniform(size=45)
    first, again = bootstrap_mean(values), bootstrap_mean(values)
    assert first == again
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
    assert bootstrap_mean(np.array(values)) == expected
