"""The command that writes a phantom cohort.

python -m crlm_jax.data.phantom --out DIR --patients 24 --seed 0
"""

import argparse
from collections.abc import Sequence

from crlm_jax.config.checks import PHANTOM_VERSIONS
from crlm_jax.config.schema import Phantom
from crlm_jax.data.phantom.cohort import CONDITIONS, make_phantom
from crlm_jax.system.console import local_path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.data.phantom",
        description="Write a phantom cohort (NIfTI and cohort.csv).",
    )
    add = parser.add_argument
    add("--out", type=local_path, required=True, metavar="DIR", help="folder of the cohort")
    add("--patients", type=int, default=Phantom.patients, help="(default %(default)s)")
    add("--conditions", nargs="+", default=CONDITIONS, choices=CONDITIONS, help="(default: all)")
    add("--seed", type=int, default=Phantom.seed, help="of the cohort (default %(default)s)")
    add(
        "--version",
        type=int,
        default=Phantom.version,
        choices=PHANTOM_VERSIONS,
        help="1: easy images; 2: much of what makes real ones hard (default %(default)s)",
    )
    add("--workers", type=int, help="threads (default: one a processor, up to 8)")
    args = parser.parse_args(argv)
    path = make_phantom(
        args.out,
        patients=args.patients,
        conditions=args.conditions,
        seed=args.seed,
        version=args.version,
        workers=args.workers,
        progress=True,
    )
    print(path)
    return 0
