"""TCIA's CT collection as it is downloaded: the fetching, and what then belongs together.

The Imaging Data Commons mirrors the collection; `idc-index` (extra `tcia`) carries its index, so
that size and licence are known before anything is fetched, and fetches with s5cmd, without an
account. Its extra segmentations by an AI (doi 10.5281/zenodo.8345959) are not fetched.
"""

import collections
import dataclasses
import fnmatch
import logging
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crlm_jax.data import dicom_files, dicom_seg
from crlm_jax.data.geometry import VolumeError

COLLECTION = "colorectal_liver_metastases"  # its name in the Imaging Data Commons
CITATION = """\
Simpson AL, Peoples J, Creasy JM, et al. Preoperative CT and Survival Data for Patients Undergoing
Resection of Colorectal Liver Metastases (Colorectal-Liver-Metastases). The Cancer Imaging Archive,
2023. https://doi.org/10.7937/QXK2-QG03
Simpson AL, Peoples J, Creasy JM, et al. Preoperative CT and survival data for patients undergoing
resection of colorectal liver metastases. Scientific Data 11:172, 2024.
https://doi.org/10.1038/s41597-024-02981-2"""
TUMOUR = "Tumor*"  # labels of the segments that count
# Segments that only the collection's own segmentations have. The Imaging Data Commons adds to each
# patient one or two of liver and tumour by an AI (doi 10.5281/zenodo.8345959), which are no truth.
OWN_SEGMENTS = ("Liver_Remnant", "Hepatic", "Portal")
# Where idc-index puts a series below the folder; `_folder` says the same.
_TEMPLATE = "%PatientID/%Modality_%SeriesInstanceUID"
# Without the AI's; of the index alone, which duckdb reads in a second and idc-index's client in 30.
_SERIES = """
    SELECT PatientID, SeriesInstanceUID, Modality, instanceCount, series_size_MB,
        license_short_name
    FROM read_parquet($file)
    WHERE collection_id = $collection AND analysis_result_id IS NULL
    ORDER BY PatientID, Modality
"""


class ImportFailed(ValueError):
    """The import cannot begin; the message names the option or folder, and the remedy."""


# The fetching


def download(folder: Path, *, yes: bool = False) -> bool:
    """Says what the collection is, asks, and fetches what of it is not in the folder yet.

    Args:
      folder: made if need be; each series gets a folder below that of its patient.
      yes: do not ask.

    Returns:
      Whether it was fetched; False: the answer was no.

    Raises:
      ImportFailed: idc-index is not installed, nobody can be asked, the disk is too full, or what
        was fetched is not whole.
    """
    series = list_series()
    if not series:
        raise ImportFailed(f"this idc-index does not know {COLLECTION}: pip install -U idc-index")
    _check_names(series)
    print(describe(series))
    needed = _missing(folder, series)
    if not needed:
        print(f"{folder}: all of it is here already")
        return True
    if not _may(folder, needed, yes):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImportFailed(f"--dicom {folder}: cannot be written ({error.strerror})") from error
    from idc_index import IDCClient

    logging.getLogger("idc_index").setLevel(logging.ERROR)
    IDCClient().download_from_selection(
        downloadDir=str(folder),
        seriesInstanceUID=[one["SeriesInstanceUID"] for one in needed],
        dirTemplate=_TEMPLATE,
        use_s5cmd_sync=True,  # files that are there in their full size stay
    )
    # idc-index logs a failure and returns as if all were well.
    if absent := _missing(folder, series):
        raise ImportFailed(
            f"--dicom {folder}: {len(absent)} of {len(series)} series did not arrive whole; see to "
            "the network and run the same command again, which goes on from here"
        )
    return True


def _check_names(series: Sequence[dict[str, Any]]) -> None:
    """Refuses an index by which a file would come to lie outside the folder."""
    for one in series:
        for column in ("PatientID", "Modality", "SeriesInstanceUID"):
            if not re.fullmatch(r"\w[\w.-]*", one[column], re.ASCII):
                raise ImportFailed(
                    f"idc-index names a series' {column} {one[column]!r}, which is no folder's "
                    "name: pip install -U --force-reinstall idc-index-data"
                )


