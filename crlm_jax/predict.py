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
import sys
import tempfile
from pathlib import Path

import jax

from crlm_jax import parallel
from crlm_jax.checkpoint import CheckpointError
from crlm_jax.commands import add_scan, check_condition, local_path, printable, tell
from crlm_jax.config import ConfigError, Data
from crlm_jax.data.cohort import CohortError
from crlm_jax.data.geometry import VolumeError
from crlm_jax.data.scans import Scan, ending, find_scans
from crlm_jax.predict_scans import Job, predict_scans, write_lesions
from crlm_jax.segmenter import load

_MAPS = (".nii.gz", ".nii", ".nrrd", ".mha")  # formats of a probability map
_MASKS = (*_MAPS, ".png", ".dcm")
_OWN = {"": ".dcm", ".mhd": ".mha", ".jpg": ".png", ".jpeg": ".png", ".bmp": ".png"}  # not written


def plan(scans: list[Scan], args: argparse.Namespace) -> list[Job]:
    """Says where the results of every scan go, and makes the folders.

    A path with `{name}` is filled in for each scan. Otherwise one scan may name the file itself;
    any other path is a folder, which gets a file a scan, in the scan's own format.

    Raises:
      VolumeError: the paths cannot hold the results.
    """
    jobs = []
    inputs = {scan.path.resolve() for scan in scans}
    for scan in scans:
        own = ending(scan.path)
        own = _OWN.get(own, own)
        mask = _place(args.out, scan, len(scans), own, _MASKS)
        probability = None
        if args.probability:
            suffix = own if own in _MAPS else ".nii.gz"
            probability = _place(args.probability, scan, len(scans), suffix, _MAPS)
        for option, path in (("--out", mask), ("--probability", probability)):
            # Not over a scan that comes later either; a series' folder would hold one image more.
            if path and inputs & {path.resolve(), path.resolve().parent}:
                raise VolumeError(f"{path}: {option} would write over the scan; name another place")
        jobs.append(Job(scan, mask, probability, args.overlay, args.one_segment))
    for folder in {path.parent for job in jobs for path in (job.mask, job.probability) if path} | (
        {args.overlay} if args.overlay else set()
    ):
        _make_writable(folder)
    return jobs


def _place(path: Path, scan: Scan, scans: int, suffix: str, allowed: tuple[str, ...]) -> Path:
    named = "{name}" in str(path)
    if named:
        path = Path(str(path).replace("{name}", scan.name))
    is_file = not path.is_dir() and (named or ending(path) or path.suffix)
    if not is_file:
        return path / f"{scan.name}{suffix}"
    if not named and scans > 1:
        raise VolumeError(
            f"{path}: one file for {scans} scans; give a folder, or a path with {{name}}"
        )
    if ending(path) not in allowed:
        raise VolumeError(f"{path}: choose one of the endings {', '.join(allowed)}")
    return path


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: no file can be written in this folder ({error.strerror}); choose another, "
            "or have its permissions changed"
        ) from error


def _lesions_path(args: argparse.Namespace, jobs: list[Job]) -> Path:
    """Beside the masks: `lesions.csv` in their folder, or named after a single mask."""
    if args.lesions:
        return args.lesions
    first = jobs[0].mask
    if len(jobs) == 1:
        return first.with_name(first.name.removesuffix(ending(first)) + "_lesions.csv")
    return first.parent / "lesions.csv"


def find_device(name: str) -> jax.Device:
    """Returns a device by kind and number, such as `cpu`, `gpu` or `gpu:1`."""
    kind, _, number = name.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        there = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise ValueError(f"--device {name}: there is none; there is {there}") from error


def _arguments(argv: list[str] | None) -> argparse.Namespace:
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
        tell("warning: PHANTOM: the run was trained on digital images; its masks are no finding")
    found, failed = predict_scans(segmenter, jobs, warn=lambda text: tell(f"warning: {text}"))
    done = len(jobs) - len(failed)
    if done:
        path = _lesions_path(args, jobs)
        write_lesions(path, found)
        where = jobs[0].mask if len(jobs) == 1 else jobs[0].mask.parent
        print(f"{where}: {done} mask(s), {len(found)} lesion(s), listed in {path}")
    for scan, reason in failed:
        tell(f"error: {reason}" if str(scan.path) in reason else f"error: {scan.path}: {reason}")
    if failed and len(jobs) > 1:
        tell(f"{len(failed)} of {len(jobs)} scans failed; the others are done")
    return len(failed)


def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 1 where a scan failed."""
    args = _arguments(argv)
    try:
        sys.exit(1 if run(args) else 0)
    except (ConfigError, CohortError, VolumeError, CheckpointError, OSError, ValueError) as error:
        sys.exit(f"error: {printable(str(error))}")


if __name__ == "__main__":
    main()
