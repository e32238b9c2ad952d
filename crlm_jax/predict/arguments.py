"""The options of `python -m crlm_jax.predict`."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from crlm_jax.imaging.lattice import RESAMPLE
from crlm_jax.predict import archive
from crlm_jax.predict.engine.choice import Asked
from crlm_jax.predict.scans import add_scan_arguments, check_condition
from crlm_jax.system.console import local_path


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.predict",
        description="Segment scans with a trained run. A mask has its scan's size, spacing, "
        "origin and direction.",
    )
    add = parser.add_argument
    add(
        "--run",
        nargs="+",
        action="extend",
        required=True,
        help="folder of the run, such as runs/ct; several, or a folder that holds runs, such as "
        "that of a cross-validation: the mean of their probabilities",
    )
    add(
        "--image",
        type=_path_or_address,
        nargs="+",
        required=True,
        help="NIfTI, NRRD, MHA, PNG, a DICOM folder or file, a folder of many, a cohort.csv, or "
        "the DICOMweb address of a series, https://HOST/dicom-web/studies/UID/series/UID; for a "
        "run that sees several sequences together, one image of each, in its order",
    )
    _add_out(add)
    add_scan_arguments(parser, "scans")
    add("--probability", type=local_path, metavar="FILE", help="also write the probability map")
    add(
        "--uncertainty",
        type=local_path,
        metavar="FILE",
        help="of several runs: also write the standard deviation of their probabilities",
    )
    add_segmenting(add)
    add(
        "--liver",
        metavar="MASK",
        help="mark nothing outside the liver: its mask (with {name} for many scans), a run that "
        "segments the liver, 'column' (the masks of the cohort's column liver) or 'none' (default: "
        "as the run says)",
    )
    add("--resample-masks", action="store_true", help=RESAMPLE)
    add("--overlay", type=local_path, metavar="DIR", help="also draw every slice with a lesion")
    add("--lesions", type=local_path, metavar="CSV", help="list of lesions (default: beside masks)")
    add(
        "--one-segment",
        action="store_true",
        help="in a DICOM-SEG or RTSTRUCT: one segment for all lesions, instead of one for each",
    )
    _add_archive(add)
    return parser


def _add_out(add: Callable[..., argparse.Action]) -> None:
    add(
        "--out",
        type=local_path,
        required=True,
        help="mask: .nii.gz, .nii, .nrrd, .mha, .png or .dcm (DICOM-SEG); for many scans a folder "
        "or a path with {name}",
    )
    add(
        "--as",
        dest="kind",
        choices=("seg", "rtstruct"),
        default="seg",
        help="what a mask in DICOM is: DICOM-SEG, or the contours of an RTSTRUCT (default: seg)",
    )
    add(
        "--sr",
        type=local_path,
        metavar="FILE",
        help="of DICOM series: also write the lesions' measurements as a structured report (.dcm)",
    )


def add_rules(add: Callable[..., argparse.Action]) -> None:
    """Adds what becomes of a probability, whichever command decides it."""
    add("--threshold", type=float, help="probability of tumour (default: that of the run)")
    add(
        "--min-lesion-mm3",
        type=float,
        metavar="V",
        help="remove smaller lesions; 0: none (default: as the run does)",
    )


def add_segmenting(add: Callable[..., argparse.Action]) -> None:
    """Adds how scans are segmented, whichever command does it."""
    add("--tta", action="store_true", help="average over the 8 flips and quarter turns")
    add_rules(add)
    add("--device", help="cpu, gpu, tpu or one of several, such as gpu:1 (default: JAX's first)")
    add(
        "--engine",
        choices=get_args(Asked),
        default="auto",
        help="what computes the network (default: OpenVINO in bfloat16 on a CPU that has units for "
        "it, where it is installed; otherwise XLA)",
    )


def _add_archive(add: Callable[..., argparse.Action]) -> None:
    add(
        "--stow",
        nargs="?",
        const="",
        metavar="URL",
        help="also send the results in DICOM to an archive, https://HOST/dicom-web/studies "
        "(without URL: to the archive of --image)",
    )
    add(
        "--credentials",
        type=local_path,
        metavar="FILE",
        help="of the archive, in TOML, readable by you alone (default: the variables "
        f"{archive.TOKEN}, or {archive.USER} and {archive.PASSWORD})",
    )
    add("--insecure", action="store_true", help="let http:// lead to other machines")


def _path_or_address(text: str) -> Path | str:
    return text if archive.is_address(text) else local_path(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a usage error ends the program."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    check_rules(parser, args)
    check_condition(parser, args.condition)
    return args


def check_rules(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the command if `--threshold` is no probability, or `--min-lesion-mm3` no volume."""
    threshold, least = args.threshold, args.min_lesion_mm3
    if threshold is not None and not 0 < threshold < 1:
        parser.error(f"--threshold {threshold:g}: must be in (0, 1)")
    if least is not None and not 0 <= least < math.inf:
        parser.error(f"--min-lesion-mm3 {least:g}: must be a volume of 0 or more")
