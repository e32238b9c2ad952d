"""Simulates studies of paired runs: coverage and false positives of `stats.crossed_difference`.

    python -m tests.benchmarks.crossed --studies 2000 --seed 0
    python -m tests.benchmarks.crossed --folds 5

The true difference is 0, and its variance comes from the seeds, the patients, both, or neither
(noise alone). Patients' differences are normal, or skewed as an exponential distribution. Beside it
stands what a test over patients alone gives: Wilcoxon's on each patient's mean over the runs. With
folds, every fold of every seed is a training with an effect of its own, which its patients share;
the folds of a seed together are one run. Then the other test takes every fold for a run: t of their
mean differences.
"""

import argparse

import numpy as np
from scipy import stats

from crlm_jax.stats.crossed import _standard_error

MIXES = {  # variances of seeds, patients and noise
    "seeds": (1, 0.1, 0.5),
    "patients": (0.1, 1, 0.5),
    "noise": (0.05, 0.05, 1),
    "even": (0.5, 0.5, 1),
    "seeds alone": (1, 0, 0.3),
    "noise alone": (0, 0, 1),
    "patients alone": (0, 1, 0.3),
}


def simulate(
    rng: np.random.Generator, runs: int, patients: int, mix: str, skewed: bool, studies: int,
    folds: int = 1,
) -> tuple[float, float]:  # fmt: skip
    """Share of studies whose interval holds 0, and in which the other test is below 0.05."""
    fold = np.arange(patients) % folds  # of each patient
    seeds, of_patients, noise = np.sqrt(MIXES[mix])
    held = significant = 0
    draw = rng.standard_normal if not skewed else lambda size: rng.exponential(size=size) - 1
    for _ in range(studies):
        of_training = seeds * rng.standard_normal((runs, folds))[:, fold]
        difference = of_training + of_patients * draw((1, patients))
        difference = difference + noise * rng.standard_normal((runs, patients))
        error, freedom = _standard_error(difference)
        held += abs(difference.mean()) <= stats.t.ppf(0.975, freedom) * error
        if folds > 1:
            each = [difference[:, fold == k].mean(1) for k in range(folds)]
            significant += stats.ttest_1samp(np.ravel(each), 0).pvalue < 0.05
        else:
            significant += stats.wilcoxon(difference.mean(0)).pvalue < 0.05
    return held / studies, significant / studies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=1, help="of each seed; 1: none")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    print(
        "patients' differences | runs | patients | coverage, least to most | other test, most false"
    )
    for skewed in (False, True):
        for runs in (3, 5, 10):
            for patients in (10, 20, 45):
                found = [
                    simulate(rng, runs, patients, mix, skewed, args.studies, args.folds)
                    for mix in MIXES
                ]
                held, false = zip(*found, strict=True)
                kind = "skewed" if skewed else "normal"
                print(
                    f"{kind} | {runs} | {patients} | {min(held):.1%} to {max(held):.1%} | "
                    f"{max(false):.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
