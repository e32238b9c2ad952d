"""The command that exports a trained segmenter.

python -m crlm_jax.export --run runs/ct --out exported
"""

import argparse
import sys
from pathlib import Path

from crlm_jax.config.schema import ConfigError
from crlm_jax.export.bundle import PREPROCESSING, export_run
from crlm_jax.export.to_onnx import ExportError
from crlm_jax.method.checkpoint import CheckpointError
from crlm_jax.system.console import local_path, print_stderr


def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 1 and one line where nothing could be written."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.export",
        description="Write a trained segmenter, with its preprocessing, as StableHLO and ONNX.",
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
    try:
        description = export_run(args.run, args.out, args.format)
    except (ExportError, ConfigError, CheckpointError, OSError, ValueError) as error:
        sys.exit("error: " + " ".join(str(error).split()))
    for warning in description["warnings"]:
        print_stderr(f"warning: {warning}")
    for name in (*description["files"], PREPROCESSING):
        print(args.out / name)
