"""A scan in, a mask out that opens exactly on top of it.

    python -m crlm_jax.predict --run runs/cross_pre --image scan.nii.gz --out mask.nii.gz
    python -m crlm_jax.predict --run runs/ct --image dicom/ct --out seg.dcm --overlay pictures
    python -m crlm_jax.predict --run runs/ct --image cohort.csv --out 'masks/{name}.nii.gz'

In a program:

    import SimpleITK as sitk
    from crlm_jax import predict

    segment = predict.load("runs/ct")
    mask = segment(sitk.ReadImage("scan.nii.gz"))
    sitk.WriteImage(mask, "mask.nii.gz")
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from crlm_jax.config.schema import Data
from crlm_jax.errors import UserError
from crlm_jax.predict.outputs import lesions_path, plan, write_lesions
from crlm_jax.predict.scans import add_scan, check_condition, find_scans
from crlm_jax.predict.segmenter import load
from crlm_jax.predict.stream import predict_scans
from crlm_jax.system import parallel
from crlm_jax.system.console import local_path, print_stderr


def find_device(name: str) -> jax.Device:
    """Returns a device by kind and number, such as `cpu`, `gpu` or `gpu:1`."""
    kind, _, number = name.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        there = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise UserError(f"--device {name}: there is none; there is {there}") from error


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.predict",
        description="Segment scans with a trained run. A mask has its scan's size, spacing, "
        "origin and direction.",
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder of the run, such as runs/ct")
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
    b_value = "s/mm², to take out of a DICOM diffusion series (default: 1000)"
    add_scan(parser, "scans", b_value)
    add(
        "--probability", type=local_path, metavar="FILE", help="also write the map of probabilities"
    )
    add("--tta", action="store_true", help="average over the 8 flips and quarter turns")
    add("--threshold", type=float, help="probability of tumour (default: that of the run)")
    add("--min-lesion-mm3", type=float, default=0.0, metavar="V", help="drop smaller lesions")
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
        help="in a DICOM-SEG: all lesions in one segment, not one each",
    )
    add("--device", help="cpu, gpu, tpu or one of several, such as gpu:1 (default: JAX's first)")
    args = parser.parse_args(argv)
    if args.threshold is not None and not 0 < args.threshold < 1:
        parser.error(f"--threshold {args.threshold:g}: must be in (0, 1)")
    check_condition(parser, args.condition)
    return args


def run(args: argparse.Namespace) -> int:
    """Predicts what the arguments ask for; returns how many scans failed."""
    scans = find_scans(args.image, series=args.series, b_value=args.b_value)
    if args.condition:
        scans = [dataclasses.replace(scan, condition=args.condition) for scan in scans]
    jobs = plan(scans, args)
    segmenter = load(
        args.run, tta=args.tta, threshold=args.threshold, min_lesion_mm3=args.min_lesion_mm3,
        device=find_device(args.device) if args.device else None,
    )  # fmt: skip
    # Not the run's own cache: a run may come from elsewhere, and cached programs are executed.
    parallel.use_compile_cache(Data.cache)
    for scan in scans:
        segmenter.windowed_as(scan.condition)
    if segmenter.config.data.cohort == "phantom":
        print_stderr(
            "warning: PHANTOM: the run was trained on digital images; its masks are no finding"
        )
    found, failed = predict_scans(
        segmenter, jobs, warn=lambda text: print_stderr(f"warning: {text}")
    )
    done = len(jobs) - len(failed)
    if done:
        path = lesions_path(args, jobs)
        write_lesions(path, found)
        where = jobs[0].mask if len(jobs) == 1 else jobs[0].mask.parent
        print(f"{where}: {done} mask(s), {len(found)} lesion(s), listed in {path}")
    for scan, reason in failed:
        print_stderr(
            f"error: {reason}" if str(scan.path) in reason else f"error: {scan.path}: {reason}"
        )
    if failed and len(jobs) > 1:
        print_stderr(f"{len(failed)} of {len(jobs)} scans failed; the others are done")
    return len(failed)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 if a scan failed."""
    return 1 if run(_arguments(argv)) else 0
