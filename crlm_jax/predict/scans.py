"""The scans that a path stands for: a file, a DICOM series, a folder of many, or a cohort file.

Also the arguments with which the commands describe a scan.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from crlm_jax.data.cohort import cases
from crlm_jax.errors import UserError
from crlm_jax.imaging import volumes
from crlm_jax.imaging.conditions import CONDITION, is_ct
from crlm_jax.imaging.dicom.files import (
    choose_series,
    find_series,
    identify,
    is_dicom,
    is_directory_file,
    is_hidden,
    list_series,
    pick_series,
    series_facts,
)
from crlm_jax.imaging.dicom.listing import HOW_TO_CHOOSE
from crlm_jax.imaging.geometry import VolumeError
from crlm_jax.predict.beside import find_masks
from crlm_jax.system.files import own_names
from crlm_jax.system.text import listed

_PICTURES = (".jpg", ".jpeg", ".bmp")
_NAMED = 20  # files that a line names
_READ = (*volumes.ENDINGS, *_PICTURES)
# Of images that are not read.
_UNREAD = (
    ".hdr", ".img", ".mgz", ".mgh", ".mnc", ".gipl", ".vtk", ".vti", ".par", ".rec", ".npy", ".npz",
    ".h5", ".hdf5", ".mat", ".tif", ".tiff", ".gif", ".dcm.gz", ".nii.bz2", ".nii.xz", ".zip",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scan:
    """An image to predict."""

    path: Path
    name: str  # fit for a file name, and unlike the names of the scans predicted with it
    patient: str = ""  # as the cohort file says; never read from the image
    condition: str | None = None  # None: not known
    series: str | None = None  # UID of the series to take out of a DICOM folder; None: the only one
    b_value: float | None = None  # s/mm²; None: 1000 where a DICOM series has several
    liver: tuple[Path, ...] = ()  # the files of its liver's mask, as the cohort file says
    about: str = ""  # of a DICOM series in a folder: description, modality, plane, images
    others: tuple["Scan", ...] = ()  # of the same patient, that the network sees beside it
    kept: tuple[Path, ...] = ()  # what came with it and no result may replace: masks, cohort file

    def read(self) -> volumes.Volume:
        """Reads the image; raises VolumeError if that cannot be done."""
        return volumes.read_image(self.path, series=self.series, b_value=self.b_value)


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
      series: UID or pattern (`description=*T2*`) of the series to take. Below a folder all series
        that have it are taken.
      b_value: s/mm², for every diffusion series with several b-values, DICOM or NIfTI with `.bval`.
      warn: called with a line about each kind of file in a folder that is left out: hidden ones,
        masks, pictures beside DICOM series, DICOM that is no image, images that are not read.

    Raises:
      VolumeError: the folder holds no image, or no such series; then the message lists them.
      CohortError: rows of the cohort file are wrong; the message lists them.
    """
    if image.name.lower().endswith(".csv"):
        doubts: list[str] = []
        rows = cases.read_images(image, doubts)
        for doubt in doubts:
            warn(doubt)
        found = [
            Scan(row.image, f"{row.patient}_{row.condition}", row.patient, row.condition, series,
                 b_value if row.b_value is None else row.b_value, row.liver,
                 kept=(image, *row.unread))
            for row in rows
        ]  # fmt: skip
    elif is_directory_file(image):
        found = _in_folder(image.parent, series, b_value, warn)
    elif not image.is_dir():
        found = [Scan(image, _stem(image), series=series, b_value=b_value)]
    elif is_dicom(image):
        found = [_series_of(image, series, b_value, warn)]
    else:
        found = _in_folder(image, series, b_value, warn)
    names = own_names(scan.name or "scan" for scan in found)
    return [dataclasses.replace(scan, name=own) for scan, own in zip(found, names, strict=True)]