def list_series() -> list[dict[str, Any]]:
    """The collection's series, as the index that comes with idc-index has them; no network.

    Returns:
      PatientID, SeriesInstanceUID, Modality, instanceCount (files), series_size_MB (10⁶ bytes) and
      license_short_name of each.

    Raises:
      ImportFailed: idc-index is not installed.
    """
    try:
        import duckdb
        import idc_index  # noqa: F401  only to learn early that it is there
        import idc_index_data
    except ImportError as error:
        raise ImportFailed(
            "--download needs the package idc-index: pip install 'crlm_jax[tcia]'"
        ) from error
    asked = {"file": str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH), "collection": COLLECTION}
    with duckdb.connect() as database:
        found = database.execute(_SERIES, asked)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def describe(series: Sequence[dict[str, Any]]) -> str:
    """Size, licence and citation of the collection, from the index's rows of its series."""
    kinds = collections.Counter(one["Modality"] for one in series)
    licences = sorted({one["license_short_name"] for one in series})
    return (
        f"Colorectal-Liver-Metastases: {len({one['PatientID'] for one in series})} patients, "
        f"{len(series)} series ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}), "
        f"{sum(one['instanceCount'] for one in series)} files, {_gigabytes(series):.1f} GB\n"
        f"Licence: {', '.join(licences)}; cite:\n{CITATION}"
    )


def _gigabytes(series: Sequence[dict[str, Any]]) -> float:
    return sum(one["series_size_MB"] for one in series) / 1000


def _folder(folder: Path, one: dict[str, Any]) -> Path:
    return folder / one["PatientID"] / f"{one['Modality']}_{one['SeriesInstanceUID']}"


def _missing(folder: Path, series: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The series that have not all their files, or less than their bytes."""
    absent = []
    for one in series:
        sizes = [file.stat().st_size for file in _folder(folder, one).glob("*.dcm")]
        # The index rounds sizes.
        whole = sum(sizes) > 0.999 * 1e6 * one["series_size_MB"] - 1e4
        if len(sizes) < one["instanceCount"] or not whole:
            absent.append(one)
    return absent


def _may(folder: Path, needed: Sequence[dict[str, Any]], yes: bool) -> bool:
    """Is there room, and is it wanted?"""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, size = shutil.disk_usage(place).free / 1e9, _gigabytes(needed)
    if free < size:
        raise ImportFailed(
            f"--dicom {folder}: {size:.1f} GB to download, but {free:.1f} GB free; name a folder "
            "on another disk"
        )
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ImportFailed("nobody to ask whether to download; add --yes")
    try:
        answer = input(f"Download {len(needed)} series ({size:.1f} GB) to {folder}? [y/N] ")
    except EOFError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")


# What is there


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What the header of a segmentation says; `series` and `images` are those it was drawn on."""

    path: Path
    uid: str
    labels: tuple[str, ...]
    series: tuple[str, ...]  # Series Instance UIDs
    images: frozenset[str]  # SOP Instance UIDs

    def has(self, *patterns: str) -> bool:
        """Has it a segment with such a label, in upper or lower case?"""
        labels = [label.strip().lower() for label in self.labels]
        return any(fnmatch.filter(labels, pattern.lower()) for pattern in patterns)


@dataclasses.dataclass
class Files:
    """The files of a patient that matter."""

    images: dict[str, list[Path]]  # CT series UID to files
    segmentations: list[Path]
    unreadable: list[Path]


def find_patients(folder: Path) -> tuple[dict[str, Files], list[Path]]:
    """Sorts the DICOM files below a folder by Patient ID, from their headers alone.

    Returns:
      Patient ID to files; and the files that cannot be read and may be anybody's. One that lies
      among the files of a single patient counts as this patient's.

    Raises:
      ImportFailed: there is neither a CT nor a segmentation.
    """
    files = dicom_files.find_files(folder)
    patients: dict[str, Files] = collections.defaultdict(lambda: Files({}, [], []))
    within: dict[Path, set[str]] = collections.defaultdict(set)  # whose files a folder holds
    unreadable, instances = [], set()
    for file in tqdm(files, "scanning", unit="file", disable=None):
        try:
            about = dicom_files.identify(file)
        except VolumeError:
            unreadable.append(file)
            continue
        kind = None
        if "CT Image Storage" in about.kind:
            kind = "image"
        elif "Image Storage" not in about.kind and dicom_seg.is_segmentation(file):
            kind = "segmentation"
        # Whoever downloaded in two ways has some files twice.
        if kind is None or (about.instance and about.instance in instances):
            continue
        instances.add(about.instance)
        for place in file.relative_to(folder).parents:
            within[place].add(about.patient)
        mine = patients[about.patient]
        if kind == "image":
            mine.images.setdefault(about.series, []).append(file)
        else:
            mine.segmentations.append(file)
    if not patients and not unreadable:
        what = f"none of its {len(files)} DICOM files is a CT or a segmentation"
        raise ImportFailed(f"--dicom {folder}: {what if files else 'no DICOM file'}; name another")
    strays = []
    for file in unreadable:  # it is the patient's whose files surround it most closely
        around = next((within[p] for p in file.relative_to(folder).parents if p in within), set())
        (patients[next(iter(around))].unreadable if len(around) == 1 else strays).append(file)
    return dict(patients), strays


def blame(file: Path) -> str:
    """Says that a file cannot be read, and what to do."""
    return f"{file}: not a DICOM file, or cut off or damaged; copy it again or take it away"


def find_clinical(folder: Path, given: Path | None) -> Path | None:
    """Finds the collection's clinical table by its name; None: there is none.

    Raises:
      ImportFailed: there are several and none is `given`, or the one given is not there.
    """
    if given is not None:
        if not given.is_file():
            raise ImportFailed(f"--clinical {given}: file not found; correct the path")
        return given
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in (".xlsx", ".xls", ".csv")
        and "clinical" in file.name.lower()
        and not file.name.startswith((".", "~$"))  # of the system, or open in a spreadsheet
        and file.is_file()
    ]
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found)
        raise ImportFailed(f"--dicom {folder}: several clinical tables ({names}); use --clinical")
    return found[0] if found else None


