"""The command that exports a trained segmenter for use without this package.

python -m crlm_jax.export --run runs/ct --out exported
python exported/example.py scan.nii.gz mask.nii.gz
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.export.bundle import PREPROCESSING, export_run
from crlm_jax.system.console import local_path, print_stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.export",
        description="Write a trained segmenter as StableHLO and ONNX, with an example that "
        "segments scans with either file.",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--out", type=local_path, required=True, help="folder: new or an earlier export"
    )
    parser.add_argument(
        "--format",
        choices=("stablehlo", "onnx", "both"),
        default="both",
        help="onnx needs pip install 'crlm_jax[export]' (default: both)",
    )
    args = parser.parse_args(argv)
    description = export_run(args.run, args.out, args.format)
    for warning in description["warnings"]:
        print_stderr(f"warning: {warning}")
    for name in (*description["files"], PREPROCESSING):
        print(args.out / name)
    return 0
