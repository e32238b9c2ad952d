"""Where the results of every scan go, and the list of lesions."""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.predict.scans import Scan, ending
from crlm_jax.system.files import write_whole
from crlm_jax.system.text import to_csv

_MAPS = (".nii.gz", ".nii", ".nrrd", ".mha")  # formats of a probability map
_MASKS = (*_MAPS, ".png", ".dcm")
_OWN = {"": ".dcm", ".mhd": ".mha", ".jpg": ".png", ".jpeg": ".png", ".bmp": ".png"}  # not written


LESION_COLUMNS = (
    "scan", "patient", "condition", "lesion", "volume_mm3", "diameter_mm", "slice",
    "centre_l_mm", "centre_p_mm", "centre_s_mm",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
    """A scan and where what is made of it goes; None: not wanted."""

    scan: Scan
    mask: Path
    probability: Path | None = None
    overlay: Path | None = None  # a folder
    one_segment: bool = False  # in a DICOM-SEG: all lesions together


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


def lesions_path(args: argparse.Namespace, jobs: list[Job]) -> Path:
    """Beside the masks: `lesions.csv` in their folder, or named after a single mask."""
    if args.lesions:
        return args.lesions
    first = jobs[0].mask
    if len(jobs) == 1:
        return first.with_name(first.name.removesuffix(ending(first)) + "_lesions.csv")
    return first.parent / "lesions.csv"


def write_lesions(path: Path, rows: list[dict]) -> None:
    """Writes the lesions from `predict_scans` as CSV, a row each."""
    write_whole(path, to_csv([LESION_COLUMNS, *(row.values() for row in rows)]))
