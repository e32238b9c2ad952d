"""How often the 95 % interval of `stats.bootstrap_mean` holds the true mean, by simulation.

Simulated are DSC of patients, with the true mean known:

  none     no patient is missed: Beta with mean 0.81, SD 0.155, as the paper's interval for
           pre-NACT DWI implies (0.81, 0.76 to 0.85, of 45)
  rare     2 % are missed altogether (DSC 0), the others are Beta with mean 0.83, SD 0.10: about
           the same mean and SD
  often    20 % are missed, the others are Beta with mean 0.84, SD 0.12: like the paper's post-NACT
           DWI (0.67, 0.55 to 0.77)
  lesions  1 to 5 lesions a patient; lesions of one patient are alike, many lesions go with a lower
           DSC, and 5 % of lesions are missed; resampled by patient
  naive    the same lesions taken for independent, which `patients` is there to prevent; n = 45 only

It prints the coverage in %, and its Monte-Carlo standard error. About two minutes on one core.

    python tests/benchmarks/bootstrap.py
"""

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
import scipy

from crlm_jax.stats.comparison import bootstrap_mean

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray | None]]
SIZES = (5, 10, 15, 20, 30, 45, 66)
LESIONS = np.arange(1, 6)  # of a patient, each number as likely
QUALITY = 0.90 - 0.03 * LESIONS  # mean DSC of a lesion that is found, by their number


def beta(mean: float, sd: float) -> tuple[float, float]:
    """Parameters of the Beta distribution of a mean and a standard deviation."""
    total = mean * (1 - mean) / sd**2 - 1
    return mean * total, (1 - mean) * total


def by_patient(missed: float, mean: float, sd: float) -> Draw:
    """One DSC a patient: 0 with the chance `missed`, else Beta."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, None]:
        return rng.beta(*beta(mean, sd), n) * (rng.uniform(size=n) >= missed), None

    return draw


def by_lesion(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """DSC of the lesions of n patients, and the patient of each."""
    number = rng.choice(LESIONS, n)
    own = np.array([rng.beta(*beta(q, 0.12)) for q in QUALITY[number - 1]])
    patient = np.repeat(np.arange(n), number)
    found = rng.uniform(size=patient.size) >= 0.05
    return rng.beta(20 * own[patient], 20 * (1 - own[patient])) * found, patient


def naive(rng: np.random.Generator, n: int) -> tuple[np.ndarray, None]:
    """The same lesions without their patients."""
    return by_lesion(rng, n)[0], None


OF_LESIONS = float(0.95 * (LESIONS * QUALITY).sum() / LESIONS.sum())
SCENARIOS: dict[str, tuple[Draw, float]] = {
    "none": (by_patient(0.00, 0.81, 0.155), 0.81),
    "rare": (by_patient(0.02, 0.83, 0.10), 0.98 * 0.83),
    "often": (by_patient(0.20, 0.84, 0.12), 0.80 * 0.84),
    "lesions": (by_lesion, OF_LESIONS),
    "naive": (naive, OF_LESIONS),
}


def coverage(
    draw: Draw, mean: float, n: int, *, simulations: int, resamples: int, seed: int
) -> float:
    """Share of simulated studies of n patients whose interval holds the mean."""
    rng = np.random.default_rng(seed)
    held = 0
    for i in range(simulations):
        values, owners = draw(rng, n)
        result = bootstrap_mean(values, resamples, seed=seed + i, patients=owners)
        held += result["ci_low"] is not None and result["ci_low"] <= mean <= result["ci_high"]
    return held / simulations


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1999)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sizes = vars(args).pop("sizes")
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    print(f"{versions}, scipy {scipy.__version__}; {vars(args)}")
    start = time.perf_counter()
    print("| n | " + " | ".join(SCENARIOS) + " |")
    print("| ---: |" + " ---: |" * len(SCENARIOS))
    for n in sizes:
        cells = []
        for name, (draw, mean) in SCENARIOS.items():
            if name == "naive" and n != 45:
                cells.append("–")
                continue
            share = coverage(draw, mean, n, **vars(args))
            error = (share * (1 - share) / args.simulations) ** 0.5
            cells.append(f"{100 * share:.1f} ± {100 * error:.1f}")
        print(f"| {n} | " + " | ".join(cells) + " |", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
