"""The command that writes the report of one run or of several.

python -m crlm_jax.report runs/cross_pre
python -m crlm_jax.report runs/crlm_gan runs/unetpp --out comparison.html
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.report.page import VIEWED, write_report
from crlm_jax.runs.folder import RunFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.report", description="Write the report of one run or of several."
    )
    parser.add_argument("run", type=Path, nargs="+", help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="HTML file (default: report.html of the run)")
    parser.add_argument(
        "--all-cases",
        action="store_true",
        help="show all cases in the viewer, however large the file becomes",
    )
    args = parser.parse_args(argv)
    if args.out is None and len(args.run) > 1:
        parser.error("several runs: name the file with --out, such as --out comparison.html")
    out = args.out or RunFolder(args.run[0]).report
    print(write_report(args.run, out, math.inf if args.all_cases else VIEWED))
    return 0