def choose_segmentation(paths: Sequence[Path]) -> tuple[Segmentation, str]:
    """Returns a patient's segmentation of the tumours, and a note of what was left aside for it.

    Of several with tumour it is the one with the collection's other segments (`OWN_SEGMENTS`).

    Raises:
      VolumeError: there is none with tumour, or not just one; or a file cannot be read.
    """
    if not paths:
        raise VolumeError("no segmentation among its files; download them again, with modality SEG")
    found = [_read_header(path) for path in paths]
    chosen = [one for one in found if one.has(TUMOUR)]
    if not chosen:
        labels = ", ".join(dict.fromkeys(repr(label) for one in found for label in one.labels))
        raise VolumeError(
            f"{', '.join(str(one.path) for one in found)}: no segment is labelled {TUMOUR!r} (its "
            f"labels are {labels}); take the patient's own segmentation"
        )
    if len(chosen) > 1:
        chosen = [one for one in chosen if one.has(*OWN_SEGMENTS)] or chosen
    if len(chosen) > 1:
        names = " and ".join(f"{one.path} (series {one.uid})" for one in chosen)
        raise VolumeError(f"{len(chosen)} segmentations with tumour: {names}; keep one of them")
    aside = [one.uid for one in found if one is not chosen[0]]
    return chosen[0], f"left aside: segmentation {', '.join(aside)}" if aside else ""


def _read_header(path: Path) -> Segmentation:
    tags = ["SeriesInstanceUID", "ReferencedSeriesSequence", "SegmentSequence"]
    header = dicom_files.read_file(path, stop_before_pixels=True, specific_tags=tags)
    with dicom_files.sound(path):
        references = header.get("ReferencedSeriesSequence") or ()
        return Segmentation(
            path,
            str(header.SeriesInstanceUID),
            tuple(str(one.get("SegmentLabel") or "") for one in header.SegmentSequence),
            tuple(str(one.SeriesInstanceUID) for one in references),
            frozenset(
                str(item.ReferencedSOPInstanceUID)
                for one in references
                for item in one.get("ReferencedInstanceSequence") or ()
            ),
        )


def choose_series(segmentation: Segmentation, images: dict[str, list[Path]]) -> str:
    """Returns the UID of the CT series (of `images`: UID to files) that it was drawn on.

    Raises:
      VolumeError: that series is not there, or it may be any of several.
    """
    if not images:
        raise VolumeError("no CT series among its files; download them again, with modality CT")
    fitting = [uid for uid in images if uid in segmentation.series or not segmentation.series]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise VolumeError(
            f"{segmentation.path}: may be drawn on any of the series {', '.join(fitting)}; keep "
            "the one that it belongs to"
        )
    raise VolumeError(
        f"{segmentation.path}: drawn on series {', '.join(segmentation.series)}, which is not "
        f"among the patient's ({', '.join(images)}); download it too"
    )
