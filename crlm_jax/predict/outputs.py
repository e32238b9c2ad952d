"""Where the results of every scan go, and the list of lesions."""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.predict.scans import Scan, ending
from crlm_jax.runs.folder import RunFolder
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
    overlay: Path | None = None  # a folder, with or without {name}
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

    @property
    def format(self) -> str:
        """The ending of the mask in lower case, which decides the mask's format."""
        return ending(self.mask)


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
      VolumeError: the paths cannot hold the results, or hold what must not be lost.
      OSError: a folder cannot be written to.
    """
    jobs = [_plan(scan, len(scans), outputs) for scan in scans]
    check_places(jobs, outputs)
    folders = {path.parent for _, path in _results(jobs, outputs)}
    for folder in folders | {job.overlay for job in jobs if job.overlay}:
        _check_writable(folder)
    return jobs


def _plan(scan: Scan, scans: int, outputs: Outputs) -> Job:
    """Returns one of so many scans with its files."""
    own = ending(scan.path)
    own = _WRITTEN_AS.get(own, own)
    mask = _place(outputs.mask, scan, scans, own, _MASKS)
    if outputs.contours and ending(mask) != ".dcm":
        raise VolumeError(
            f"{mask}: an RTSTRUCT is a DICOM file; choose the ending .dcm, or leave out "
            "--as rtstruct"
        )
    suffix = own if own in _MAPS else ".nii.gz"
    probability, uncertainty = (
        path and _place(path, scan, scans, suffix, _MAPS)
        for path in (outputs.probability, outputs.uncertainty)
    )
    report = outputs.report and _place(outputs.report, scan, scans, _SR, (".dcm",))
    overlay = outputs.overlay and Path(str(outputs.overlay).replace("{name}", scan.name))
    return Job(
        scan, mask, probability, overlay, outputs.one_segment, uncertainty, report,
        outputs.contours,
    )  # fmt: skip


def check_places(jobs: Sequence[Job], outputs: Outputs) -> None:
    """Raises VolumeError if a result would replace an input, a run's file or another result."""
    inputs, written = _inputs(jobs), dict[Path, str]()
    results = _results(jobs, outputs)
    for option, path in results:
        place = path.resolve()
        # Never over any scan of the list, and never into the folder of a DICOM series.
        if what := inputs.get(place) or inputs.get(place.parent):
            raise VolumeError(f"{path}: {option} would write over {what}; name another place")
        if (other := written.setdefault(place, option)) != option:
            raise VolumeError(
                f"{path}: {other} and {option} would write the same file; name another place "
                "for one of them"
            )
    folders = {path.parent: option for option, path in reversed(results)}
    folders |= {job.overlay: "--overlay" for job in jobs if job.overlay}
    for folder, option in folders.items():
        if RunFolder(folder).begun:
            raise VolumeError(
                f"{folder}: {option} would write among the files of the run in this folder, which "
                "has a lesions.csv of its own; name another place, such as a folder in it"
            )
    for job in jobs:
        if job.overlay and (lost := _under_pictures(job.overlay, job.scan, inputs)):
            raise VolumeError(f"{lost}: --overlay would write over {inputs[lost]}; name another")
    if (path := lesions_path(outputs, jobs)).is_dir():
        raise VolumeError(f"{path}: --lesions is a folder; name a file, {path / 'lesions.csv'}")
    if "{name}" in str(outputs.lesions):
        raise VolumeError(f"{path}: --lesions is one list of all scans; leave {{name}} out")


def _inputs(jobs: Sequence[Job]) -> dict[Path, str]:
    """Returns what must not be lost, each with what a message calls the file or folder."""
    scans = [each for job in jobs for each in (job.scan, *job.scan.others)]
    found = {
        path.resolve(): "the cohort file"
        if path.suffix.lower() == ".csv"
        else "what came with the scans, a mask or an earlier result"
        for path in {path for scan in scans for path in scan.kept}
    }
    livers = {path for scan in scans for path in scan.liver}
    found |= {path.resolve(): "the mask of a liver" for path in livers}
    return found | {scan.path.resolve(): "the scan" for scan in scans}


def _results(jobs: Sequence[Job], outputs: Outputs) -> list[tuple[str, Path]]:
    """Returns all files to write but pictures, each with the option that says where."""
    listed = "--lesions" if outputs.lesions else "--out, with its list of lesions,"
    return [
        (option, path)
        for job in jobs
        for option, path in (
            ("--out", job.mask), ("--probability", job.probability),
            ("--uncertainty", job.uncertainty), ("--sr", job.report),
        )
        if path
    ] + [(listed, lesions_path(outputs, jobs)), ("--out", ensemble_path(jobs))]  # fmt: skip


def _under_pictures(folder: Path, scan: Scan, inputs: Mapping[Path, str]) -> Path | None:
    """Returns an input that has the name of a picture of a scan in a folder; None: none has."""
    folder = folder.resolve()
    ours = picture_names(scan)
    return next((p for p in inputs if p.parent == folder and ours.fullmatch(p.name)), None)


def picture_names(scan: Scan) -> re.Pattern[str]:
    """Returns the pattern of the names of a scan's pictures."""
    return re.compile(rf"{re.escape(scan.name)}_z\d{{3,}}\.png")


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
