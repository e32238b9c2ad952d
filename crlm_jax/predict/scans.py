"""The scans to predict: a file, a DICOM series, a folder of many, or a cohort file."""

import argparse
import dataclasses
from pathlib import Path

from crlm_jax.data.cohort import cases
from crlm_jax.imaging import volumes
from crlm_jax.imaging.conditions import CONDITION
from crlm_jax.imaging.dicom.files import find_series, is_dicom
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.system.files import own_names

_PICTURES = (".jpg", ".jpeg", ".bmp")
_READ = (*volumes.ENDINGS, *_PICTURES)


@dataclasses.dataclass(frozen=True)
class Scan:
    """An image to predict; `name` is its own among those predicted together, and fit for a file."""

    path: Path
    name: str
    patient: str = ""  # as the cohort file says; never read from the image
    condition: str | None = None  # None: the file does not say
    series: str | None = None  # UID of the one to take out of a DICOM folder
    b_value: float | None = None  # s/mm²; None: 1000 where a DICOM series has several


def ending(path: Path) -> str:
    """The ending of an image's file name, such as `.nii.gz`; empty for a folder or another one."""
    return next((e for e in (*_READ, ".dcm") if path.name.lower().endswith(e)), "")


def find_scans(
    image: Path, *, series: str | None = None, b_value: float | None = None
) -> list[Scan]:
    """Lists the scans that a path stands for.

    Args:
      image: an image file, a DICOM file or the folder of its series, a folder of images (NIfTI,
        NRRD, MetaImage, PNG; not those of the folders below) or a tree of DICOM series, or a
        cohort file (`.csv`; columns patient, condition, image, and b_value if need be).
      series: UID of the one series to take.
      b_value: s/mm², for every DICOM diffusion series with several b-values.

    Raises:
      VolumeError: there is no image in it.
      CohortError: listing the wrong rows of the cohort file.
    """
    if image.name.lower().endswith(".csv"):
        rows = cases.read_images(image)
        found = [
            Scan(row.image, f"{row.patient}_{row.condition}", row.patient, row.condition, None,
                 b_value if row.b_value is None else row.b_value)
            for row in rows
        ]  # fmt: skip
    elif not image.is_dir() or is_dicom(image):
        found = [Scan(image, _stem(image), series=series, b_value=b_value)]
    else:
        found = _in_folder(image, series, b_value)
    names = own_names(scan.name or "scan" for scan in found)
    return [dataclasses.replace(scan, name=own) for scan, own in zip(found, names, strict=True)]


def _stem(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.name  # a folder may be given as "."
    return name[: len(name) - len(ending(path))]


def _in_folder(folder: Path, series: str | None, b_value: float | None) -> list[Scan]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and ending(file) in _READ)
    if files:
        return [Scan(file, _stem(file)) for file in files]
    broken: list[Path] = []
    by_uid = find_series(folder, broken)
    found = [] if series else [Scan(file, _stem(file)) for file in broken]  # to be reported
    for uid, parts in sorted(by_uid.items(), key=lambda item: item[1][0]):
        if series in (None, uid):
            place = parts[0].parent
            name = "_".join(place.relative_to(folder).parts)
            found.append(Scan(place, name or uid, series=uid, b_value=b_value))
    if not found:
        what = f"no DICOM series {series}" if series else "no image"
        raise VolumeError(
            f"{folder}: there is {what} in this folder; name an image ({', '.join(_READ)}), the "
            "folder of a DICOM series, or a cohort.csv"
        )
    return found


def add_scan(parser: argparse.ArgumentParser, scan: str, b_value: str) -> None:
    """Adds `--condition`, `--series` and `--b-value`.

    Args:
      parser: to add them to.
      scan: "scan" or "scans", as the command takes one or many.
      b_value: help of `--b-value`.
    """
    add = parser.add_argument
    add("--condition", help=f"of the {scan}, such as ct or pre_dwi (default: that of the run)")
    add("--series", metavar="UID", help="the series to take out of a DICOM folder with several")
    add("--b-value", type=float, metavar="B", help=b_value)


def check_condition(parser: argparse.ArgumentParser, condition: str | None) -> None:
    """Ends the program with the parser's error where `--condition` cannot be one."""
    if condition and not CONDITION.fullmatch(condition):
        parser.error(f"--condition {condition!r}: lower-case letters, digits and _ only")
