"""Where the results of every scan go, and the list of lesions."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.predict.scans import Scan, ending
from crlm_jax.system.files import make_writable, write_whole
from crlm_jax.system.text import to_csv

_MAPS = (".nii.gz", ".nii", ".nrrd", ".mha")  # formats of a probability map
_MASKS = (*_MAPS, ".png", ".dcm")
_SR = "_sr.dcm"  # of a report in a folder, where a mask may be NAME.dcm
# The format of a mask whose scan has a format that is read but not written.
_WRITTEN_AS = {"": ".dcm", ".mhd": ".mha", ".jpg": ".png", ".jpeg": ".png", ".bmp": ".png"}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What is to be written of the scans; None: not wanted, or at its default place.

    A path with `{name}` is filled in for each scan.
    """

    mask: Path  # a file, or a folder
    probability: Path | None = None  # a file, or a folder
    overlay: Path | None = None  # a folder
    lesions: Path | None = None  # None: beside the masks
    one_segment: bool = False  # in a DICOM-SEG: all lesions together
    uncertainty: Path | None = None  # a file, or a folder
    report: Path | None = None  # a file, or a folder
    contours: bool = False  # a mask in DICOM is an RTSTRUCT, not a DICOM-SEG


@dataclasses.dataclass(frozen=True)
class Job:
    """A scan, and the files to write of it; None: not wanted."""

    scan: Scan
    mask: Path
    probability: Path | None = None
    overlay: Path | None = None  # a folder
    one_segment: bool = False  # in a DICOM-SEG: all lesions together
    uncertainty: Path | None = None
    report: Path | None = None  # DICOM SR
    contours: bool = False  # a mask in DICOM is an RTSTRUCT, not a DICOM-SEG
    when: datetime.datetime | None = None  # that DICOM carries; None: when it is written


@dataclasses.dataclass(frozen=True)
class LesionRow:
    """A predicted lesion; the fields are the columns of the list of lesions."""

    scan: str  # its name
    patient: str
    condition: str
    lesion: int  # number in the scan, from 1
    volume_mm3: float
    diameter_mm: float
    slice: int  # the axial slice in which the lesion is longest, from 0 at the feet
    centre_l_mm: float
    centre_p_mm: float
    centre_s_mm: float


LESION_COLUMNS = tuple(field.name for field in dataclasses.fields(LesionRow))


def plan_jobs(scans: Sequence[Scan], outputs: Outputs) -> list[Job]:
    """Decides where the results of every scan go, and makes the folders.

    A single scan may name its file. Otherwise a path without `{name}` is a folder, which gets a
    file for each scan, in the scan's own format.

    Raises:
      VolumeError: the paths cannot hold the results.
      OSError: a folder cannot be written to.
    """
    jobs = []
    inputs = {each.path.resolve() for scan in scans for each in (scan, *scan.others)}
    written: dict[Path, str] = {}
    for scan in scans:
        own = ending(scan.path)
        own = _WRITTEN_AS.get(own, own)
        mask = _place(outputs.mask, scan, len(scans), own, _MASKS)
        if outputs.contours and mask.suffix != ".dcm":
            raise VolumeError(
                f"{mask}: an RTSTRUCT is a DICOM file; choose the ending .dcm, or leave out "
                "--as rtstruct"
            )
        suffix = own if own in _MAPS else ".nii.gz"
        probability, uncertainty = (
            path and _place(path, scan, len(scans), suffix, _MAPS)
            for path in (outputs.probability, outputs.uncertainty)
        )
        report = outputs.report and _place(outputs.report, scan, len(scans), _SR, (".dcm",))
        for option, path in (
            ("--out", mask), ("--probability", probability), ("--uncertainty", uncertainty),
            ("--sr", report),
        ):  # fmt: skip
            # Never over any scan of the list, and never into the folder of a DICOM series.
            if path and inputs & {path.resolve(), path.resolve().parent}:
                raise VolumeError(f"{path}: {option} would write over the scan; name another place")
            if path and (other := written.setdefault(path.resolve(), option)) != option:
                raise VolumeError(
                    f"{path}: {other} and {option} would write the same file; name another place "
                    "for one of them"
                )
        jobs.append(
            Job(scan, mask, probability, outputs.overlay, outputs.one_segment, uncertainty,
                report, outputs.contours)
        )  # fmt: skip
    folders = {
        path.parent
        for job in jobs
        for path in (job.mask, job.probability, job.uncertainty, job.report)
        if path
    }
    for folder in folders | ({outputs.overlay} if outputs.overlay else set()):
        _check_writable(folder)
    return jobs


def _place(path: Path, scan: Scan, scans: int, suffix: str, allowed: tuple[str, ...]) -> Path:
    """Returns the file for one of so many scans under a path that the user gave."""
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


def _check_writable(folder: Path) -> None:
    try:
        make_writable(folder)
    except OSError as error:
        raise OSError(
            f"{folder}: no file can be written in this folder ({error.strerror}); choose another, "
            "or have its permissions changed"
        ) from error


def lesions_path(outputs: Outputs, jobs: Sequence[Job]) -> Path:
    """Returns where the list of lesions goes.

    By default that is `lesions.csv` in the folder of the masks, or a file named after a single
    mask.
    """
    return outputs.lesions or _beside(jobs, "lesions.csv")


def ensemble_path(jobs: Sequence[Job]) -> Path:
    """Returns where the members of an ensemble are written down: as the list of lesions."""
    return _beside(jobs, "ensemble.json")


def _beside(jobs: Sequence[Job], name: str) -> Path:
    first = jobs[0].mask
    if len(jobs) == 1:
        return first.with_name(f"{first.name.removesuffix(ending(first))}_{name}")
    return first.parent / name


def write_lesions(path: Path, rows: Sequence[LesionRow]) -> None:
    """Writes lesions as CSV, a row each; volumes, lengths and places to one decimal."""
    cells = ([_cell(value) for value in dataclasses.astuple(row)] for row in rows)
    write_whole(path, to_csv([LESION_COLUMNS, *cells]))


def _cell(value: str | int | float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
