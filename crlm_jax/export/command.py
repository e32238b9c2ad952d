"""The command that exports a trained segmenter for use without this package.

python -m crlm_jax.export --run runs/ct --out exported
python exported/example.py scan.nii.gz mask.nii.gz
python -m crlm_jax.export --run runs/ct --share --out ct_shared
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.export.bundle import PREPROCESSING, export_run
from crlm_jax.export.share import MODEL_CARD, share_run
from crlm_jax.system.console import local_path, print_stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.export",
        description="Write a trained segmenter as StableHLO and ONNX, with an example that "
        "segments scans with either file; or write a run to hand on.",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--out", type=local_path, required=True, help="folder: new or an earlier export"
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="write the run without patients' names and paths instead, with a model card, to "
        "predict, evaluate and fine-tune with",
    )
    parser.add_argument(
        "--format",
        choices=("stablehlo", "onnx", "both"),
        help="onnx needs pip install 'crlm_jax[export]' (default: both)",
    )
    args = parser.parse_args(argv)
    if args.share:
        if args.format:
            parser.error("--share and --format: give one; a shared run is no exported function")
        print(share_run(args.run, args.out) / MODEL_CARD)
        return 0
    description = export_run(args.run, args.out, args.format or "both")
    for warning in description["warnings"]:
        print_stderr(f"warning: {warning}")
    for name in (*description["files"], PREPROCESSING):
        print(args.out / name)
    return 0
