"""The command that segments scans with a trained run.

python -m crlm_jax.predict --run runs/cross_pre --image scan.nii.gz --out mask.nii.gz
python -m crlm_jax.predict --run runs/ct --image dicom/ct --out seg.dcm --overlay pictures
python -m crlm_jax.predict --run runs/ct --image cohort.csv --out 'masks/{name}.nii.gz'
python -m crlm_jax.predict --run runs/ct --image https://HOST/dicom-web/studies/UID/series/UID \\
    --out seg.dcm --stow
"""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from crlm_jax import predict
from crlm_jax.config.schema import ConfigError
from crlm_jax.errors import UserError
from crlm_jax.imaging.channels import MOTION
from crlm_jax.imaging.dicom.files import is_directory_file
from crlm_jax.predict import archive
from crlm_jax.predict.announce import announce
from crlm_jax.predict.arguments import parse
from crlm_jax.predict.ensemble import EnsembleSegmenter, load
from crlm_jax.predict.liver import Restriction, decided_by, restrict
from crlm_jax.predict.outputs import (
    Job,
    LesionRow,
    Outputs,
    check_places,
    ensemble_path,
    lesions_path,
    plan_jobs,
    write_lesions,
)
from crlm_jax.predict.scans import (
    Scan,
    list_scans,
    unknown_conditions,
    with_condition,
)
from crlm_jax.predict.segmenter import ScanSegmenter
from crlm_jax.predict.stream import predict_scans
from crlm_jax.predict.together import find_named, is_cohort, join_patients
from crlm_jax.system.console import print_error, print_stderr
from crlm_jax.system.files import write_whole

