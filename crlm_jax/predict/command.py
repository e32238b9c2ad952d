"""The command that segments scans with a trained run.

python -m crlm_jax.predict --run runs/cross_pre --image scan.nii.gz --out mask.nii.gz
python -m crlm_jax.predict --run runs/ct --image dicom/ct --out seg.dcm --overlay pictures
python -m crlm_jax.predict --run runs/ct --image cohort.csv --out 'masks/{name}.nii.gz'
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import get_args

from crlm_jax import predict
from crlm_jax.config.schema import ConfigError
from crlm_jax.imaging.dicom.files import is_directory_file
from crlm_jax.predict.engine.choice import Asked
from crlm_jax.predict.ensemble import EnsembleSegmenter, load
from crlm_jax.predict.liver import decided_by, restrict
from crlm_jax.predict.outputs import (
    Outputs,
    ensemble_path,
    lesions_path,
    plan_jobs,
    write_lesions,
)
from crlm_jax.predict.scans import (
    Scan,
    add_scan_arguments,
    check_condition,
    find_scans,
    list_scans,
    unknown_conditions,
)
from crlm_jax.predict.segmenter import use_compile_cache
from crlm_jax.predict.stream import predict_scans
from crlm_jax.system.console import local_path, print_error, print_stderr
from crlm_jax.system.files import write_whole


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
        type=local_path,
        required=True,
        help="NIfTI, NRRD, MHA, PNG, a DICOM folder or file, a folder of many, or a cohort.csv",
    )
    add(
        "--out",
        type=local_path,
        required=True,
        help="mask: .nii.gz, .nii, .nrrd, .mha, .png or .dcm (DICOM-SEG); for many scans a folder "
        "or a path with {name}",
    )
    add_scan_arguments(parser, "scans")
    add("--probability", type=local_path, metavar="FILE", help="also write the probability map")
    add(
        "--uncertainty",
        type=local_path,
        metavar="FILE",
        help="of several runs: also write the standard deviation of their probabilities",
    )
    add("--tta", action="store_true", help="average over the 8 flips and quarter turns")
    _add_mask_arguments(parser)
    add("--overlay", type=local_path, metavar="DIR", help="also draw every slice with a lesion")
    add(
        "--lesions",
        type=local_path,
        metavar="CSV",
        help="list of lesions (default: beside the masks)",
    )
    add(
        "--one-segment",
        action="store_true",
        help="in a DICOM-SEG: one segment for all lesions, instead of one for each",
    )
    add("--device", help="cpu, gpu, tpu or one of several, such as gpu:1 (default: JAX's first)")
    add(
        "--engine",
        choices=get_args(Asked),
        default="auto",
        help="what computes the network (default: OpenVINO in bfloat16 on a CPU that has units for "
        "it, where it is installed; otherwise XLA)",
    )
    return parser


def _add_mask_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what decides how a probability becomes a mask."""
    add = parser.add_argument
    add("--threshold", type=float, help="probability of tumour (default: that of the run)")
    add(
        "--min-lesion-mm3",
        type=float,
        metavar="V",
        help="remove smaller lesions (default: as the run does)",
    )
    add(
        "--liver",
        metavar="MASK",
        help="mark nothing outside the liver: its mask (with {name} for many scans), a run that "
        "segments the liver, 'column' (the masks of the cohort's column liver) or 'none' (default: "
        "as the run says)",
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a usage error ends the program."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    if args.threshold is not None and not 0 < args.threshold < 1:
        parser.error(f"--threshold {args.threshold:g}: must be in (0, 1)")
    check_condition(parser, args.condition)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 if a scan failed."""
    args = _parse(argv)
    scans = find_scans(args.image, series=args.series, b_value=args.b_value, warn=_warn)
    if args.image.is_dir() or is_directory_file(args.image):
        print("\n".join([f"{args.image}: {len(scans)} scan(s) to segment:", *list_scans(scans)]))
    if args.condition:
        scans = [dataclasses.replace(scan, condition=args.condition) for scan in scans]
    outputs = Outputs(
        args.out, args.probability, args.overlay, args.lesions, args.one_segment, args.uncertainty
    )
    jobs = plan_jobs(scans, outputs)
    segmenter = load(
        args.run, tta=args.tta, threshold=args.threshold, min_lesion_mm3=args.min_lesion_mm3,
        liver=decided_by(args.liver), engine=args.engine,
        device=predict.engine.xla.find_device(args.device) if args.device else None,
    )  # fmt: skip
    liver = restrict(scans, args.liver, segmenter)
    jobs = [dataclasses.replace(j, scan=own) for j, own in zip(jobs, liver.scans, strict=True)]
    ensemble = segmenter if isinstance(segmenter, EnsembleSegmenter) else None
    if args.uncertainty and ensemble is None:
        raise ConfigError(
            f"--uncertainty: {segmenter.name} is one run, which can disagree with nobody; give "
            "several to --run, or leave the option out"
        )
    if segmenter.engine.name == "XLA":
        use_compile_cache()
    if segmenter.engine.note:
        print_stderr(f"note: {segmenter.engine.note}")
    for scan in scans:
        segmenter.windowed_as(scan.condition)  # raises before the first scan is predicted
    for warning in unknown_conditions(scans, segmenter.config.data.conditions):
        _warn(warning)
    if segmenter.marks:
        print_stderr(
            "warning: PHANTOM: the run was trained on digital images; its masks are no finding"
        )
    found, failed = predict_scans(segmenter, jobs, warn=_warn, liver=liver.run)
    done = len(jobs) - len(failed)
    if done:
        where = jobs[0].mask if len(jobs) == 1 else jobs[0].mask.parent
        path = lesions_path(outputs, jobs)
        write_lesions(path, found)
        print(f"{where}: {done} mask(s), {len(found)} lesion(s), listed in {path}")
        if ensemble:
            path = ensemble_path(jobs)
            write_whole(path, ensemble.record(liver.about))
            print(f"ensemble of {ensemble.networks}, whose members are in {path}")
        print(liver.about)
        print(f"computed by {segmenter.engine}")
    _print_failures(failed, len(jobs))
    return 1 if failed else 0


def _warn(text: str) -> None:
    print_stderr(f"warning: {text}")


def _print_failures(failed: Sequence[tuple[Scan, str]], jobs: int) -> None:
    """Prints a line for each scan that failed."""
    for scan, reason in failed:
        print_error(reason if str(scan.path) in reason else f"{scan.path}: {reason}")
    if failed and jobs > 1:
        print_stderr(f"{len(failed)} of {jobs} scans failed; the others are done")
