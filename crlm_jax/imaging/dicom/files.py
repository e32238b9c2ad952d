"""Finds DICOM files and groups them into image series; reads headers only.

Messages name files and UIDs, never the patient data of a header.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.uid import UID

from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.imaging.headers import check_deflated

_LISTED = 20  # the most series that a message lists


class Identity(NamedTuple):
    """What a header says about its file; empty texts where it says nothing. Never for messages."""

    kind: str  # name of the SOP class, such as "CT Image Storage"
    series: str  # Series Instance UID
    modality: str  # DICOM's code, such as "CT"
    patient: str  # Patient ID
    instance: str  # SOP Instance UID


def is_dicom(path: Path) -> bool:
    """Whether this is a DICOM file (by its preamble or its ending .dcm), or a folder with one.

    Only files directly in the folder count. An absent path is not DICOM.
    """
    if path.is_dir():
        return any(_is_dicom_file(file) for file in path.iterdir())
    return _is_dicom_file(path)


def find_files(folder: Path) -> list[Path]:
    """Lists the DICOM files below a folder, sorted, at any depth and with any name.

    Hidden folders, and those that macOS adds to its archives, are left out.
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if _is_dicom_file(file) and not any(map(is_hidden, file.relative_to(folder).parts))
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's by its name, never a scan: `._a.nii`, `.git`."""
    return name.startswith(".") or name == "__MACOSX"


def is_directory_file(path: Path) -> bool:
    """Whether this is the DICOMDIR of a CD: a list of the series in the folders below."""
    return path.name.upper() == "DICOMDIR" and path.is_file()


def find_series(folder: Path, unreadable: list[Path] | None = None) -> dict[str, list[Path]]:
    """Finds the image series below a folder, at any depth and with any file names.

    Other objects than images (segmentations, reports, DICOMDIR) are left out.

    Args:
      folder: to look in.
      unreadable: receives the files that are cut off before their Series Instance UID, and the
        search goes on; None: the first such file is an error.

    Returns:
      The files of each Series Instance UID; both in the order of the sorted paths.

    Raises:
      VolumeError: a DICOM file is cut off that early, and `unreadable` is None.
    """
    found = _scan(find_files(folder), unreadable)
    return {uid: files for uid, (_, files) in found.items()}


def choose_series(path: Path, series: str | None) -> tuple[str, list[Path]]:
    """Returns the UID of the wanted series, and its files.

    Args:
      path: a folder, or a file of the series.
      series: Series Instance UID; None: the only series of the folder, or that of the file.

    Raises:
      VolumeError: the folder has no such series, or several; the message lists them.
    """
    folder = path
    if path.is_file():
        folder, series = path.parent, _series_of_file(path, series)
    elif not path.is_dir():
        raise VolumeError(f"{path}: file or folder not found; correct the path")
    files = sorted(file for file in folder.iterdir() if _is_dicom_file(file))
    if not files:
        raise VolumeError(f"{path}: no DICOM file in the folder; give the folder of the slices")
    found = _scan(files)
    if not found:
        raise VolumeError(
            f"{path}: no image among its {len(files)} DICOM files; give the folder of the slices"
        )
    listed = [f"{uid} ({mode}, {len(same)} images)" for uid, (mode, same) in sorted(found.items())]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    remedy = (
        "choose one with --series UID, or in a cohort give a file of the series: "
        f"{'; '.join(listed[:_LISTED])}{more}"
    )
    if series is None and len(found) > 1:
        raise VolumeError(f"{path}: holds {len(found)} series; {remedy}")
    if series is not None and series not in found:
        raise VolumeError(f"{path}: has no series {series}; {remedy}")
    uid = series or next(iter(found))
    return uid, found[uid][1]


def _series_of_file(path: Path, series: str | None) -> str:
    """Returns the UID of an image file's series; raises VolumeError if `series` is another."""
    if not _is_dicom_file(path):
        raise VolumeError(f"{path}: not a DICOM file; give a file or the folder of a series")
    file = identify(path)
    if "Image Storage" not in file.kind:
        raise VolumeError(f"{path}: holds no image ({file.kind}); give a file of the series")
    if series not in (None, file.series):
        raise VolumeError(
            f"{path}: belongs to series {file.series}, not {series}; give a file of that series, "
            f"or leave --series {series} out"
        )
    return file.series


def read_file(
    path: Path, *, stop_before_pixels: bool = False, tags: list[str] | None = None
) -> pydicom.FileDataset:
    """Reads a DICOM file: all of it, its header, or only the elements named by `tags`.

    Raises:
      VolumeError: the file is damaged, or deflated and too large.
    """
    with as_volume_error(path):
        check_deflated([path])
        # `force` also reads files without a preamble, as old exports are.
        return pydicom.dcmread(
            path, force=True, stop_before_pixels=stop_before_pixels, specific_tags=tags
        )


def identify(path: Path) -> Identity:
    """Reads which object, series and patient a file belongs to.

    Raises:
      VolumeError: the file is damaged, or cut off before its Series Instance UID.
    """
    tags = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "PatientID"]
    header = read_file(path, stop_before_pixels=True, tags=tags)
    with as_volume_error(path):
        sop = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")
        kind = UID(sop).name if sop else "Image Storage"
        series, modality, patient, instance = (
            str(header.get(word) or "").strip()
            for word in ("SeriesInstanceUID", "Modality", "PatientID", "SOPInstanceUID")
        )
        # A slice that is cut off before its UID, or within its class, is an error, not skipped.
        if not series and ("Image Storage" in kind or kind == sop):
            raise ValueError("no Series Instance UID")
        return Identity(kind, series, modality, patient, instance)


@contextlib.contextmanager
def as_volume_error(what: object) -> Iterator[None]:
    """Turns any error of pydicom, which damage causes, into a VolumeError that names the file."""
    try:
        yield
    except VolumeError:
        raise
    except Exception as error:
        raise VolumeError(
            f"{what}: not a DICOM file, or cut off or damaged; copy it again or remove it"
        ) from error


def _is_dicom_file(path: Path) -> bool:
    """Looks at the preamble. Hidden files and a DICOMDIR are no images."""
    if is_hidden(path.name) or not path.is_file() or is_directory_file(path):
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _scan(
    files: Iterable[Path], unreadable: list[Path] | None = None
) -> dict[str, tuple[str, list[Path]]]:
    """Groups image files by Series Instance UID; each has its modality and files."""
    found: dict[str, tuple[str, list[Path]]] = {}
    for path in files:
        try:
            file = identify(path)
        except VolumeError:
            if unreadable is None:
                raise
            unreadable.append(path)
            continue
        if "Image Storage" in file.kind:
            found.setdefault(file.series, (file.modality, []))[1].append(path)
    return found