def _stem(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.name  # a folder may be given as "."
    return name[: len(name) - len(ending(path))]


def list_scans(scans: list[Scan]) -> list[str]:
    """Returns a line for each of the first scans of a folder, and one for the rest."""
    lines = [f"{scan.path}{f' ({scan.about})' * bool(scan.about)}" for scan in scans[:_NAMED]]
    return lines + [f"… {len(scans)} in all"] * (len(scans) > _NAMED)


_Warn = Callable[[str], object]


def _series_of(folder: Path, series: str | None, b_value: float | None, warn: _Warn) -> Scan:
    """Returns the one scan of a folder with DICOM files."""
    others: list[str] = []
    uid, files = choose_series(folder, series, others)
    _say(warn, folder, "DICOM object(s) that are no scans", others)
    _say(warn, folder, "hidden file(s)", [f.name for f in _images_in(folder) if is_hidden(f.name)])
    images = [f.name for f in _images_in(folder) if not is_hidden(f.name)]
    _say(warn, folder, "image(s) beside the DICOM files", images)
    _say(warn, folder, "folder(s) below, which may hold other series", _folders_below(folder))
    if any(path.is_dir() and not is_hidden(path.name) for path in folder.iterdir()):
        files = find_series(folder, []).get(uid, files)  # the series may go on below
        files = _of_one_folder(folder, {uid: files}, warn)[uid]
    about = str(series_facts(uid, files[:1], len(files)))
    return Scan(files[0].parent, _stem(folder), series=uid, b_value=b_value, about=about)


def _in_folder(folder: Path, series: str | None, b_value: float | None, warn: _Warn) -> list[Scan]:
    files = _images_in(folder)
    hidden = [file for file in files if is_hidden(file.name)]
    files = [file for file in files if file not in hidden]
    _say(warn, folder, "hidden file(s)", [file.name for file in hidden])
    unread = [f.name for f in sorted(folder.iterdir()) if f.name.lower().endswith(_UNREAD)]
    _say(warn, folder, "file(s) of a format that is not read", unread)
    pictures = [file for file in files if ending(file) in (".png", *_PICTURES)]
    broken: list[Path] = []
    others: list[str] = []
    by_uid = find_series(folder, broken, others) if files == pictures else {}
    beside = pictures if by_uid or broken else []
    _say(warn, folder, "picture(s) beside DICOM series", [file.name for file in beside])
    _say(warn, folder, "DICOM object(s) that are no scans", others)
    if files and not beside:
        return _of_images(folder, files, series, b_value, warn)
    # A broken file becomes a scan of its own, whose reading fails and is reported.
    found = [] if series else [Scan(file, _stem(file)) for file in broken]
    chosen = pick_series(folder, by_uid, series)
    whole = _of_one_folder(folder, {uid: by_uid[uid] for uid in chosen}, warn)
    for uid, parts in sorted(whole.items(), key=lambda item: item[1][0]):
        name = "_".join(parts[0].parent.relative_to(folder).parts)
        about = str(series_facts(uid, parts[:1], len(parts)))
        found.append(Scan(parts[0].parent, name or uid, series=uid, b_value=b_value, about=about))
    if not found and by_uid:
        raise VolumeError(
            f"{folder}: has no DICOM series {series}; {HOW_TO_CHOOSE}:\n{list_series(by_uid)}"
        )
    if not found:
        what = f"DICOM series {series}" if series else "image"
        raise VolumeError(
            f"{folder}: there is no {what} in this folder; name an image ({', '.join(_READ)}), the "
            "folder of a DICOM series, or a cohort.csv"
        )
    return found


def _of_one_folder(
    folder: Path, by_uid: Mapping[str, list[Path]], warn: _Warn
) -> dict[str, list[Path]]:
    """Returns, of each series, the files of the folder that holds it whole; tells of its copies.

    A series is read from one folder.

    Raises:
      VolumeError: of some series, no folder holds all images; the message names their folders.
    """
    whole: dict[str, list[Path]] = {}
    copies: list[str] = []
    split: list[str] = []
    for uid, files in by_uid.items():
        parents: dict[Path, list[Path]] = {}
        for file in files:
            parents.setdefault(file.parent, []).append(file)
        names = [str(parent.relative_to(folder)) for parent in parents]
        images = [frozenset(identify(file).instance or file for file in own)
                  for own in (parents.values() if len(parents) > 1 else ())]  # fmt: skip
        every = frozenset().union(*images)
        best = images.index(every) if every in images else 0
        whole[uid] = list(parents.values())[best]
        if images and images[best] != every:
            split.append(f"{uid} in {listed(names, 8)}")
        copies += [name for index, name in enumerate(names) if index != best]
    if split:
        raise VolumeError(
            f"{folder}: the images of {len(split)} series lie in several folders, of which none "
            "holds them all; put the files of a series into one folder, or give the folder that "
            f"is to be read: {'; '.join(split)}"
        )
    _say(warn, folder, "folder(s) with copies of a series", copies)
    return whole


def _of_images(
    folder: Path, files: list[Path], series: str | None, b_value: float | None, warn: _Warn
) -> list[Scan]:
    """Returns the scans among the images of a folder, which are not DICOM."""
    if series is not None:
        raise VolumeError(
            f"{folder}: its images are not DICOM, so it has no series to choose; leave --series out"
        )
    masks = find_masks(files, {file: _stem(file) for file in files})
    said = [f"{file.name} ({what})" for file, what in masks.items()]
    _say(warn, folder, "file(s) that are no scans by name and content", said, most=len(said))
    _say(warn, folder, "folder(s) below, whose images are not looked for", _folders_below(folder))
    if len(masks) == len(files):
        raise VolumeError(
            f"{folder}: all its images are masks by name and content; to segment one all the same, "
            "name it"
        )
    kept = tuple(masks)
    return [
        Scan(file, _stem(file), b_value=b_value, kept=kept) for file in files if file not in masks
    ]


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and ending(file) in _READ)


