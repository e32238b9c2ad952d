"""The command that writes the report of one run or of several.

python -m crlm_jax.report runs/cross_pre
python -m crlm_jax.report runs/crlm_gan runs/unetpp --out comparison.html
"""

import argparse
import math
import sys
from pathlib import Path

from crlm_jax.config.schema import ConfigError
from crlm_jax.report.page import VIEWED, write_report
from crlm_jax.system.console import printable


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.report", description="Write the report of one run or of several."
    )
    parser.add_argument("run", type=Path, nargs="+", help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="HTML file (default: report.html of the run)")
    parser.add_argument(
        "--all-cases", action="store_true", help="in the viewer too, however large the file becomes"
    )
    args = parser.parse_args(argv)
    if args.out is None and len(args.run) > 1:
        parser.error("several runs: name the file with --out, such as --out comparison.html")
    try:
        out = args.out or args.run[0] / "report.html"
        print(write_report(args.run, out, math.inf if args.all_cases else VIEWED))
    except (ConfigError, OSError, ValueError) as error:
        sys.exit(f"error: {printable(str(error))}")
