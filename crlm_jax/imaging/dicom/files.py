"""DICOM files and the image series that they make up; headers only.

Messages name files and UIDs, never what a header says of the patient.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.uid import UID

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.headers import check_deflated

_LISTED = 20  # series that a message lists


class Identity(NamedTuple):
    """What a file says it is; a text is empty where it does not say. Not for messages."""

    kind: str  # name of its SOP class, such as "CT Image Storage"
    series: str  # Series Instance UID
    modality: str  # DICOM's code, as "CT"
    patient: str  # Patient ID
    instance: str  # SOP Instance UID


def is_dicom(path: Path) -> bool:
    """Is this a DICOM file (by its preamble or its ending .dcm), or a folder that holds one?

    A folder counts by the files that lie directly in it. An absent path is not DICOM.
    """
    path = Path(path)
    if path.is_dir():
        return any(_is_dicom_file(file) for file in path.iterdir())
    return _is_dicom_file(path)


def find_files(folder: Path) -> list[Path]:
    """Lists the DICOM files below a folder, however deep and whatever they are called, sorted."""
    return sorted(file for file in Path(folder).rglob("*") if _is_dicom_file(file))


def find_series(folder: Path, unreadable: list[Path] | None = None) -> dict[str, list[Path]]:
    """Finds the image series below a folder, however deep and whatever the files are called.

    Returns the files of each Series Instance UID; both in the order of the sorted paths. Objects
    that are no images (segmentations, reports, DICOMDIR) are left out. Reads headers only.

    Args:
      folder: to look in.
      unreadable: takes up the files that are cut off before they say what series they belong to,
        and the search goes on; None: the first such file is an error.

    Raises:
      VolumeError: a DICOM file is cut off so early, and no list was given for it.
    """
    found = _scan(find_files(folder), unreadable)
    return {uid: files for uid, (_, files) in found.items()}


def choose_series(path: Path, series: str | None) -> tuple[str, list[Path]]:
    """Returns the UID of the one series that is meant, and its files.

    Args:
      path: a folder, or a file of the series.
      series: Series Instance UID; None: the only one there is, or that of the file.

    Raises:
      VolumeError: there is no such series, or several; they are listed.
    """
    folder = path
    if path.is_file():
        if not _is_dicom_file(path):
            raise VolumeError(f"{path}: not a DICOM file; name a file or the folder of a series")
        folder = path.parent
        kind, uid, *_ = identify(path)
        if "Image Storage" not in kind:
            raise VolumeError(f"{path}: holds no image ({kind}); name a file of the series")
        if series not in (None, uid):
            raise VolumeError(
                f"{path}: belongs to series {uid}, not {series}; name a file of that series, or "
                f"leave --series {series} out"
            )
        series = uid
    elif not path.is_dir():
        raise VolumeError(f"{path}: file or folder not found; correct the path")
    files = sorted(file for file in folder.iterdir() if _is_dicom_file(file))
    if not files:
        raise VolumeError(
            f"{path}: no DICOM file in the folder; name the one that holds the slices"
        )
    found = _scan(files)
    if not found:
        raise VolumeError(
            f"{path}: no image among its {len(files)} DICOM files; name the folder that holds the "
            "slices"
        )
    listed = [f"{uid} ({kind}, {len(same)} images)" for uid, (kind, same) in sorted(found.items())]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    remedy = (
        "choose one with --series UID, or in a cohort name a file of it: "
        f"{'; '.join(listed[:_LISTED])}{more}"
    )
    if series is None and len(found) > 1:
        raise VolumeError(f"{path}: holds {len(found)} series; {remedy}")
    if series is not None and series not in found:
        raise VolumeError(f"{path}: has no series {series}; {remedy}")
    uid = series or next(iter(found))
    return uid, found[uid][1]


def read_file(path: Path, **options: object) -> pydicom.FileDataset:
    """Reads a file; `options` are those of `pydicom.dcmread`.

    Raises:
      VolumeError: it is damaged, or deflated and would fill the memory.
    """
    with as_volume_error(path):
        check_deflated([path])
        # Without `force`, files that begin with the data themselves, as old exports do, are lost.
        return pydicom.dcmread(path, force=True, **options)


def identify(path: Path) -> Identity:
    """Reads what a file is and whose.

    Raises:
      VolumeError: it is cut off before it says what series it belongs to.
    """
    tags = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "PatientID"]
    header = read_file(path, stop_before_pixels=True, specific_tags=tags)
    with as_volume_error(path):
        sop = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")
        kind = UID(sop).name if sop else "Image Storage"
        series, modality, patient, instance = (
            str(header.get(word) or "").strip()
            for word in ("SeriesInstanceUID", "Modality", "PatientID", "SOPInstanceUID")
        )
        # A slice that is cut off so early, even within its class, must not go unnoticed.
        if not series and ("Image Storage" in kind or kind == sop):
            raise ValueError("no Series Instance UID")
        return Identity(kind, series, modality, patient, instance)


@contextlib.contextmanager
def as_volume_error(what: object) -> Iterator[None]:
    """Turns what damage leads to, in pydicom any error at all, into one that names the file."""
    try:
        yield
    except VolumeError:
        raise
    except Exception as error:
        raise VolumeError(
            f"{what}: not a DICOM file, or cut off or damaged; copy it again or take it away"
        ) from error


def _is_dicom_file(path: Path) -> bool:
    """Looks at the preamble; a name that begins with a dot is the system's, not an image."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _scan(
    files: Iterable[Path], unreadable: list[Path] | None = None
) -> dict[str, tuple[str, list[Path]]]:
    """Groups image files: series UID to modality and files."""
    found: dict[str, tuple[str, list[Path]]] = {}
    for file in files:
        try:
            kind, uid, modality, *_ = identify(file)
        except VolumeError:
            if unreadable is None:
                raise
            unreadable.append(file)
            continue
        if "Image Storage" in kind:
            found.setdefault(uid, (modality, []))[1].append(file)
    return found