def _folders_below(folder: Path) -> list[str]:
    """Names the folders that hold a file which may be an image."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    return [path.name for path in below if _images_in(path) or is_dicom(path)]


def _say(warn: _Warn, folder: Path, what: str, names: list[str], most: int = _NAMED) -> None:
    """Tells which files are left out, if there are any."""
    if names:
        more = ", …" * (len(names) > most)
        warn(f"{folder}: left out {len(names)} {what}: {', '.join(names[:most])}{more}")


SERIES_HELP = (
    "the series to take out of a DICOM folder with several: its UID, or a pattern of description, "
    "modality, plane or number, such as 'description=*T2*,plane=axial'"
)


def add_scan_arguments(parser: argparse.ArgumentParser, scan: str) -> None:
    """Adds `--condition`, `--series` and `--b-value`.

    Args:
      parser: the command's.
      scan: "scan" or "scans", whichever the command takes.
    """
    add = parser.add_argument
    add("--condition", help=f"of the {scan}, such as ct or pre_dwi (default: that of the run)")
    add("--series", metavar="UID", help=SERIES_HELP)
    add(
        "--b-value",
        type=float,
        metavar="B",
        help="s/mm², the images to take out of a DICOM diffusion series (default: 1000)",
    )


def with_condition(scans: Sequence[Scan], condition: str | None) -> list[Scan]:
    """Returns the scans under the condition of `--condition`; None: as they are.

    Raises:
      UserError: a cohort file says another condition of a scan.
    """
    if condition is None:
        return [*scans]
    others = [scan for scan in scans if scan.condition not in (None, condition)]
    if others:
        raise UserError(
            f"--condition {condition}: the cohort file says {others[0].condition} of "
            f"{others[0].path}, and of {len(others)} of {len(scans)} scans another condition; "
            "leave the option out, or correct the column condition"
        )
    return [dataclasses.replace(scan, condition=condition) for scan in scans]


def unknown_conditions(scans: Iterable[Scan], trained: Sequence[str]) -> list[str]:
    """Returns a warning for each condition of the scans that a run was not trained on.

    A scan of the other modality is warned of when it is read.
    """
    asked = sorted({scan.condition for scan in scans if scan.condition})
    own = {is_ct(name) for name in trained}
    return [
        f"condition {name}: the run was trained on {', '.join(trained)}; see that the scans are of "
        "the same kind"
        for name in asked
        if name not in trained and is_ct(name) in own
    ]


def other_modality(condition: str, trained: Sequence[str], run: str = "the run") -> list[str]:
    """Returns a doubt if a scan is of another modality than those that a run was trained on.

    Args:
      condition: of the scan.
      trained: conditions of the run.
      run: what the run is called.
    """
    if is_ct(condition) in {is_ct(name) for name in trained}:
        return []
    return [f"is {condition}, but {run} was trained on {', '.join(trained)}"]


def check_condition(parser: argparse.ArgumentParser, condition: str | None) -> None:
    """Ends the program with a usage error if `--condition` is not a condition's name."""
    if condition and not CONDITION.fullmatch(condition):
        parser.error(f"--condition {condition!r}: lower-case letters, digits and _ only")
