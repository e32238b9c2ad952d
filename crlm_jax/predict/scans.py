"""The scans that a path stands for: a file, a DICOM series, a folder of many, or a cohort file.

Also the arguments with which the commands describe a scan.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from crlm_jax.data.cohort import cases
from crlm_jax.imaging import volumes
from crlm_jax.imaging.conditions import CONDITION
from crlm_jax.imaging.dicom.files import find_series, is_dicom, is_directory_file, is_hidden
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.system.files import own_names

_PICTURES = (".jpg", ".jpeg", ".bmp")
_NAMED = 8  # files that a warning names
_READ = (*volumes.ENDINGS, *_PICTURES)


@dataclasses.dataclass(frozen=True)
class Scan:
    """An image to predict."""

    path: Path
    name: str  # fit for a file name, and unlike the names of the scans predicted with it
    patient: str = ""  # as the cohort file says; never read from the image
    condition: str | None = None  # None: not known
    series: str | None = None  # UID of the series to take out of a DICOM folder; None: the only one
    b_value: float | None = None  # s/mm²; None: 1000 where a DICOM series has several


def ending(path: Path) -> str:
    """Returns the ending of an image's name, such as `.nii.gz`; empty if it is not an image's."""
    return next((e for e in (*_READ, ".dcm") if path.name.lower().endswith(e)), "")


def find_scans(
    image: Path,
    *,
    series: str | None = None,
    b_value: float | None = None,
    warn: Callable[[str], object] = lambda text: None,
) -> list[Scan]:
    """Lists the scans that a path stands for.

    Args:
      image: an image file, a DICOM file or the folder of its series, a folder of images (NIfTI,
        NRRD, MetaImage, PNG; subfolders are not searched), a tree of DICOM series or its DICOMDIR,
        or a cohort file (`.csv`; columns patient, condition, image, and optionally b_value).
      series: UID of the one series to take.
      b_value: s/mm², for every DICOM diffusion series with several b-values.
      warn: called with one line about the files of a folder that look like images but are left out:
        hidden ones, and pictures where DICOM series lie below.

    Raises:
      VolumeError: the folder holds no image.
      CohortError: rows of the cohort file are wrong; the message lists them.
    """
    if image.name.lower().endswith(".csv"):
        doubts: list[str] = []
        rows = cases.read_images(image, doubts)
        for doubt in doubts:
            warn(doubt)
        found = [
            Scan(row.image, f"{row.patient}_{row.condition}", row.patient, row.condition, None,
                 b_value if row.b_value is None else row.b_value)
            for row in rows
        ]  # fmt: skip
    elif is_directory_file(image):
        found = _in_folder(image.parent, series, b_value, warn)
    elif not image.is_dir() or is_dicom(image):
        found = [Scan(image, _stem(image), series=series, b_value=b_value)]
    else:
        found = _in_folder(image, series, b_value, warn)
    names = own_names(scan.name or "scan" for scan in found)
    return [dataclasses.replace(scan, name=own) for scan, own in zip(found, names, strict=True)]


def _stem(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.name  # a folder may be given as "."
    return name[: len(name) - len(ending(path))]


def _in_folder(
    folder: Path, series: str | None, b_value: float | None, warn: Callable[[str], object]
) -> list[Scan]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and ending(file) in _READ)
    hidden = [file for file in files if is_hidden(file.name)]
    files = [file for file in files if file not in hidden]
    pictures = [file for file in files if ending(file) in (".png", *_PICTURES)]
    broken: list[Path] = []
    by_uid = find_series(folder, broken) if files == pictures else {}
    beside = pictures if by_uid or broken else []
    if hidden or beside:
        names = sorted(file.name for file in (*hidden, *beside))
        more = ", …" * (len(names) > _NAMED)
        warn(
            f"{folder}: left out {len(names)} file(s) that are no scans (hidden files, or pictures "
            f"beside DICOM series): {', '.join(names[:_NAMED])}{more}"
        )
    if files and not beside:
        return [Scan(file, _stem(file)) for file in files]
    # A broken file becomes a scan of its own, whose reading fails and is reported.
    found = [] if series else [Scan(file, _stem(file)) for file in broken]
    for uid, parts in sorted(by_uid.items(), key=lambda item: item[1][0]):
        if series in (None, uid):
            place = parts[0].parent
            name = "_".join(place.relative_to(folder).parts)
            found.append(Scan(place, name or uid, series=uid, b_value=b_value))
    if not found:
        what = f"DICOM series {series}" if series else "image"
        raise VolumeError(
            f"{folder}: there is no {what} in this folder; name an image ({', '.join(_READ)}), the "
            "folder of a DICOM series, or a cohort.csv"
        )
    return found


def add_scan_arguments(parser: argparse.ArgumentParser, scan: str) -> None:
    """Adds `--condition`, `--series` and `--b-value`.

    Args:
      parser: the command's.
      scan: "scan" or "scans", whichever the command takes.
    """
    add = parser.add_argument
    add("--condition", help=f"of the {scan}, such as ct or pre_dwi (default: that of the run)")
    add("--series", metavar="UID", help="the series to take out of a DICOM folder with several")
    add(
        "--b-value",
        type=float,
        metavar="B",
        help="s/mm², the images to take out of a DICOM diffusion series (default: 1000)",
    )


def check_condition(parser: argparse.ArgumentParser, condition: str | None) -> None:
    """Ends the program with a usage error if `--condition` is not a condition's name."""
    if condition and not CONDITION.fullmatch(condition):
        parser.error(f"--condition {condition!r}: lower-case letters, digits and _ only")
