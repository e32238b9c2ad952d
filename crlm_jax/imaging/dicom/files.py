"""Finds DICOM files and groups them into image series; reads headers only.

Messages name files and UIDs, never the patient data of a header.
"""

import collections
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.uid import UID

from crlm_jax.imaging.dicom import listing
from crlm_jax.imaging.dicom.cut import check_no_cut_slice, like_slices
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
    placed: bool = True  # says where in the patient it lies


def is_dicom(path: Path) -> bool:
    """Whether this is a DICOM file, or a folder with one.

    A file is DICOM by its preamble, its ending .dcm, or its first elements, as old exports have no
    preamble. Only files directly in the folder count. An absent path is not DICOM.
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


def find_series(
    folder: Path, unreadable: list[Path] | None = None, left_out: list[str] | None = None
) -> dict[str, list[Path]]:
    """Finds the image series below a folder, at any depth and with any file names.

    Other objects than images (segmentations, reports, DICOMDIR) are left out, and so are pictures
    of the screen (Secondary Capture) that are single or do not say where they lie.

    Args:
      folder: to look in.
      unreadable: receives the files that are cut off before their Series Instance UID, and the
        search goes on; None: the first such file is an error. A file that is named like DICOM
        files beside it, but is none, counts as one.
      left_out: receives how many DICOM files of each other kind there are, such as
        "Segmentation (2)".

    Returns:
      The files of each Series Instance UID; both in the order of the sorted paths.

    Raises:
      VolumeError: a DICOM file is cut off that early, and `unreadable` is None.
    """
    files = find_files(folder)
    others = [file for parent in {file.parent for file in files} for file in beside(parent, files)]
    if unreadable is None:
        check_no_cut_slice(others, files)
    else:
        unreadable += sorted(like_slices(others, files))
    return _scan(files, unreadable, left_out)


def beside(folder: Path, dicom: Sequence[Path]) -> list[Path]:
    """Lists the files directly in a folder that are not among its DICOM files, nor the system's."""
    known = set(dicom)
    return sorted(
        file
        for file in folder.iterdir()
        if file not in known
        and not is_hidden(file.name)
        and not is_directory_file(file)
        and file.is_file()
    )


def choose_series(
    path: Path, series: str | None, left_out: list[str] | None = None
) -> tuple[str, list[Path]]:
    """Returns the UID of the wanted series, and its files.

    Args:
      path: a folder, or a file of the series.
      series: Series Instance UID, or a pattern of `listing` that one series has, such as
        `description=*T2*`; None: the only series of the folder, or that of the file.
      left_out: as for `find_series`.

    Raises:
      VolumeError: the folder has no such series, or several; the message lists them, a line each.
        Or a file in it is named like its DICOM files, but is none.
    """
    folder = path
    if path.is_file():
        folder, series = path.parent, _series_of_file(path, series)
    elif not path.is_dir():
        raise VolumeError(f"{path}: file or folder not found; correct the path")
    files = sorted(file for file in folder.iterdir() if _is_dicom_file(file))
    if not files:
        raise VolumeError(f"{path}: no DICOM file in the folder; give the folder of the slices")
    check_no_cut_slice(beside(folder, files), files)
    others: list[str] = []
    found = _scan(files, None, others)
    if left_out is not None:
        left_out += others
    if not found:
        kinds = f" ({', '.join(others)})" if others else ""
        remedy = "give the folder of the slices"
        if any(map(_is_picture, others)):
            remedy += "; a Secondary Capture does not say where it lies: convert it to NIfTI"
        raise VolumeError(f"{path}: no image among its {len(files)} DICOM files{kinds}; {remedy}")
    chosen = pick_series(path, found, series)
    if len(chosen) != 1:
        several = f"{len(chosen)} series {series}" if series else f"{len(found)} series"
        wrong = f"holds {several}" if chosen else f"has no series {series}"
        raise VolumeError(f"{path}: {wrong}; {listing.HOW_TO_CHOOSE}:\n{list_series(found)}")
    return chosen[0], found[chosen[0]]


def pick_series(path: Path, found: Mapping[str, list[Path]], series: str | None) -> list[str]:
    """Returns the UIDs of the series that a UID or a pattern means; None: all of them.

    Args:
      path: for messages.
      found: the files of each series.
      series: as for `choose_series`.

    Raises:
      VolumeError: the pattern is none.
    """
    if series in found or not listing.is_pattern(series):
        return [uid for uid in found if series in (None, uid)]
    try:
        wanted = listing.parse_pattern(series or "")
    except ValueError as error:
        raise VolumeError(f"{path}: {error}") from error
    return listing.choose((series_facts(uid, found[uid][:1], 1) for uid in found), wanted)


