"""The command that segments scans with a trained run.

python -m crlm_jax.predict --run runs/cross_pre --image scan.nii.gz --out mask.nii.gz
python -m crlm_jax.predict --run runs/ct --image dicom/ct --out seg.dcm --overlay pictures
python -m crlm_jax.predict --run runs/ct --image cohort.csv --out 'masks/{name}.nii.gz'
python -m crlm_jax.predict --run runs/ct --image https://HOST/dicom-web/studies/UID/series/UID \\
    --out seg.dcm --stow
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import get_args

from crlm_jax import predict
from crlm_jax.config.schema import ConfigError
from crlm_jax.errors import UserError
from crlm_jax.imaging.dicom.files import is_directory_file
from crlm_jax.predict import archive
from crlm_jax.predict.engine.choice import Asked
from crlm_jax.predict.ensemble import EnsembleSegmenter, load
from crlm_jax.predict.outputs import (
    Job,
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
from crlm_jax.predict.segmenter import ScanSegmenter, use_compile_cache
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
        type=_path_or_address,
        required=True,
        help="NIfTI, NRRD, MHA, PNG, a DICOM folder or file, a folder of many, a cohort.csv, or "
        "the DICOMweb address of a series, https://HOST/dicom-web/studies/UID/series/UID",
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
        help="in a DICOM-SEG or RTSTRUCT: one segment for all lesions, instead of one for each",
    )
    _add_archive(add)
    add("--device", help="cpu, gpu, tpu or one of several, such as gpu:1 (default: JAX's first)")
    add(
        "--engine",
        choices=get_args(Asked),
        default="auto",
        help="what computes the network (default: OpenVINO in bfloat16 on a CPU that has units for "
        "it, where it is installed; otherwise XLA)",
    )
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


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a usage error ends the program."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    if args.threshold is not None and not 0 < args.threshold < 1:
        parser.error(f"--threshold {args.threshold:g}: must be in (0, 1)")
    check_condition(parser, args.condition)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 if a scan failed, or was not sent."""
    args = _parse(argv)
    source, store = _find_archives(args)
    there = [address for address in (source, store) if address]
    if not there:
        jobs, failed = _predict(args, args.image)
        return 1 if failed else 0
    dicomweb = _load_dicomweb()
    own = archive.find_credentials(there, args.credentials)
    with contextlib.ExitStack() as stack:
        image = args.image
        if source:
            print(f"{source}: is fetched")
            image = stack.enter_context(dicomweb.fetched(source, own.get(source.origin), _warn))
        jobs, failed = _predict(args, image, source)
    if store is None:
        return 1 if failed else 0
    lost = {scan for scan, _ in failed}
    files = [file for job in jobs if job.scan not in lost for file in _in_dicom(job)]
    sent = True
    for each in dicomweb.send(files, store, own.get(store.origin)):
        (print if each.there else print_error)(each.said)
        sent = sent and each.there
    return 0 if sent and not failed else 1


def _find_archives(
    args: argparse.Namespace,
) -> tuple[archive.Address | None, archive.Address | None]:
    """Returns where the image is fetched and where results are sent; None: on this machine.

    Raises:
      UserError: an address is wrong.
    """
    source = store = None
    if isinstance(args.image, str):
        source = archive.parse_series("--image", args.image, insecure=args.insecure)
    if args.stow:
        store = archive.parse_studies("--stow", args.stow, insecure=args.insecure)
    elif args.stow is not None:
        if source is None:
            raise UserError("--stow: --image is of no archive; give --stow https://HOST/…/studies")
        store = archive.Address(source.base)
    for address in {each.origin: each for each in (source, store) if each}.values():
        if not (address.encrypted or address.is_here):
            _warn(f"{address.origin}: whoever is on the network can read what is sent (--insecure)")
    return source, store


def _load_dicomweb() -> ModuleType:
    """Returns the module that speaks DICOMweb, which needs an extra."""
    try:
        from crlm_jax.predict import dicomweb
    except ImportError as error:
        raise UserError(
            "--image https://… and --stow need dicomweb-client: pip install 'crlm_jax[pacs]'"
        ) from error
    return dicomweb


def _in_dicom(job: Job) -> list[Path]:
    """Returns the results of a scan that an archive takes; a report comes after what it names."""
    return [file for file in (job.mask, job.report) if file and file.suffix == ".dcm"]


def _predict(
    args: argparse.Namespace, image: Path, source: archive.Address | None = None
) -> tuple[list[Job], list[tuple[Scan, str]]]:
    """Segments what was asked for; returns the scans with their files, and those that failed."""

    def named(text: str) -> str:
        """Puts the address in place of the temporary folder."""
        return text.replace(str(image), str(source)) if source else text

    def warn(text: str) -> None:
        _warn(named(text))

    scans = find_scans(image, series=args.series, b_value=args.b_value, warn=warn)
    if image.is_dir() or is_directory_file(image):
        listed = [f"{image}: {len(scans)} scan(s) to segment:", *list_scans(scans)]
        print(named("\n".join(listed)))
    if args.condition:
        scans = [dataclasses.replace(scan, condition=args.condition) for scan in scans]
    outputs = Outputs(
        args.out, args.probability, args.overlay, args.lesions, args.one_segment, args.uncertainty,
        args.sr, args.kind == "rtstruct",
    )  # fmt: skip
    jobs = plan_jobs(scans, outputs)
    if args.stow is not None and (silent := [job for job in jobs if not _in_dicom(job)]):
        raise UserError(
            f"--stow: {silent[0].mask} is no DICOM, and an archive takes nothing else; end --out "
            "in .dcm, or add --sr"
        )
    segmenter = _load(args, scans, warn)
    found, failed = predict_scans(segmenter, jobs, warn=warn)
    done = len(jobs) - len(failed)
    if done:
        where = jobs[0].mask if len(jobs) == 1 else jobs[0].mask.parent
        path = lesions_path(outputs, jobs)
        write_lesions(path, found)
        print(f"{where}: {done} mask(s), {len(found)} lesion(s), listed in {path}")
        if isinstance(segmenter, EnsembleSegmenter):
            path = ensemble_path(jobs)
            write_whole(path, segmenter.record())
            print(f"ensemble of {segmenter.networks}, whose members are in {path}")
        print(f"computed by {segmenter.engine}")
    _print_failures(failed, len(jobs), named)
    return jobs, failed


def _load(
    args: argparse.Namespace, scans: Sequence[Scan], warn: Callable[[str], None]
) -> ScanSegmenter:
    """Returns the segmenter, once it is seen to fit the scans."""
    segmenter = load(
        args.run, tta=args.tta, threshold=args.threshold, min_lesion_mm3=args.min_lesion_mm3,
        device=predict.engine.xla.find_device(args.device) if args.device else None,
        engine=args.engine,
    )  # fmt: skip
    if args.uncertainty and not isinstance(segmenter, EnsembleSegmenter):
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
        warn(warning)
    if segmenter.marks:
        print_stderr(
            "warning: PHANTOM: the run was trained on digital images; its masks are no finding"
        )
    return segmenter


def _warn(text: str) -> None:
    print_stderr(f"warning: {text}")


def _print_failures(
    failed: Sequence[tuple[Scan, str]], jobs: int, named: Callable[[str], str]
) -> None:
    """Prints a line for each scan that failed."""
    for scan, reason in failed:
        print_error(named(reason if str(scan.path) in reason else f"{scan.path}: {reason}"))
    if failed and jobs > 1:
        print_stderr(f"{len(failed)} of {jobs} scans failed; the others are done")