if TYPE_CHECKING:
    import jax


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 if a scan failed, or was not sent."""
    args = parse(argv)
    source, store = _find_archives(args)
    there = [address for address in (source, store) if address]
    if not there:
        jobs, failed = _predict(args, args.image)
        return 1 if failed else 0
    dicomweb = _load_dicomweb()
    own = archive.find_credentials(there, args.credentials)
    with contextlib.ExitStack() as stack:
        images = args.image
        if source:
            print(f"{source}: is fetched")
            images = [stack.enter_context(dicomweb.fetched(source, own.get(source.origin), _warn))]
        jobs, failed = _predict(args, images, source)
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
    if addresses := [image for image in args.image if isinstance(image, str)]:
        if len(args.image) > 1:
            raise UserError("--image: one address of a series, or images on this machine")
        source = archive.parse_series("--image", addresses[0], insecure=args.insecure)
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
    return [file for file in (job.mask, job.report) if file and file.suffix.lower() == ".dcm"]


def _predict(
    args: argparse.Namespace, images: list[Path], source: archive.Address | None = None
) -> tuple[list[Job], list[tuple[Scan, str]]]:
    """Segments what was asked for; returns the scans with their files, and those that failed."""
    first = images[0]

    def named(text: str) -> str:
        """Puts the address in place of the temporary folder."""
        return text.replace(str(first), str(source)) if source else text

    def warn(text: str) -> None:
        _warn(named(text))

    scans = find_named(images, series=args.series, b_value=args.b_value, warn=warn)
    if len(images) == 1 and (first.is_dir() or is_directory_file(first)):
        listed = [f"{first}: {len(scans)} scan(s) to segment:", *list_scans(scans)]
        print(named("\n".join(listed)))
    outputs = Outputs(
        args.out, args.probability, args.overlay, args.lesions, args.one_segment, args.uncertainty,
        args.sr, args.kind == "rtstruct",
    )  # fmt: skip
    # Before the network is loaded, unless the run says which rows of a cohort go together.
    jobs = [] if is_cohort(images) else plan_jobs(with_condition(scans, args.condition), outputs)
    segmenter = _load(args)
    if is_cohort(images):
        channels = segmenter.config.data.channels
        scans = join_patients(first, scans, channels, warn) if channels else scans
        jobs = plan_jobs(with_condition(scans, args.condition), outputs)
    _check(args, segmenter, jobs, warn)
    liver = _restrict(args, segmenter, jobs)
    jobs = [replace(job, scan=own) for job, own in zip(jobs, liver.scans, strict=True)]
    check_places(jobs, outputs)  # once more, with the masks of --liver
    if args.resample_masks and not any(scan.liver for scan in liver.scans):
        warn("--resample-masks changes nothing: no mask of a liver is used")
    path = lesions_path(outputs, jobs)

    def broken_off(found: list[LesionRow], done: int) -> None:
        if done:
            write_lesions(path, found)
            print_stderr(f"broken off: {done} of {len(jobs)} scans are done, and listed in {path}")

    found, failed = predict_scans(
        segmenter, jobs, warn=warn, liver=liver.run, resample_masks=args.resample_masks,
        broken_off=broken_off,
    )  # fmt: skip
    if done := len(jobs) - len(failed):
        where = jobs[0].mask if len(jobs) == 1 else jobs[0].mask.parent
        write_lesions(path, found)
        print(f"{where}: {done} mask(s), {len(found)} lesion(s), listed in {path}")
        if isinstance(segmenter, EnsembleSegmenter):
            members = ensemble_path(jobs)
            write_whole(members, segmenter.record(liver.about))
            print(f"ensemble of {segmenter.networks}, whose members are in {members}")
        print(liver.about)
        print(f"computed by {segmenter.engine}")
    _print_failures(failed, len(jobs), named)
    return jobs, failed


def _load(args: argparse.Namespace) -> ScanSegmenter:
    """Returns the segmenter, and says what is to be known of it."""
    segmenter = load(
        args.run, tta=args.tta, threshold=args.threshold, min_lesion_mm3=args.min_lesion_mm3,
        liver=decided_by(args.liver), engine=args.engine,
        device=_find_device(args),
    )  # fmt: skip
    if args.uncertainty and not isinstance(segmenter, EnsembleSegmenter):
        raise ConfigError(
            f"--uncertainty: {segmenter.name} is one run, which can disagree with nobody; give "
            "several to --run, or leave the option out"
        )
    announce(segmenter)
    return segmenter


def _find_device(args: argparse.Namespace) -> "jax.Device | None":
    return predict.engine.xla.find_device(args.device) if args.device else None


def _restrict(
    args: argparse.Namespace, segmenter: ScanSegmenter, jobs: Sequence[Job]
) -> Restriction:
    """Decides which livers restrict the predictions; announces a run that segments them."""
    found = restrict(
        [job.scan for job in jobs], args.liver, segmenter, engine=args.engine,
        device=_find_device(args),
    )  # fmt: skip
    if found.run:
        announce(found.run.segmenter, f"the liver's run {found.run.run}", "livers")
    return found


def _check(
    args: argparse.Namespace,
    segmenter: ScanSegmenter,
    jobs: Sequence[Job],
    warn: Callable[[str], None],
) -> None:
    """Raises the errors that can be seen before the first scan is predicted; warns of doubts."""
    if args.stow is not None and (silent := [job for job in jobs if not _in_dicom(job)]):
        raise UserError(
            f"--stow: {silent[0].mask} is no DICOM, and an archive takes nothing else; end --out "
            "in .dcm, or add --sr"
        )
    for job in jobs:
        segmenter.windowed_as(job.scan.condition)
        segmenter.check_images(1 + len(job.scan.others))
    scans = [job.scan for job in jobs]
    for warning in unknown_conditions(scans, segmenter.config.data.conditions):
        warn(warning)
    if segmenter.config.data.channels:
        warn(MOTION)


def _warn(text: str) -> None:
    print_stderr(f"warning: {text}")


def _print_failures(
    failed: Sequence[tuple[Scan, str]], jobs: int, named: Callable[[str], str]
) -> None:
    """Prints a line for each scan that failed."""
    for scan, reason in failed:
        print_error(named(reason if str(scan.path) in reason else f"{scan.path}: {reason}"))
    if failed and jobs > 1:
        done = "; the others are done" * (len(failed) < jobs)
        print_stderr(f"{len(failed)} of {jobs} scans failed{done}")