def list_series(found: Mapping[str, Sequence[Path]]) -> str:
    """Lists series for a message, a line each: what they show, and their UIDs."""
    lines = [
        f"{uid}: {series_facts(uid, files, len(files))}"
        for uid, files in sorted(found.items())[:_LISTED]
    ]
    return "\n".join(lines + [f"and {len(found) - _LISTED} more"] * (len(found) > _LISTED))


def series_facts(uid: str, files: Sequence[Path], images: int) -> listing.SeriesFacts:
    """Returns what tells a series of so many images apart, by all or the first of its files.

    Raises:
      VolumeError: a file is damaged.
    """
    headers = [read_file(file, stop_before_pixels=True) for file in files]
    return listing.find_facts(uid, headers, images)


def _series_of_file(path: Path, series: str | None) -> str:
    """Returns the UID of an image file's series; raises VolumeError if `series` is another."""
    if not _is_dicom_file(path):
        raise VolumeError(f"{path}: not a DICOM file; give a file or the folder of a series")
    file = identify(path)
    if "Image Storage" not in file.kind:
        raise VolumeError(f"{path}: holds no image ({file.kind}); give a file of the series")
    if listing.is_pattern(series):
        if pick_series(path, {file.series: [path]}, series):
            return file.series
        facts = series_facts(file.series, [path], 1)
        raise VolumeError(f"{path}: its series is not {series}, but {facts}; leave --series out")
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
    tags.append("ImagePositionPatient")
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
        placed = bool(header.get("ImagePositionPatient"))
        if not placed and _is_picture(kind) and _MULTI_FRAME in kind:
            groups = read_file(path, stop_before_pixels=True, tags=[_PER_FRAME])
            placed = bool(groups.get(_PER_FRAME))
        return Identity(kind, series, modality, patient, instance, placed)


_PER_FRAME, _MULTI_FRAME = "PerFrameFunctionalGroupsSequence", "Multi-frame"


def _is_picture(kind: str) -> bool:
    return "Secondary Capture" in kind


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
    """Looks at the preamble, or the first elements. Hidden files and a DICOMDIR are no images."""
    if is_hidden(path.name) or not path.is_file() or is_directory_file(path):
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or (_begins_as_dicom(head) and _has_dicom_class(path))


def _begins_as_dicom(head: bytes) -> bool:
    """Whether a file without preamble may begin with an element of DICOM, as no text does.

    The first element is of the file's meta header (0002) or of the identifying group (0008), in
    little endian, and its length is plausible.
    """
    group, element = (int.from_bytes(head[at : at + 2], "little") for at in (0, 2))
    if len(head) < 8 or group not in (0x0002, 0x0008) or element > 0x0070:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    length = int.from_bytes(head[6:8] if explicit else head[4:8], "little")
    return length <= 1024


def _has_dicom_class(path: Path) -> bool:
    """Whether a file, read as DICOM, is an object of DICOM by its SOP Class UID."""
    with contextlib.suppress(VolumeError):
        header = read_file(path, stop_before_pixels=True, tags=["SOPClassUID"])
        with as_volume_error(path):
            return str(header.get("SOPClassUID") or "").startswith("1.2.840.10008.5.1.4.")
    return False


def _scan(
    files: Iterable[Path], unreadable: list[Path] | None = None, left_out: list[str] | None = None
) -> dict[str, list[Path]]:
    """Groups image files by Series Instance UID; see `find_series`."""
    found: dict[str, list[Path]] = {}
    pictures: dict[str, list[Path]] = {}  # of the screen, by series
    unplaced: set[str] = set()
    stacks: set[str] = set()  # series of several frames a file
    others: collections.Counter[str] = collections.Counter()
    for path in files:
        try:
            file = identify(path)
        except VolumeError:
            if unreadable is None:
                raise
            unreadable.append(path)
            continue
        if "Image Storage" not in file.kind:
            others[file.kind.removesuffix(" Storage")] += 1
            continue
        found.setdefault(file.series, []).append(path)
        if _is_picture(file.kind):
            pictures.setdefault(file.series, []).append(path)
            unplaced |= set() if file.placed else {file.series}
            stacks |= {file.series} if _MULTI_FRAME in file.kind else set()
    for uid, shots in pictures.items():
        alone = len(shots) == 1 and uid not in stacks
        if len(found[uid]) == len(shots) and (uid in unplaced or alone):
            del found[uid]
            others["Secondary Capture"] += len(shots)
    if left_out is not None:
        left_out += [f"{kind} ({count})" for kind, count in sorted(others.items())]
    return found
