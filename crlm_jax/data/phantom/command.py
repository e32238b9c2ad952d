"""The command that writes a phantom cohort.

python -m crlm_jax.data.phantom --out DIR --patients 24 --seed 0
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from crlm_jax.data.phantom.cohort import CONDITIONS, make_phantom
from crlm_jax.system.console import local_path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write a phantom cohort (NIfTI and cohort.csv).")
    parser.add_argument("--out", type=local_path, required=True, help="folder of the cohort")
    parser.add_argument("--patients", type=int, default=24)
    parser.add_argument("--conditions", nargs="+", default=CONDITIONS, choices=CONDITIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="threads (default: processors)")
    args = parser.parse_args(argv)
    path = make_phantom(
        args.out,
        patients=args.patients,
        conditions=args.conditions,
        seed=args.seed,
        workers=args.workers,
        progress=True,
    )
    print(path)
    return 0
